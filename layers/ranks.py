"""Arrays of unequal rank meet explicitly, so that a project that sets
``jax_numpy_rank_promotion="raise"`` can use these layers."""

from __future__ import annotations

import jax
import numpy as np

Array = jax.Array


def to_rank(a: Array, like: Array) -> Array:
    """``a`` with axes of length one in front: as many axes as ``like``, which has at least as
    many. What NumPy's broadcasting does in silence."""
    return jax.lax.broadcast_to_rank(a, like.ndim)


def add(a: Array, b: Array) -> Array:
    """a + b in the wider of two float types, which strict promotion wants to be said."""
    wider = np.promote_types(a.dtype, b.dtype)
    return a.astype(wider) + b.astype(wider)
