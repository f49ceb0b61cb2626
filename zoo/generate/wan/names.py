"""Wan by name."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ....layers.streaming import Fields
from ...registry import Card, register
from .model import Wan, WanConfig

FACTS: Fields = dict(
    paper="Wan Team, Wan: Open and Advanced Large-Scale Video Generative Models (arXiv 2503.20314)",
    frame_rate=16.0,
    value_range=(-1.0, 1.0),
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    streaming=False,
)
SIZES = {
    "wan-tiny": WanConfig(
        channels=16, image_size=(8, 8), dim=128, hidden=512, depth=4, heads=4, frequencies=64,
        text_dim=64, text_length=8,
    ),
    "wan2.1-1.3b": WanConfig(),
    "wan2.1-14b": WanConfig(dim=5120, hidden=13_824, depth=40, heads=40),
}  # fmt: skip


def some_latents(module: Any, card: Card) -> tuple:
    """The arguments of ``module.init`` after the key: one block of latents of one stream."""
    del card
    c = module.config
    return (
        jnp.zeros((1, c.block, *c.frame_shape)),
        jnp.zeros((1, c.block)),
        jnp.zeros((1, c.text_length, c.text_dim)),
    )


for name, config in SIZES.items():
    summary = "video latents from noise and a text: teacher, causal student and stream in one body"
    height, width = config.image_size
    card = Card(name, summary=summary, input_size=(8 * height, 8 * width), **FACTS)
    register(name, Wan, config, card, inputs=some_latents)
