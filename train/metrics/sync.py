"""How far sound and picture are apart: the shift at which loudness and motion go together best.

A measure for what was generated with sound, and for recordings: a clip whose sound is moved by some
frames has an offset that is so much larger. It tells the order of things in time, not lips.

Source: normalised cross-correlation of two signals, as in Slaney and Covell, "FaceSync" (NIPS
2000), with loudness and the change of the picture in place of their learned projection.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Sync(NamedTuple):
    """Attributes:
    offset: seconds by which the sound comes after the picture; negative: before it.
    score: the correlation there, -1 to 1. Near 0 the two have nothing to do with each other, and
      the offset means nothing.
    """

    offset: float
    score: float


def loudness(sound: np.ndarray, rate: float, fps: float, frames: int) -> np.ndarray:
    """sound [T] at ``rate`` Hz -> its root mean square while each of ``frames`` frames is shown."""
    edges = np.round(np.arange(frames + 1) * rate / fps).astype(int)
    pieces = (sound[a:b].astype(np.float64) for a, b in zip(edges, edges[1:], strict=False))
    return np.array([np.sqrt(np.square(p).mean()) if len(p) else 0.0 for p in pieces])


def motion(frames: np.ndarray) -> np.ndarray:
    """frames [T, H, W, C] -> mean absolute change of each from the frame before, [T]; first 0."""
    change = np.abs(np.diff(frames.astype(np.float32), axis=0)).mean(axis=(1, 2, 3))
    return np.concatenate([[0.0], change])


def sync_offset(loud: np.ndarray, moved: np.ndarray, fps: float, reach: float = 1.0) -> Sync:
    """The shift of at most ``reach`` seconds at which the two go together best.

    Args:
      loud, moved: [T], of the same frames (:func:`loudness`, :func:`motion`).

    Raises:
      ValueError: other shapes, a number that is none, or fewer frames than twice the reach.
    """
    if loud.shape != moved.shape or loud.ndim != 1:
        raise ValueError(
            f"loudness {list(loud.shape)} and motion {list(moved.shape)}: give one number per"
            " frame of both"
        )
    if not (np.isfinite(loud).all() and np.isfinite(moved).all()):
        raise ValueError("loudness or motion has a number that is none (nan or inf)")
    most = int(round(reach * fps))
    if len(loud) < 2 * most + 2:
        raise ValueError(
            f"{len(loud)} frames are too few to look {reach:g} s to both sides at {fps:g} frames/s;"
            f" give at least {2 * most + 2}, or a smaller reach"
        )
    scores = {lag: _together(loud, moved, lag) for lag in range(-most, most + 1)}
    best = max(scores, key=lambda lag: (scores[lag], -abs(lag)))
    return Sync(best / fps, scores[best])


def _together(loud: np.ndarray, moved: np.ndarray, lag: int) -> float:
    """Correlation of the frames that both have if the sound is ``lag`` frames late."""
    a, b = (loud[lag:], moved[: len(moved) - lag]) if lag >= 0 else (loud[:lag], moved[-lag:])
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 0 else 0.0
