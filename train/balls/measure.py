"""How good a video of balls is: which ball, does it stay the same, does it move as balls do.

Everything is measured on latents, by comparison with all profiles that a ball can have, so no
network judges. The distance of distributions is that of Frechet between 24 fixed random features of
three frames each (Heusel et al., arXiv 1706.08500, with random features in the place of Inception).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from ...zoo.generate.balls.picture import CLASSES, HIGH, LOW, SIDE, WIDTHS, brightness
from .clips import FRAMES, clips

PLACES = np.linspace(LOW - 0.5, HIGH + 0.5, 97)
PROFILES = np.exp(
    -0.5 * np.square((np.arange(SIDE) - PLACES[None, :, None]) / np.asarray(WIDTHS)[:, None, None])
)  # [4, 97, 16]
FEATURES = np.random.default_rng(0).normal(size=(6 * SIDE, 24)) / np.sqrt(6 * SIDE)


class Balls(NamedTuple):
    """What frames show: classes [..., F], middles [..., F, 2] and squared misfits [..., F]."""

    classes: np.ndarray
    middles: np.ndarray
    misfit: np.ndarray


def seen(latents: np.ndarray) -> Balls:
    """The nearest ball of every frame; latents [..., F, 32]."""
    light = brightness(latents).astype(np.float64)  # [..., F, 2, 16]
    flat = PROFILES.reshape(-1, SIDE)
    square = np.square(light).sum(-1)[..., None] - 2 * light @ flat.T + np.square(flat).sum(-1)
    square = square.reshape(*light.shape[:-1], *PROFILES.shape[:2])  # [..., F, 2, 4, 97]
    best = square.min(-1).sum(-2)
    classes = best.argmin(-1)
    own = np.take_along_axis(square, classes[..., None, None, None], -2)[..., 0, :]
    return Balls(classes, PLACES[own.argmin(-1)], best.min(-1))


def features(latents: np.ndarray) -> np.ndarray:
    """Every three frames in a row of latents [B, F, 32] -> [n, 24]."""
    light = 2 * brightness(latents).reshape(*latents.shape[:2], -1).astype(np.float64) - 1
    threes = np.concatenate([light[:, i : i + 3] for i in range(light.shape[1] - 2)])
    return np.maximum(threes.reshape(len(threes), -1) @ FEATURES, 0)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Between the normal distributions of features a and b [n, 24]."""
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = np.sqrt(np.maximum(np.linalg.eigvals(cov_a @ cov_b).real, 0)).sum()
    apart = np.square(a.mean(0) - b.mean(0)).sum()
    return float(apart + np.trace(cov_a) + np.trace(cov_b) - 2 * root)


class Drift(NamedTuple):
    """A rollout of many streams in windows of 12 frames, the training horizon.

    Attributes:
      distance: of each window to real clips (:func:`frechet`).
      kept: per window, the share of streams whose ball is that of the first window.
      first, last: shares of the four classes in the first and the last window.
      jumps: share of frames away from the walls whose speed changes by more than a cell.
      seam: mean change between frames at a block's border over that inside.
    """

    distance: list[float]
    kept: list[float]
    first: list[float]
    last: list[float]
    jumps: float
    seam: float

    @property
    def growth(self) -> float:
        """The last window's distance over the first's."""
        return self.distance[-1] / self.distance[0]

    @property
    def bounce_growth(self) -> float:
        """The same of two windows each, the way of a ball there and back: where balls are in step,
        windows are near to real clips and far from them by turns, and that is no drift."""
        return sum(self.distance[-2:]) / sum(self.distance[:2])


def reference(seed: int = 99, count: int = 4000) -> np.ndarray:
    """Features of real clips."""
    times = np.broadcast_to(np.arange(3, dtype=np.float32), (count, 3))
    latents, _ = clips(jax.random.key(seed), jax.numpy.asarray(times))
    return features(np.asarray(latents).reshape(count, 3, -1))


def drift(latents: np.ndarray, real: np.ndarray, block: int = 3) -> Drift:
    """Measures streams [B, F, 32], F at least two windows; ``real``: of :func:`reference`."""
    count, windows = len(latents), latents.shape[1] // FRAMES
    cut = [slice(FRAMES * i, FRAMES * (i + 1)) for i in range(windows)]
    balls = seen(latents)
    votes = np.stack(
        [[np.bincount(row[c], minlength=4).argmax() for c in cut] for row in balls.classes]
    )
    shares = lambda column: (np.bincount(column, minlength=len(CLASSES)) / count).tolist()
    turn = np.abs(np.diff(balls.middles, 2, axis=1)).max(-1)
    inside = (balls.middles > LOW + 1.5) & (balls.middles < HIGH - 1.5)
    inside = np.all(inside, axis=-1)[:, 1:-1]
    change = np.abs(np.diff(latents[:, FRAMES:], axis=1)).mean((0, 2))
    border = np.arange(len(change)) % block == block - 1
    return Drift(
        [frechet(features(latents[:, c]), real) for c in cut],
        (votes == votes[:, :1]).mean(axis=0).tolist(),
        shares(votes[:, 0]),
        shares(votes[:, -1]),
        float((turn > 1)[inside].mean()),
        float(change[border].mean() / change[~border].mean()),
    )
