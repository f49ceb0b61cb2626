"""Steady depth by name: the weights are those of Depth Anything."""

from __future__ import annotations

import dataclasses

from ...registry import model_card, model_config, register
from ..anything.names import NAMED
from .model import TemporalDepth, TemporalDepthConfig

for _name in NAMED:
    _card = model_card(_name)
    _own = _name.replace("depthanything", "temporaldepth")
    register(
        _own,
        TemporalDepth,
        TemporalDepthConfig(model_config(_name)),
        dataclasses.replace(
            _card,
            name=_own,
            arch="",
            tag="",
            summary=_card.summary.replace("single frames", "streams, made steady"),
            overrides={"depth": dict(_card.overrides)} if _card.overrides else {},
        ),
    )
