"""ANCAT by name."""

from __future__ import annotations

from ...registry import Card, register
from ..hearing import RATE, some_audio
from .model import ANCAT, ANCATConfig

register(
    "ancat-s",
    ANCAT,
    ANCATConfig(),
    Card(
        "ancat-s",
        summary="words while they are spoken; each frame looks ahead as far as it wants to",
        paper="Sunkara et al., Adaptive Non-Causal Attention Transducer (arXiv 2305.04159)",
        input_size=(1, 1),  # no pictures
        frame_rate=float(RATE),
        value_range=(-1.0, 1.0),
        latency=ANCAT(ANCATConfig()).latency,
    ),
    inputs=some_audio,
)
