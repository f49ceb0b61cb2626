"""Moonshine v2 by name, and its encoder."""

from __future__ import annotations

from ....layers.streaming import Fields
from ...registry import Card, register
from ..hearing import RATE, some_audio
from .model import MoonshineEncoder, MoonshineEncoderConfig
from .words import Moonshine2, Moonshine2Config

FACTS: Fields = dict(
    licence="MIT",
    paper="Moonshine v2 (Useful Sensors), transformers' moonshine_streaming",
    input_size=(1, 1),  # no pictures
    frame_rate=float(RATE),
    value_range=(-1.0, 1.0),
    latency=3840,
)

register(
    "moonshine2-encoder-tiny",
    MoonshineEncoder,
    MoonshineEncoderConfig(),
    Card(
        "moonshine2-encoder-tiny",
        summary="features of speech, 50 per second, final after 240 ms",
        **FACTS,
    ),
    inputs=some_audio,
)

register(
    "moonshine2-tiny",
    Moonshine2,
    Moonshine2Config(),
    Card("moonshine2-tiny", summary="words of English while they are spoken", **FACTS),
    inputs=some_audio,
)
