"""Robust Video Matting by name."""

from __future__ import annotations

from ...registry import Card, register
from .model import RVM, RVMConfig

register(
    "rvm-mobile",
    RVM,
    RVMConfig(),
    Card(
        "rvm-mobile",
        summary="how much of each pixel is a person, steady over time, 3.7 M parameters",
        paper="Lin et al., Robust High-Resolution Video Matting (arXiv 2108.11515)",
        input_size=(288, 512),
        mean=(0.0, 0.0, 0.0),  # frames come as 0 to 1
        std=(1.0, 1.0, 1.0),
        classes=("person",),
    ),
)
