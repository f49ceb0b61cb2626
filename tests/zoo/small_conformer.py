"""A small FastConformer that says something of noise, its pieces, and a sound."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from streamzoo.zoo.speech.fastconformer.model import FastConformer, FastConformerConfig
from streamzoo.zoo.speech.fastconformer.pieces import SPACE

from .small_speech import AUDIO as LOUD

SIZES = dict(dim=8, hidden=16, heads=2, depth=2, channels=4, kernel=3, before=4, bands=16,
             vocabulary=5, predictor=6, most=2, ahead=1)  # fmt: skip
PIECES = ["a", f"{SPACE}b", f"{SPACE}c", "d", f"{SPACE}e"]
AUDIO = np.tile(LOUD, 2)[:40_000]


@functools.cache
def small():
    model = FastConformer(FastConformerConfig(**SIZES))
    shapes = jax.eval_shape(model.init, jax.random.key(1), model.init_carry(1), jnp.zeros((1, 1)))
    draw = np.random.default_rng(38)  # faster than the initialisers' program
    return model, jax.tree.map(lambda p: draw.normal(0, 1, p.shape).astype("f4"), shapes)
