"""Silero VAD by name."""

from __future__ import annotations

from ...registry import Card, register
from ..hearing import RATE, some_audio
from .model import SileroConfig, SileroVAD

register(
    "silero-vad",
    SileroVAD,
    SileroConfig(),
    Card(
        "silero-vad",
        summary="how likely it is that somebody speaks, every 32 ms",
        licence="MIT",
        paper="Silero VAD (Silero Team, github snakers4/silero-vad)",
        input_size=(1, 1),  # no pictures
        frame_rate=float(RATE),
        value_range=(-1.0, 1.0),
        classes=("speech",),
        latency=SileroConfig().block - 1,
    ),
    inputs=some_audio,
)
