"""GTCRN by name."""

from __future__ import annotations

from ...registry import Card, register
from ..hearing import RATE, some_audio
from .model import GTCRN, GTCRNConfig

register(
    "gtcrn",
    GTCRN,
    GTCRNConfig(),
    Card(
        "gtcrn",
        summary="speech without its noise, 16 ms at a time, 48 thousand parameters",
        licence="MIT",
        paper="GTCRN (Rong et al., ICASSP 2024)",
        input_size=(1, 1),  # no pictures
        frame_rate=float(RATE),
        value_range=(-1.0, 1.0),
        latency=GTCRNConfig().size - 1,
    ),
    inputs=some_audio,
)
