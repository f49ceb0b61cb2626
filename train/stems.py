"""Frozen stems for training: their weights, and features computed once per frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .. import zoo
from ..layers.streaming import Array, Params
from ..zoo.encode.stems import PRETRAINED, make_stem
from ..zoo.registry import Card
from ..zoo.trees import flatten
from .data.base import Source
from .data.kept import code, digest
from .data.stored import Featured

BATCH = 8  # frames at once: one shape, one compile


def stem_weights(stem: str) -> Params:
    """Parameters of a pretrained stem as a model with it holds them; {} for one without."""
    if stem not in PRETRAINED:
        return {}
    params = dict(zoo.load_weights(PRETRAINED[stem])["params"])
    for part in ("head_kernel", "head_bias", "fc"):
        params.pop(part, None)
    return params


def with_stem(variables: Params, stem: str) -> Params:
    """Variables of a model whose pretrained stem, if it has one, has its weights."""
    weights = stem_weights(stem)
    return {"params": {**variables["params"], **({"stem": weights} if weights else {})}}


def encoder(stem: str, card: Card) -> Callable[[np.ndarray], np.ndarray]:
    """frames [N, H, W, 3] uint8 -> features [N, h, w, F] float16 of a pretrained stem."""
    module, params = make_stem(stem), stem_weights(stem)

    @jax.jit
    def run(params: Params, frames: Array) -> Any:
        x = zoo.preprocess(frames, card)
        return module.apply({"params": params}, x, method="pyramid")

    def encode(frames: np.ndarray) -> np.ndarray:
        parts = []
        for low in range(0, len(frames), BATCH):
            pick = np.arange(low, low + BATCH).clip(max=len(frames) - 1)
            part = np.asarray(run(params, frames[pick]), np.float16)
            parts.append(part[: len(frames) - low])
        return np.concatenate(parts)

    return encode


def featured(source: Source, stem: str, card: Card, cache: str | Path) -> Source:
    """``source`` with a pretrained stem's features as frames; itself for a stem that learns."""
    if stem not in PRETRAINED:
        return source
    return Featured(source, encoder(stem, card), cache, computed_by(stem, card))


def computed_by(stem: str, card: Card) -> str:
    """Who computes a stem's features: its weights, how frames are normalised, and the code."""
    weights = flatten({"params": stem_weights(stem)})
    flat = [part for name, a in sorted(weights.items()) for part in (name, np.asarray(a))]
    how = (stem, card.mean, card.std, card.value_range)
    made = "train/stems.py", "zoo/preprocess.py", "zoo/encode", "zoo/pose/palm"
    return digest(*how, *flat, code(*made))
