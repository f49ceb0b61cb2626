"""FlowVoice by name."""

from __future__ import annotations

from ...registry import Card, register
from ..hearing import RATE, some_audio
from .model import FlowVoice, FlowVoiceConfig

register(
    "flowvoice-s",
    FlowVoice,
    FlowVoiceConfig(),
    Card(
        "flowvoice-s",
        summary="sound as continuous tokens of 40 ms; a flow draws what may come next",
        paper="Flow-Omni; the head of Li et al. (arXiv 2406.11838) with a flow (arXiv 2210.02747)",
        input_size=(1, 1),  # no pictures
        frame_rate=float(RATE),
        value_range=(-1.0, 1.0),
    ),
    inputs=some_audio,
)
