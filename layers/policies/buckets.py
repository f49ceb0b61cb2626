"""Which rows stay by their score, where every stretch of time has room for a few (LiveVLM).

Source: LiveVLM, "Vision Sink Bucketing" (second version); see :mod:`.livevlm`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..streaming import Array

LATE = jnp.iinfo(jnp.int32).max


def bucketed(
    score: Array, bucket: Array, there: Array, most: int, room: int, first: int = 0
) -> Array:
    """The ``first`` best rows, then the best of every bucket.

    Args:
      score: [B, K].
      bucket: [B, K] int32.
      there: [B, K] bool, rows that there are.
      most: rows that stay at most.
      room: rows of a bucket, those of the ``first`` included; these may be more.
      first: best rows that stay whatever their bucket.

    Returns:
      [B, K] bool. With ``room >= most`` these are the ``most`` best rows.
    """
    rank = jnp.argsort(jnp.argsort(jnp.where(there, -score, jnp.inf), axis=1, stable=True), axis=1)
    bucket = jnp.where(there, bucket, LATE)
    order = jnp.lexsort((rank, bucket), axis=1)  # by bucket, the best of each first
    place = jnp.arange(score.shape[1])[None]
    along = jnp.take_along_axis(bucket, order, axis=1)
    begins = jnp.concatenate([jnp.ones_like(there[:, :1]), along[:, 1:] != along[:, :-1]], axis=1)
    start = jax.lax.cummax(jnp.where(begins, place, 0), axis=1)
    within = jnp.take_along_axis(place - start, jnp.argsort(order, axis=1), axis=1)
    wanted = there & ((within < room) | (rank < first))
    best = jnp.argsort(jnp.argsort(jnp.where(wanted, rank, LATE), axis=1), axis=1)
    return wanted & (best < most)
