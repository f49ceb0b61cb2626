"""Moonshine by name."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ....layers.streaming import Fields
from ...registry import Card, register
from ..hearing import RATE, some_audio
from .live import MoonshineLive
from .model import SHORTEST, Moonshine, MoonshineConfig

FACTS: Fields = dict(
    licence="MIT",
    paper="Jeffries et al., Moonshine (arXiv 2410.15608)",
    input_size=(1, 1),  # no pictures
    frame_rate=float(RATE),
    value_range=(-1.0, 1.0),
)
WHOLE: Fields = dict(streaming=False)
LIVE: Fields = dict(latency=7296)


def some_speech(module: Any, card: Card) -> tuple:
    """The arguments of ``module.init`` after the key: one feature's audio and one token."""
    del module, card
    return jnp.zeros((1, SHORTEST), jnp.float32), jnp.ones((1, 1), jnp.int32)


for size, config in {
    "tiny": MoonshineConfig(dim=288, hidden=1152, encoder=6, decoder=6),
    "base": MoonshineConfig(),
}.items():
    name = f"moonshine-{size}"
    summary = "words of an utterance, once it has ended; in English"
    register(
        name, Moonshine, config, Card(name, summary=summary, **FACTS, **WHOLE), inputs=some_speech
    )

    live = f"moonshine-live-{size}"
    card = Card(live, summary="words of English while they are spoken", **FACTS, **LIVE)
    register(live, MoonshineLive, config, card, inputs=some_audio)

register(
    "moonshine-base/en",
    Moonshine,
    MoonshineConfig(),
    Card(
        "moonshine-base/en",
        summary="words of an English utterance, once it has ended",
        source="pip:moonshine-cpp==0.1.4:moonshine_cpp/models/base-en/encoder_model.ort",
        sha256="9d1a19e044cbf89a207723d1adb667de89a5671a1e3e611b8ebe721b2c31219c",
        trained_on="200,000 hours of speech, by its authors",
        **FACTS,
        **WHOLE,
    ),
    inputs=some_speech,
)
