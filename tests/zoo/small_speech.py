"""A small streaming recogniser whose words change with what it hears, its tokens, and a sound."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from streamzoo.zoo.speech.moonshine.live import MoonshineLive
from streamzoo.zoo.speech.moonshine.model import MoonshineConfig
from streamzoo.zoo.speech.moonshine.tokens import SPACE

SIZES = dict(dim=16, hidden=32, heads=2, encoder=1, decoder=1, turned=4, vocabulary=12)
PIECES = [b"", b"", b"", *(f"{SPACE * (i % 3 > 0)}{c}".encode() for i, c in enumerate("abcdefghi"))]
AUDIO = np.random.default_rng(1).standard_normal(24_000).astype(np.float32) * np.repeat(
    [0.1, 0.9, 0.3, 1.0, 0.2, 0.6], 4000
).astype(np.float32)


@functools.cache
def small():
    model = MoonshineLive(MoonshineConfig(**SIZES, hop=3, ahead=3, past=40))
    variables = jax.jit(model.init)(jax.random.key(0), model.init_carry(1), jnp.zeros((1, 1)))
    # large weights, so that words change with what is heard, and a text that goes on
    variables = jax.tree.map(
        lambda p: p + 0.7 * jax.random.normal(jax.random.key(p.size), p.shape), variables
    )
    table = variables["params"]["embed"]
    table["embedding"] = table["embedding"].at[model.config.end].set(0)
    return model, variables


def tokenizer(path):
    """The file of the tokens, as Moonshine's is written."""
    path.write_bytes(b"".join(bytes([len(piece)]) + piece for piece in PIECES))
    return path
