"""Attention that reads a few points of a pyramid of maps instead of every cell.

Source: Zhu et al., "Deformable DETR" (arXiv 2010.04159), section 4.1, equation 3. The numbers are
those of transformers' MultiScaleDeformableAttention: a point at 0 or 1 is the edge of the map, not
the middle of its first or last cell, and what lies outside of the map is zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from .streaming import DType

Array = jax.Array
Sizes = Sequence[tuple[int, int]]  # (height, width) of every map, the finest first


def read_points(values: Array, sizes: Sizes, places: Array, weights: Array) -> Array:
    """Weighted sums of what maps hold at places between their cells (bilinear).

    Args:
      values: [M, S, H, Dh], the cells of all maps, one map after the other, row by row.
      sizes: (height, width) of the L maps; their areas sum to S.
      places: [M, Q, H, L, P, 2], (x, y) as fractions of width and height.
      weights: [M, Q, H, L, P].

    Returns:
      [M, Q, H, Dh].

    Raises:
      ValueError: the maps have not as many cells as there are values.
    """
    if sum(h * w for h, w in sizes) != values.shape[1]:
        raise ValueError(f"maps {list(sizes)} have other cells than {values.shape[1]}")
    height, width = np.asarray(sizes, np.int32).T.reshape(2, 1, 1, 1, -1, 1)
    first = (np.cumsum(height * width) - (height * width).ravel()).astype(np.int32)
    first = first.reshape(height.shape)
    own = values.transpose(0, 2, 1, 3)  # [M, H, S, Dh]
    at = places.transpose(0, 2, 1, 3, 4, 5)  # [M, H, Q, L, P, 2]
    wide, high = (jnp.asarray(n, at.dtype) for n in (width, height))
    x, y = at[..., 0] * wide - 0.5, at[..., 1] * high - 0.5
    left, top = jnp.floor(x), jnp.floor(y)
    weight = weights.transpose(0, 2, 1, 3, 4)

    def corner(total: Array, away: Array) -> tuple[Array, None]:
        col, row = left + away[0], top + away[1]
        near = (1 - jnp.abs(x - col)) * (1 - jnp.abs(y - row)) * weight
        inside = (col >= 0) & (col < wide) & (row >= 0) & (row < high)
        near = jnp.where(inside, near, 0.0).astype(values.dtype)
        col, row = (
            jnp.clip(a.astype(jnp.int32), 0, n - 1) for a, n in ((col, width), (row, height))
        )
        cell = (first + row * width + col).reshape(*at.shape[:2], -1, 1)
        found = jnp.take_along_axis(own, cell, axis=2).reshape(*at.shape[:3], -1, own.shape[-1])
        return total + (found * near.reshape(*at.shape[:3], -1, 1)).sum(axis=3), None

    # one corner after the other: the four at once would need four times the memory
    start = jnp.zeros((*at.shape[:3], own.shape[-1]), values.dtype)
    corners = np.asarray([(0, 0), (1, 0), (0, 1), (1, 1)], np.float32)
    total, _ = jax.lax.scan(corner, start, jnp.asarray(corners, at.dtype))
    return total.transpose(0, 2, 1, 3)


class Deformable(nn.Module):
    """Deformable attention: queries say at which points around their references they read.

    Parameters: ``value`` and ``out`` [D, D], ``offsets`` [D, H L P 2] and ``weights`` [D, H L P].

    Attributes:
      dim, heads: width D, and heads H that divide it.
      levels, points: maps L, and points P of each that a head reads.
    """

    dim: int
    heads: int
    levels: int
    points: int
    dtype: DType = jnp.float32

    def setup(self):
        count = self.heads * self.levels * self.points
        self.value, self.out = (nn.Dense(self.dim, dtype=self.dtype) for _ in range(2))
        # at first all points of a head lie in one direction, as far as their number
        turn = np.arange(self.heads) * (2 * np.pi / self.heads)
        around = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
        around = around / np.abs(around).max(axis=-1, keepdims=True)
        far = around[:, None, None] * np.arange(1, self.points + 1)[:, None]
        start = np.broadcast_to(far, (self.heads, self.levels, self.points, 2)).reshape(-1)
        zeros = nn.initializers.zeros
        lay = lambda _, shape, dtype=jnp.float32: jnp.asarray(start, dtype).reshape(shape)
        self.offsets = nn.Dense(2 * count, kernel_init=zeros, bias_init=lay, dtype=self.dtype)
        self.weights = nn.Dense(count, kernel_init=zeros, dtype=self.dtype)

    def __call__(self, queries: Array, places: Array, memory: Array, sizes: Sizes) -> Array:
        """Queries [M, Q, D] read the maps ``memory`` [M, S, D] of ``sizes``.

        Args:
          queries: with their positions.
          places: [M, Q, 2] points x, y, whose offsets are in cells; or [M, Q, 4] boxes of middle
            and size, whose offsets reach half of the box at ``points``. Fractions of the frame.
          memory, sizes: as in :func:`read_points`.
        """
        shape = (*queries.shape[:2], self.heads, self.levels, self.points)
        offsets = self.offsets(queries).reshape(*shape, 2).astype(jnp.float32)
        weights = self.weights(queries).reshape(*shape[:3], -1).astype(jnp.float32)
        weights = nn.softmax(weights, axis=-1).reshape(shape)
        middle = places[:, :, None, None, None, :2].astype(jnp.float32)
        if places.shape[-1] == 4:
            size = places[:, :, None, None, None, 2:].astype(jnp.float32)
            at = middle + offsets / self.points * size * 0.5
        else:
            cells = np.asarray([(w, h) for h, w in sizes], np.float32)[None, None, None, :, None]
            at = middle + offsets / cells
        values = self.value(memory).reshape(*memory.shape[:2], self.heads, -1)
        y = read_points(values, sizes, at, weights)
        return self.out(y.reshape(*y.shape[:2], self.dim))
