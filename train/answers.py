"""Teachers' answers in a training step: kept or computed, standardised by fixed figures.

B clips of T frames are N = B T images; Ds and Dp are a teacher's channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..layers.streaming import Params
from ..zoo.encode.adapters import Widths
from .teachers import FrozenTeacher
from .types import Batch

Array = jax.Array
FLOOR = 1e-2  # least deviation of a coordinate, over the root mean square of all: dead ones


def resized(frames: Array, size: tuple[int, int]) -> Array:
    """Images [N, H, W, 3] (floats) in another size, bilinear, antialiased."""
    if frames.shape[1:3] == tuple(size):
        return frames
    return jax.image.resize(frames, (len(frames), *size, frames.shape[-1]), "linear")


def unit_range(frames: Array) -> Array:
    """uint8 frames as floats in 0..1; floats as they are."""
    return frames.astype(jnp.float32) / 255 if frames.dtype == jnp.uint8 else frames


def answers(
    name: str,
    online: Mapping[str, FrozenTeacher],
    constants: Params,
    batch: Batch,
    frames: Array,
    size: tuple[int, int],
) -> dict[str, Array]:
    """What a teacher says about frames [B, T, H, W, 3] in 0..1, standardised where there are
    figures for it: ``summary`` [N, Ds], ``spatial`` [N, h, w, Dp], those that it has."""
    if name in online:
        seen = resized(frames.reshape(-1, *frames.shape[2:]), size)
        seen = seen.reshape(*frames.shape[:2], *seen.shape[1:])
        found = online[name].encode(constants["teachers"][name], seen)
        found = jax.lax.stop_gradient(found)
    else:
        names = {part: f"target_{name}_{part}" for part in Widths._fields}
        found = {part: batch[key] for part, key in names.items() if key in batch}
    found = {k: a.reshape(-1, *a.shape[2:]).astype(jnp.float32) for k, a in found.items()}
    figures = constants["statistics"].get(name, {})
    return {k: standardised(a, figures[k]) if k in figures else a for k, a in found.items()}


def standardised(y: Array, figures: Mapping[str, Array]) -> Array:
    """(y - mean) / deviation per coordinate, y [..., D]."""
    return (y - figures["mean"]) / figures["std"]


def measure(answers: Iterable[Mapping[str, Mapping[str, np.ndarray]]]) -> Params:
    """Mean and deviation of every coordinate of teachers' answers, over images and cells.

    answers: batches of name -> ``summary`` or ``spatial`` -> [..., D] -> name -> part -> ``mean``
    and ``std``, each [D]. A deviation is at least ``FLOOR`` of the root mean square of them all.
    """
    count: dict[tuple[str, str], float] = {}
    mean: dict[tuple[str, str], np.ndarray] = {}
    spread: dict[tuple[str, str], np.ndarray] = {}  # sum of squares about the mean
    for batch in answers:
        for name, parts in batch.items():
            for part, value in parts.items():
                at = (name, part)
                x = np.asarray(value, np.float64).reshape(-1, np.shape(value)[-1])
                n, m = len(x), x.mean(axis=0)
                s = ((x - m) ** 2).sum(axis=0)
                if at in count:  # two sets joined: Chan, Golub and LeVeque 1983
                    gap, both = m - mean[at], count[at] + n
                    s = spread[at] + s + gap**2 * count[at] * n / both
                    m = mean[at] + gap * n / both
                    n = both
                count[at], mean[at], spread[at] = n, m, s
    found: dict[str, Any] = {}
    for (name, part), n in count.items():
        std = np.sqrt(spread[name, part] / n)
        std = np.maximum(std, max(FLOOR * np.sqrt((std**2).mean()), 1e-8))
        figures = {"mean": mean[name, part], "std": std}
        found.setdefault(name, {})[part] = {k: np.float32(a) for k, a in figures.items()}
    return found
