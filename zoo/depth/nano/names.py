"""The small depth model that comes with the package, by name."""

from __future__ import annotations

from ...encode.efficientnet.model import MEAN, STD
from ...registry import Card, register
from ..temporal.model import TemporalDepth, TemporalDepthConfig
from .model import NanoDepthConfig

register(
    "depth-nano",
    TemporalDepth,
    TemporalDepthConfig(NanoDepthConfig()),
    Card(
        "depth-nano",
        summary="inverse depth of streams, made steady: a small network on a frozen "
        "EfficientNet-Lite0",
        paper="after Ranftl et al., MiDaS (arXiv 1907.01341); the network is ours",
        input_size=(192, 256),
        mean=MEAN,
        std=STD,
        multi_label=False,
    ),
)
