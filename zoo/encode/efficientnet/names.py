"""EfficientNet-Lite by name."""

from __future__ import annotations

from ...registry import Card, register
from ..families import frame_input
from .model import MEAN, STD, EfficientNetLite, EfficientNetLiteConfig

PAPER = "Tan and Le, EfficientNet (arXiv 1905.11946), Lite variant"


register(
    "efficientnet-lite0",
    EfficientNetLite,
    EfficientNetLiteConfig(),
    Card(
        "efficientnet-lite0",
        summary="image encoder, 4.7 M parameters with its classifier; stem of the small students",
        paper=PAPER,
        mean=MEAN,
        std=STD,
        multi_label=False,
        streaming=False,
    ),
    inputs=frame_input,
)
