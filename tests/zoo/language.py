"""Tiny language models for tests: random weights, and a tokenizer of bytes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from streamzoo.zoo.text import Decoder, DecoderConfig, Tokenizer

TINY = dict(
    vocabulary=300, dim=32, hidden=48, depth=2, heads=4, kv_heads=2, head_dim=8, start=0, end=299,
    eps=1e-6,
)  # fmt: skip


def tiny(**fields) -> Any:
    """(model, variables), everything off its initial value."""
    model = Decoder(DecoderConfig(**{**TINY, **fields}))
    init = jax.jit(lambda key: model.init(key, model.init_carry(1), jnp.zeros((1, 1), jnp.int32)))
    variables = {"params": init(jax.random.key(0))["params"]}
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    leaves = [a + 0.1 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return model, jax.tree.unflatten(tree, leaves)


def tokens(seed, batch, steps):
    return np.random.default_rng(seed).integers(0, 300, (batch, steps)).astype(np.int32)


def bytewise(template=""):
    """A tokenizer whose tokens are bytes, and <end>."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Inner

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Inner(models.BPE(vocab={a: i for i, a in enumerate(letters)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken("<end>", special=True, normalized=False)])
    return Tokenizer(inner, template)
