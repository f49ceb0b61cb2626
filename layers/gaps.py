"""Gaps in a stream: frames that never came leave no trace.

Every layer with memory follows one rule, "hold": a frame with ``valid=False`` (it may hold NaN)
leaves the carry as it was and its output is zero. The clip form gets this by sorting the valid
frames of each stream to the front, running on the dense sequence and putting the outputs back.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Dense(NamedTuple):
    """Valid frames first; ``fresh`` of them exist. Axis legend as in ``layers``."""

    x: Array  # [B, T, ...] invalid frames at the end, zeroed
    fresh: Array  # [B] int32, number of valid frames
    order: Array  # [B, T] int32, where each dense frame came from


def _frames(mask: Array, like: Array) -> Array:
    return mask.reshape(mask.shape + (1,) * (like.ndim - mask.ndim))


def zero_invalid(x: Array, valid: Array | None) -> Array:
    """Zeros instead of whatever invalid frames hold. x [B, T, ...], valid [B, T] or None."""
    return x if valid is None else jnp.where(_frames(valid, x), x, jnp.zeros((), x.dtype))


def compact(x: Array, valid: Array | None) -> Dense:
    """Moves the valid frames of each stream to the front. x [B, T, ...], valid [B, T] or None."""
    batch, steps = x.shape[:2]
    if valid is None:
        order = jnp.broadcast_to(jnp.arange(steps, dtype=jnp.int32), (batch, steps))
        return Dense(x, jnp.full((batch,), steps, jnp.int32), order)
    order = jnp.argsort(~valid, axis=1, stable=True).astype(jnp.int32)
    dense = jnp.take_along_axis(zero_invalid(x, valid), _frames(order, x), axis=1)
    return Dense(dense, valid.sum(axis=1, dtype=jnp.int32), order)


def scatter(y: Array, dense: Dense, valid: Array | None) -> Array:
    """Undoes :func:`compact` on outputs y [B, T, ...]; invalid positions become zero."""
    if valid is None:
        return y
    inverse = jnp.argsort(dense.order, axis=1)
    return zero_invalid(jnp.take_along_axis(y, _frames(inverse, y), axis=1), valid)


def hold(new, old, keep: Array):
    """Per stream: the new carry where ``keep`` [B], else the old one, leaf by leaf."""
    return jax.tree.map(lambda n, o: jnp.where(_frames(keep, n), n, o), new, old)


def window_at(history: Array, start: Array, size: int) -> Array:
    """history [B, L, ...] -> frames start[b] .. start[b] + size - 1 of each stream."""
    cut = lambda h, s: jax.lax.dynamic_slice_in_dim(h, s, size, axis=0)
    return jax.vmap(cut)(history, start)
