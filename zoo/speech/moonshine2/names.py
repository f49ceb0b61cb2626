"""Moonshine v2's encoder by name."""

from __future__ import annotations

from ...registry import Card, register
from ..hearing import RATE, some_audio
from .model import MoonshineEncoder, MoonshineEncoderConfig

register(
    "moonshine2-encoder-tiny",
    MoonshineEncoder,
    MoonshineEncoderConfig(),
    Card(
        "moonshine2-encoder-tiny",
        summary="features of speech, 50 per second, final after 240 ms; the decoder is not here",
        licence="MIT",
        paper="Moonshine v2 (Useful Sensors), transformers' moonshine_streaming",
        input_size=(1, 1),  # no pictures
        frame_rate=float(RATE),
        value_range=(-1.0, 1.0),
        latency=3840,
    ),
    inputs=some_audio,
)
