"""Runs a frozen image encoder over labelled videos, and measures what its features tell."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import zoo
from ..layers.streaming import Array, Params
from ..zoo.registry import Card
from .answers import resized, unit_range
from .data.base import Source
from .metrics.probe import accuracies


def described(
    model: Any, variables: Params, card: Card, source: Source, *, count: int = 64
) -> np.ndarray:
    """One vector per video [N, D']: the student's summary and the mean of its map side by side,
    mean over the frames. The frames come to the student's ``image_size``."""

    @jax.jit
    def run(variables: Params, frames: Array) -> Array:
        x = resized(unit_range(frames), model.config.image_size)
        out = model.apply(variables, zoo.preprocess(x, card))
        found = [] if out.pooled is None else [out.pooled]
        found.append(out.features.mean(axis=(1, 2)))
        return jnp.concatenate(found, axis=-1)

    frames = [source.read(i, 0, source.length(i)).frames for i in range(len(source))]
    owner = np.repeat(np.arange(len(source)), [len(f) for f in frames])
    flat = np.concatenate(frames)
    parts = []
    for low in range(0, len(flat), count):
        pick = np.arange(low, low + count).clip(max=len(flat) - 1)  # one shape, one compile
        parts.append(np.asarray(run(variables, flat[pick]))[: len(flat) - low])
    each = np.concatenate(parts)
    total = np.zeros((len(source), each.shape[1]))
    np.add.at(total, owner, each)
    return total / np.bincount(owner)[:, None]


def labels_of(source: Source) -> np.ndarray:
    """The class of every video [N], that of its first frame's first box."""
    return np.asarray([source.read(i, 0, 1).labels[0, 0].argmax() for i in range(len(source))])


def probed(
    model: Any, variables: Params, card: Card, train: Source, test: Source
) -> dict[str, float]:
    """``knn`` and ``probe``: top-1 of a frozen encoder's features on labelled videos."""
    features = [described(model, variables, card, source) for source in (train, test)]
    return accuracies(features[0], labels_of(train), features[1], labels_of(test))
