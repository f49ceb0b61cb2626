"""DTLN by name."""

from __future__ import annotations

from ...registry import Card, register
from ..hearing import RATE, some_audio
from .model import DTLN, DTLNConfig

register(
    "dtln",
    DTLN,
    DTLNConfig(),
    Card(
        "dtln",
        summary="speech without its noise, 8 ms at a time",
        licence="MIT",
        paper="DTLN (Westhausen and Meyer, arXiv 2005.07551)",
        input_size=(1, 1),  # no pictures
        frame_rate=float(RATE),
        value_range=(-1.0, 1.0),
        latency=DTLNConfig().size - 1,
    ),
    inputs=some_audio,
)
