"""TAEHV by name."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ...registry import Card, register
from .model import TAEHV, TAEHVConfig


def some_latents(module: Any, card: Card) -> tuple:
    """The arguments of ``module.init`` after the key: a carry and one latent."""
    del card
    c = module.config
    return module.init_carry(1), jnp.zeros((1, 1, *c.grid, c.latent), jnp.float32)


register(
    "taehv",
    TAEHV,
    TAEHVConfig(),
    Card(
        "taehv",
        summary="tiny autoencoder of video latents: a latent in, four frames out",
        licence="MIT",
        paper="madebyollin/taehv (github.com/madebyollin/taehv)",
        input_size=TAEHVConfig().image_size,
        frame_rate=16.0,
        value_range=(0.0, 1.0),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    ),
    inputs=some_latents,
)
