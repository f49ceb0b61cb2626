"""The encoders by name."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ..registry import Card, register
from .efficientnet_lite import EfficientNetLite, EfficientNetLiteConfig

# The network was trained on (x - 127) / 128.
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
PAPER = "Tan and Le, EfficientNet (arXiv 1905.11946), Lite variant"


def _frame(module: Any, card: Card) -> tuple:
    return (jnp.zeros((1, *module.config.image_size, 3)),)


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
    inputs=_frame,
)
