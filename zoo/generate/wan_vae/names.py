"""Wan's autoencoder by name."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ...registry import Card, register
from .model import WanVAE, WanVAEConfig


def some_latents(module: Any, card: Card) -> tuple:
    """The arguments of ``module.init`` after the key: a carry and one latent."""
    del card
    c = module.config
    return module.init_carry(1), jnp.zeros((1, 1, *c.grid, c.latent), jnp.float32)


register(
    "wan-vae",
    WanVAE,
    WanVAEConfig(),
    Card(
        "wan-vae",
        summary="Wan 2.1's autoencoder of video: a latent in, four frames out",
        licence="Apache-2.0",
        paper="Wan Team, Wan (arXiv 2503.20314)",
        input_size=WanVAEConfig().image_size,
        frame_rate=16.0,
        value_range=(-1.0, 1.0),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    ),
    inputs=some_latents,
)
