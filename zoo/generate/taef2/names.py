"""TAEF2 by name."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ....layers.streaming import Array
from ...registry import Card, register
from .model import TAEF2, TAEF2Config


def some_frame(module: Any, card: Card) -> tuple[tuple[()], Array]:
    """The arguments of ``module.init`` after the key."""
    del card
    return module.init_carry(1), jnp.zeros((1, 1, *module.config.image_size, 3), jnp.float32)


register(
    "taef2",
    TAEF2,
    TAEF2Config(),
    Card(
        "taef2",
        summary="tiny autoencoder of FLUX.2's latents; frames of a video one by one",
        licence="MIT",
        paper="madebyollin/taesd (github.com/madebyollin/taesd)",
        input_size=TAEF2Config().image_size,
        value_range=(0.0, 1.0),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    ),
    inputs=some_frame,
)
