"""Fewer tokens of a frame, or of a clip, by pooling; marks that say where a row or a frame ends.

Sources: Zhang et al., "LLaVA-Video" (arXiv 2410.02713) and its code, LLaVA-VL/LLaVA-NeXT; Xu et
al., "PLLaVA" (arXiv 2404.16994).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from ..positions import resample_table, resize_matrix
from ..streaming import Array

POOLS = ("average", "max", "bilinear")


def pool_grid(x: Array, stride: int, by: str = "bilinear") -> Array:
    """Maps [..., h, w, D] -> [..., h', w', D], ``stride`` times smaller.

    ``average`` and ``max`` leave out the cells of a last, incomplete step; ``bilinear`` rounds the
    size up and samples between cells (27 x 27 at stride 2: 13 or 14).

    Raises:
      ValueError: an unknown way, or a stride that leaves nothing.
    """
    if by not in POOLS:
        raise ValueError(f"pooling {by!r}: choose from {POOLS}")
    *lead, height, width, dim = x.shape
    if not 0 < stride <= min(height, width):
        raise ValueError(f"stride {stride} of a grid of {height} x {width}")
    if by == "bilinear":
        new = [math.ceil(side / stride) for side in (height, width)]
        rows, cols = (
            resize_matrix(old, side, "bilinear")
            for old, side in zip((height, width), new, strict=True)
        )
        return resample_table(x, rows, cols).astype(x.dtype)
    high, wide = height // stride, width // stride
    cells = x[..., : high * stride, : wide * stride, :].reshape(
        *lead, high, stride, wide, stride, dim
    )
    return cells.mean((-4, -2)) if by == "average" else cells.max((-4, -2))


def pool_square(x: Array, side: int) -> Array:
    """Means of the cells of a square grid: [..., S, D] -> [..., side * side, D]."""
    whole = round(x.shape[-2] ** 0.5)
    grid = x.reshape(*x.shape[:-2], whole, whole, x.shape[-1])
    small = pool_grid(grid, whole // side, "average")
    return small.reshape(*x.shape[:-2], -1, x.shape[-1])


def pool_clip(x: Array, size: Sequence[int]) -> Array:
    """Adaptive mean over time and space: [..., T, h, w, D] -> [..., *size, D], in x's type.

    Cell i of an axis is the mean from floor(i n / m) to ceil((i + 1) n / m), as torch's
    ``adaptive_avg_pool3d`` has it: neighbours may share an input.
    """
    for axis, new in zip((-4, -3, -2), size, strict=True):
        old = x.shape[axis]
        at = np.arange(new)[:, None]
        first, last = at * old // new, -(-(at + 1) * old // new)
        own = (np.arange(old) >= first) & (np.arange(old) < last)
        weights = own / own.sum(axis=1, keepdims=True)
        moved = jnp.tensordot(x.astype(jnp.float32), weights.astype(np.float32), ((axis,), (1,)))
        x = jnp.moveaxis(moved, -1, axis).astype(x.dtype)
    return x


def stretched(x: Array, frames: int) -> Array:
    """A clip [T, ...] with fewer than ``frames`` frames, each repeated in place, cut at ``frames``;
    a longer one as it is."""
    count = x.shape[0]
    return x if count >= frames else jnp.repeat(x, frames // count + 1, axis=0)[:frames]


def mark_rows(x: Array, mark: Array) -> Array:
    """A mark [D] behind every row of a grid: [..., h, w, D] -> [..., h * (w + 1), D]."""
    marks = jnp.broadcast_to(mark.astype(x.dtype), (*x.shape[:-2], 1, x.shape[-1]))
    marked = jnp.concatenate([x, marks], axis=-2)
    return marked.reshape(*x.shape[:-3], -1, x.shape[-1])


def mark_frames(x: Array, mark: Array) -> Array:
    """A mark [D] behind every frame: [..., N, D] -> [..., N + 1, D]."""
    marks = jnp.broadcast_to(mark.astype(x.dtype), (*x.shape[:-2], 1, x.shape[-1]))
    return jnp.concatenate([x, marks], axis=-2)


@dataclass(frozen=True)
class SlowFast:
    """Every ``period``-th frame with more tokens, the others with fewer.

    Attributes:
      period: frames from one slow frame to the next.
      slow, fast: strides of the grid.
      by: how cells are pooled.
    """

    period: int = 4
    slow: int = 2
    fast: int = 4
    by: str = "average"

    def init_carry(self, batch: int) -> Array:
        """[B] int32: frames since the last slow one; the first is slow."""
        return jnp.zeros(batch, jnp.int32)

    def __call__(
        self, carry: Array, x: Array, valid: Array | None = None
    ) -> tuple[Array, Array, Array]:
        """x [B, T, h, w, D] -> (carry, tokens [B, T, N, D], [B, T, N] bool: which of them there
        are); N are those of a slow frame, and a fast frame fills the first of them."""
        there = jnp.ones(x.shape[:2], bool) if valid is None else valid
        x = jnp.where(there[..., None, None, None], x, jnp.zeros((), x.dtype))
        rank = carry[:, None] + jnp.cumsum(there, axis=1, dtype=jnp.int32) - 1
        slow = jnp.mod(rank, self.period) == 0
        flat = lambda a: a.reshape(*a.shape[:2], -1, a.shape[-1])
        many, few = (flat(pool_grid(x, s, self.by)) for s in (self.slow, self.fast))
        short = many.shape[2] - few.shape[2]
        few = jnp.pad(few, ((0, 0), (0, 0), (0, short), (0, 0)))
        is_slow = slow[..., None, None]
        first = jnp.arange(many.shape[2]) < many.shape[2] - short
        stay = there[..., None] & (slow[..., None] | first[None, None])
        after = jnp.mod(carry + there.sum(axis=1, dtype=jnp.int32), self.period)
        return after, jnp.where(is_slow, many, few), stay
