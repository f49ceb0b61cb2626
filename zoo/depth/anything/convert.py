"""Depth Anything as transformers saves it and the hub holds it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...config_json import settings
from ...convert import Config, Converter, ConvertError, Plan, register_converter
from ...encode.dino.convert import plan_dinov2
from ...registry import model_config
from ...rules import need
from ..rules import UNUSED, depth_plan, encoder_of, head_rules, in_encoder, neck_rules

DEFAULTS = {
    "depth_estimation_type": "relative",
    "max_depth": 1,
    "reassemble_factors": [4, 2, 1, 0.5],
}
OUT = (9, 10, 11, 12)  # of transformers' config class


def _layers(backbone: Mapping[str, Any]) -> tuple[int, ...]:
    """The blocks that are read, from 0; the file counts stages, the stem being 0."""
    if backbone.get("out_indices"):
        stages = backbone["out_indices"]
    else:
        named = backbone.get("out_features") or [f"stage{i}" for i in OUT]
        stages = [int(name.removeprefix("stage")) for name in named]
    if len(stages) != 4 or min(stages) < 1:
        raise ConvertError(f"Depth Anything: config.json reads stages {stages}, not four of them")
    return tuple(int(stage) - 1 for stage in stages)


def _plan(tensors: Mapping[str, np.ndarray], config: Config) -> Plan:
    shown = settings(config, "Depth Anything", DEFAULTS)
    if tuple(shown["reassemble_factors"]) != (4, 2, 1, 0.5):
        raise ConvertError(f"Depth Anything: factors {shown['reassemble_factors']} are not known")
    backbone = shown.get("backbone_config") or {"hidden_size": 384, "num_attention_heads": 6}
    inner = {k: v for k, v in tensors.items() if k.startswith("backbone.")}
    body = plan_dinov2(inner, {**backbone, "model_type": "dinov2"})
    widths = (need(tensors, f"neck.convs.{i}.weight", "Depth Anything").shape for i in range(4))
    first, last = (need(tensors, f"head.conv{i}.weight", "Depth Anything") for i in (1, 3))
    metric = shown["depth_estimation_type"] == "metric"
    if not metric and shown["max_depth"] not in (None, 1):
        raise ConvertError(f"Depth Anything: relative depth times {shown['max_depth']}: not known")
    fields = {
        "encoder": encoder_of(model_config(body.model, **body.overrides)),
        "layers": _layers(backbone),
        "widths": tuple(shape[1] for shape in widths),
        "fused": first.shape[1],
        "hidden": last.shape[1],
        "max_depth": float(shown["max_depth"]) if metric else 0.0,
    }
    rules = in_encoder(body.rules) + neck_rules(readout=False)
    rules += head_rules(*(rf"head\.conv{i}" for i in (1, 2, 3)))
    return depth_plan(("depthanything-*",), fields, rules, (*body.ignore, UNUSED))


def _plan_temporal(tensors: Mapping[str, np.ndarray], config: Config) -> Plan:
    plan = _plan(tensors, config)
    name = plan.model.replace("depthanything", "temporaldepth")
    overrides = {"depth": dict(plan.overrides)} if plan.overrides else {}
    return dataclasses.replace(plan, model=name, overrides=overrides)


def _detect(keys: frozenset[str], config: Config) -> bool:
    if config and config.get("model_type", "depth_anything") != "depth_anything":
        return False
    return {"head.conv1.weight", "backbone.embeddings.cls_token"} <= keys


register_converter(
    Converter(
        "depth-anything-transformers",
        _detect,
        _plan,
        "Depth Anything V1 and V2, relative or metric, as transformers saves them",
    )
)
register_converter(
    Converter(
        "depth-anything-temporal",
        lambda keys, config: False,
        _plan_temporal,
        "Depth Anything, made steady over time",
        models="temporaldepth-*",
    )
)
