"""Marigold's path by name."""

from __future__ import annotations

from ...registry import Card, register
from .model import Marigold, MarigoldConfig

_config = MarigoldConfig()
register(
    "marigold-s",
    Marigold,
    _config,
    Card(
        "marigold-s",
        summary="Marigold's path on TAEF2 and a small Wan, without Stable Diffusion; to train",
        paper="Ke et al., Marigold (arXiv 2312.02145)",
        input_size=_config.image_size,
        value_range=(0.0, 1.0),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    ),
)
