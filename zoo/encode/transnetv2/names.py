"""TransNet V2 by name."""

from __future__ import annotations

import jax.numpy as jnp

from ...registry import Card, register
from .model import TransNetV2, TransNetV2Config

register(
    "transnetv2",
    TransNetV2,
    TransNetV2Config(),
    Card(
        "transnetv2",
        summary="finds the cuts between shots, 7.6 M parameters; answers a stream 98 frames late",
        paper="Soucek and Lokoc, TransNet V2 (arXiv 2008.04838)",
        input_size=(27, 48),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        multi_label=False,
        streaming=False,
    ),
    inputs=lambda module, card: (jnp.zeros((1, 4, *module.config.image_size, 3)),),
)
