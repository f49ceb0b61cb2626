"""The scale between two point maps or depth maps, by least absolute distances.

Iteratively reweighted least squares: a pixel weighs the inverse of how far it is off. Source: LASER
(github.com/neu-vi/LASER, inference_engine/inference_utils.py and utils/depth.py), whose streams
stop as soon as the scale moves by less than 0.05.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array
SMALLEST = 1e-6  # scale


def _reweighted(
    start: Array, sums: Callable[[Array], tuple[Array, Array]], rounds: int, stop: float
) -> Array:
    """``sums``: scale -> weighted (p q, p p). Elements that have stopped stay."""

    def turn(_: int, state: tuple[Array, Array]) -> tuple[Array, Array]:
        scale, done = state
        both, own = sums(scale)
        new = jnp.maximum(both / jnp.where(own > 0, own, 1.0), SMALLEST)
        new = jnp.where(own > 0, new, scale)
        return jnp.where(done, scale, new), done | (jnp.abs(new - scale) < stop)

    start = jnp.maximum(start, SMALLEST)
    return jax.lax.fori_loop(0, rounds, turn, (start, jnp.zeros(start.shape, bool)))[0]


def point_scale(
    source: Array, target: Array, mask: Array | None = None, rounds: int = 10, stop: float = 0.05
) -> Array:
    """The scale of least sum |s p - q| over points [..., N, 3] where ``mask`` [..., N]: [...].

    It is at least 1e-6; without a point it is that. ``stop``: an element ends when its scale moves
    by less.
    """
    w0 = jnp.ones(source.shape[:-1], jnp.float32) if mask is None else mask.astype(jnp.float32)
    p, q = source.astype(jnp.float32), target.astype(jnp.float32)
    if mask is not None:  # what is masked may hold anything, an infinite sky too
        p, q = (jnp.where(mask[..., None], a, 0.0) for a in (p, q))
    dot = lambda a, b: (a * b).sum(axis=-1)

    def sums(scale: Array) -> tuple[Array, Array]:
        off = jnp.sqrt(dot(*[scale[..., None, None] * p - q] * 2))
        w = w0 / (off + 1e-8)
        return (w * dot(p, q)).sum(axis=-1), (w * dot(p, p)).sum(axis=-1)

    own = (w0 * dot(p, p)).sum(axis=-1)
    start = (w0 * dot(p, q)).sum(axis=-1) / jnp.where(own > 0, own, 1.0)
    return _reweighted(start, sums, rounds, stop)


def depth_scales(
    source: Array,
    target: Array,
    segment: Array,
    segments: int,
    rounds: int = 10,
    stop: float = 0.05,
) -> Array:
    """The scale of least sum |s p - q| for each segment of pixels at once: [segments].

    Args:
      source, target: depth [N].
      segment: int [N], 0 .. segments - 1; others count nowhere.

    A segment without pixels has the scale 1e-6: ask only for those that have some.
    """
    p, q = source.astype(jnp.float32), target.astype(jnp.float32)
    total = lambda a: jax.ops.segment_sum(a, segment, segments)

    def sums(scale: Array) -> tuple[Array, Array]:
        w = 1 / (jnp.abs(scale[jnp.clip(segment, 0, segments - 1)] * p - q) + 1e-8)
        return total(w * p * q), total(w * p * p)

    own = total(p)
    return _reweighted(total(q) / jnp.where(own > 0, own, 1.0), sums, rounds, stop)
