"""The palm detector by name."""

from __future__ import annotations

from ...registry import Card, register
from .model import PalmConfig, PalmDetector

register(
    "palm-lite",
    PalmDetector,
    PalmConfig(),
    Card(
        "palm-lite",
        summary="palms in single frames: a box and 7 points of each, 0.98 M parameters",
        paper="Zhang et al., MediaPipe Hands (arXiv 2006.10214)",
        input_size=(192, 192),
        fit="letterbox",
        mean=(0.0, 0.0, 0.0),  # frames stay as they come, 0 to 1
        std=(1.0, 1.0, 1.0),
        classes=("palm",),
    ),
)
