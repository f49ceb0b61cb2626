"""BlazePose by name."""

from __future__ import annotations

from ...registry import Card, register
from .model import BlazePose, BlazePoseConfig

register(
    "blazepose-full",
    BlazePose,
    BlazePoseConfig(),
    Card(
        "blazepose-full",
        summary="33 points of one person, who is followed from frame to frame",
        licence="Apache-2.0",
        paper="Bazarevsky et al., BlazePose (arXiv 2006.10204)",
        input_size=(480, 480),
        fit="letterbox",
        mean=(0.0, 0.0, 0.0),  # frames stay as they come, 0 to 1
        std=(1.0, 1.0, 1.0),
        classes=("person",),
    ),
)
