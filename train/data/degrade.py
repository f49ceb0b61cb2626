"""Films as networks deliver them: frames lost, frozen, blurred, or squeezed.

Source of the kinds: DeViBench (pku-netvideo/DeViBench), questions about degraded video.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def drop(film: np.ndarray, level: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """``level`` of the frames never come: (film [F, H, W, 3], which are there [F] bool)."""
    there = np.random.default_rng(seed).random(len(film)) >= level
    there[:1] = True
    return film, there


def freeze(film: np.ndarray, level: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """``level`` of the time the picture stands still, for 4 to 12 frames at a time."""
    rng, out = np.random.default_rng(seed), np.array(film)
    chance, at = level / (8 - 7 * level), 1  # a stall is 8 frames in the mean
    while at < len(film):
        if rng.random() < chance:
            stop = min(len(film), at + int(rng.integers(4, 13)))
            out[at:stop] = out[at - 1]
            at = stop
        else:
            at += 1
    return out, np.ones(len(film), bool)


def blur(film: np.ndarray, level: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A mean over ``1 + 16 * level`` pixels each way."""
    del seed
    reach = round(8 * level)
    x = film.astype(np.float32)
    for axis in (1, 2):
        pad = [(0, 0)] * x.ndim
        pad[axis] = (reach, reach)
        wide = np.pad(x, pad, mode="edge")
        x = np.mean(
            [np.take(wide, np.arange(s, s + x.shape[axis]), axis) for s in range(2 * reach + 1)], 0
        )
    return x.astype(film.dtype), np.ones(len(film), bool)


def bitrate(film: np.ndarray, level: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of 8 x 8 whose detail is cut, as a low bitrate does: the cosine transform's numbers in
    steps of ``1 + 255 * level``."""
    del seed
    frames, height, width, channels = film.shape
    high, wide = -height % 8, -width % 8
    x = np.pad(film.astype(np.float32), ((0, 0), (0, high), (0, wide), (0, 0)), mode="edge")
    k, n = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
    basis = np.cos(np.pi * (2 * n + 1) * k / 16) * np.where(k == 0, 8**-0.5, 0.5)
    blocks = x.reshape(frames, x.shape[1] // 8, 8, x.shape[2] // 8, 8, channels)
    freq = np.einsum("ki,fyixjc,lj->fykxlc", basis, blocks, basis)
    step = 1 + 255 * level
    back = np.einsum("ki,fykxlc,lj->fyixjc", basis, np.round(freq / step) * step, basis)
    x = back.reshape(x.shape)[:, :height, :width]
    return np.clip(np.round(x), 0, 255).astype(film.dtype), np.ones(frames, bool)


KINDS: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    "drop": drop,
    "freeze": freeze,
    "blur": blur,
    "bitrate": bitrate,
}


def degrade(
    film: np.ndarray, kind: str, level: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A worse film.

    Args:
      film: uint8 [F, H, W, 3].
      kind: of :data:`KINDS`.
      level: from 0 (as it is) to 1.
      seed: of what is random.

    Returns:
      (film of the same shape, [F] bool: frames that are there).

    Raises:
      ValueError: an unknown kind, or a level outside 0..1.
    """
    if kind not in KINDS:
        raise ValueError(f"degradation {kind!r}: choose from {', '.join(KINDS)}")
    if not 0 <= level <= 1:
        raise ValueError(f"level {level}: from 0 to 1")
    return (film, np.ones(len(film), bool)) if level == 0 else KINDS[kind](film, level, seed)
