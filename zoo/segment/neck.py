"""Necks: from the maps of a trunk to the image embedding, and windows of a map.

Axis letters: B images, (h, w) the grid of a map, C or D channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ...layers.streaming import DType
from ...layers.transformer import layer_norm

Array = jax.Array


def to_windows(x: Array, window: int) -> Array:
    """x [B, h, w, C] -> [B * windows, window, window, C]; zeros fill up the last row and column."""
    batch, h, w, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, -h % window), (0, -w % window), (0, 0)))
    rows, cols = x.shape[1] // window, x.shape[2] // window
    x = x.reshape(batch, rows, window, cols, window, channels).swapaxes(2, 3)
    return x.reshape(-1, window, window, channels)


def from_windows(x: Array, size: Sequence[int]) -> Array:
    """The inverse of :func:`to_windows` for a map of ``size`` (h, w): [B, h, w, C]."""
    window, channels = x.shape[1], x.shape[3]
    rows, cols = -(-size[0] // window), -(-size[1] // window)
    x = x.reshape(-1, rows, cols, window, window, channels).swapaxes(2, 3)
    x = x.reshape(-1, rows * window, cols * window, channels)
    return x[:, : size[0], : size[1]]


def sine_positions(size: Sequence[int], dim: int, temperature: float = 10_000.0) -> np.ndarray:
    """Fixed 2-D positions of a map: [h, w, D], rows in the first half, columns in the second,
    sines and cosines alternating; cell i of n is at 2 pi (i + 1) / n.

    Source: Carion et al., DETR (arXiv 2005.12872), as SAM 2 uses it for its memories.
    """
    if dim % 4:
        raise ValueError(f"2-D sine positions need a width divisible by 4, not {dim}")
    half = dim // 2
    rate = temperature ** (2 * (np.arange(half) // 2) / half)

    def axis(n: int) -> np.ndarray:
        angle = np.arange(1, n + 1)[:, None] / (n + 1e-6) * 2 * np.pi / rate
        return np.where(np.arange(half) % 2 == 0, np.sin(angle), np.cos(angle))

    y, x = axis(size[0])[:, None], axis(size[1])[None]
    shape = (size[0], size[1], half)
    return np.concatenate([np.broadcast_to(y, shape), np.broadcast_to(x, shape)], axis=-1).astype(
        np.float32
    )


class ConvNeck(nn.Module):
    """1x1 and 3x3 convolution, each without bias and followed by a norm over channels.

    Source: Li et al., ViTDet (arXiv 2203.16527), as in SAM. [B, h, w, C] -> [B, h, w, D].
    """

    dim: int
    eps: float = 1e-6
    dtype: DType = jnp.float32

    def setup(self):
        self.conv1 = nn.Conv(self.dim, (1, 1), use_bias=False, dtype=self.dtype)
        self.conv2 = nn.Conv(self.dim, (3, 3), use_bias=False, dtype=self.dtype)
        self.norm1, self.norm2 = (layer_norm(self.eps, self.dtype) for _ in range(2))

    def __call__(self, x: Array) -> Array:
        return self.norm2(self.conv2(self.norm1(self.conv1(x))))


class FpnNeck(nn.Module):
    """Feature pyramid of 1x1 convolutions: maps of a trunk, fine to coarse, to width D.

    Levels in ``top_down`` add the level below them, doubled by repetition; ``levels`` of them come
    out, the finest first. ``lateral0`` is the finest.

    Source: Lin et al. (arXiv 1612.03144) as in SAM 2, where only the two coarsest levels mix.
    """

    dim: int = 256
    count: int = 4
    top_down: tuple[int, ...] = (2, 3)
    levels: int = 3
    dtype: DType = jnp.float32

    def setup(self):
        for i in range(self.count):
            setattr(self, f"lateral{i}", nn.Conv(self.dim, (1, 1), dtype=self.dtype))

    def __call__(self, maps: tuple[Array, ...]) -> tuple[Array, ...]:
        """maps: ``count`` of [B, h_i, w_i, C_i] -> ``levels`` of [B, h_i, w_i, D]."""
        found: list[Array] = []
        above = None
        for i in reversed(range(self.count)):
            x = getattr(self, f"lateral{i}")(maps[i])
            if above is not None and i in self.top_down:
                x = x + above.repeat(2, axis=1).repeat(2, axis=2)
            above = x
            found.append(x)
        return tuple(found[::-1][: self.levels])
