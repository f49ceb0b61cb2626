"""The hands by name."""

from __future__ import annotations

from ...registry import Card, register
from .model import HandConfig, Hands

register(
    "hand-lite",
    Hands,
    HandConfig(),
    Card(
        "hand-lite",
        summary="hands in single frames: 21 points of each, in one step with the palm detector",
        paper="Zhang et al., MediaPipe Hands (arXiv 2006.10214)",
        input_size=(320, 320),
        fit="letterbox",
        mean=(0.0, 0.0, 0.0),  # frames stay as they come, 0 to 1
        std=(1.0, 1.0, 1.0),
        classes=("hand",),
    ),
)
