"""The live models by name."""

from __future__ import annotations

from typing import Any

from ....layers.streaming import Fields
from ...encode.efficientnet.model import MEAN, STD
from ...registry import Card, register
from .model import LiveConfig, LiveModel

PAPER = (
    "Hierarchical Reasoning and Temporal Refinement Modules (HRM, TRM) after the article"
    " 'StreamingVLM: Real-Time Understanding Across Infinite Video Streams'; what it leaves open is"
    " ours (zoo/live)"
)
# 72 M parameters in the refinement: the article says 50-100 M
PUBLISHED: Fields = dict(dim=1024, hidden=4096, layers=4)


def _register(name: str, config: LiveConfig, summary: str, **look: Any) -> None:
    card = Card(name, summary=summary, paper=PAPER, input_size=config.image_size, **look)
    register(name, LiveModel, config, card)


_LITE0: Fields = dict(mean=MEAN, std=STD)
_register(
    "live-mi-lite0",
    LiveConfig(image_size=(128, 160)),
    "small, many cameras: EfficientNet-Lite0, HRM across streams, TRM of 0.4 M parameters",
    **_LITE0,
)
_register(
    "live-b-lite0",
    LiveConfig(**PUBLISHED),
    "many cameras: EfficientNet-Lite0, HRM across streams, TRM of 72 M parameters",
    **_LITE0,
)
_register(
    "live-b-tsa-ti16",
    LiveConfig(encoder="tsa-ti16", **PUBLISHED),
    "many cameras: a causal ViT-Ti student, HRM across streams, TRM of 72 M parameters",
)
_register(
    "live-b-dinov2-l14",
    LiveConfig(encoder="dinov2-l14", person_cells=1, **PUBLISHED),
    "many cameras: the article's sizes, ViT-L/14, HRM across streams, TRM of 72 M parameters",
)
