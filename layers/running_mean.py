"""The mean of all frames so far, of constant size.

The carry holds the mean and not a sum: a sum of a stream that runs for months outgrows float32.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

LONGEST = 1 << 30  # frames counted; from then on the oldest fade


class Count(NamedTuple):
    """Frames before a chunk, and of each frame of it how many there are with it."""

    before: Array  # [B] int32
    with_it: Array  # [B, T] float32
    after: Array  # [B] int32


def counted(before: Array, steps: int, fresh: Array | None = None) -> Count:
    """Counts ``steps`` frames, of which the first fresh[b] are real (None: all)."""
    fresh = jnp.full_like(before, steps) if fresh is None else fresh
    with_it = before[:, None] + jnp.arange(1, steps + 1, dtype=before.dtype)[None]
    after = jnp.minimum(before + fresh, LONGEST)
    return Count(before, with_it.astype(jnp.float32), after)


def running_mean(mean: Array, x: Array, count: Count, fresh: Array | None = None):
    """mean [B, D] of the frames before, x [B, T, D] -> (the mean after all, means y [B, T, D]).

    y[:, t] is the mean of everything up to and with frame t. fp32, whatever x is.
    """
    mean = mean.astype(jnp.float32)
    # what the new frames add to the mean, so that nothing large is summed
    off = jnp.cumsum(x.astype(jnp.float32) - mean[:, None], axis=1)
    y = mean[:, None] + off / count.with_it[..., None]
    if fresh is None:
        return y[:, -1], y
    last = jnp.take_along_axis(y, jnp.maximum(fresh - 1, 0)[:, None, None], axis=1)[:, 0]
    return jnp.where((fresh > 0)[:, None], last, mean), y
