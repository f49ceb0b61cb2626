"""Losses of depth. Maps are [..., H, W]; a loss is [...], one number per map.

Sources: MiDaS (Ranftl et al., arXiv 1907.01341), section 5: scale and shift by least squares, by
median and mean deviation, gradients over scales; Eigen et al. (arXiv 1406.2283): SILog.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..layers.scale_shift import fit_scale_shift

Array = jax.Array


def _flat(x: Array) -> Array:
    return x.reshape(*x.shape[:-2], -1)


def _mean(values: Array, mask: Array) -> Array:
    """Mean over the last axis where ``mask``; 0 if nowhere."""
    count = mask.sum(axis=-1).astype(values.dtype)
    total = jnp.where(mask, values, 0.0).sum(axis=-1)
    return total / jnp.maximum(count, 1.0)


def aligned_loss(prediction: Array, target: Array, mask: Array) -> Array:
    """Mean squared error after the best scale and shift; 0 and without gradient for an empty mask.

    prediction, target [..., H, W], mask bool: where ``target`` is known.
    """
    x, y, known = _flat(prediction), jnp.where(mask, target, 0.0), _flat(mask)
    y = _flat(y)
    scale, shift, _ = fit_scale_shift(x, y, known)
    return _mean((scale[..., None] * x + shift[..., None] - y) ** 2, known)


def normalised(depth: Array, mask: Array) -> Array:
    """(depth - median) / mean |depth - median| over the mask, [..., H, W]."""
    flat, known = _flat(depth), _flat(mask)
    middle = jnp.nanmedian(jnp.where(known, flat, jnp.nan), axis=-1, keepdims=True)
    middle = jnp.where(jnp.isnan(middle), 0.0, middle)
    spread = _mean(jnp.abs(flat - middle), known)[..., None]
    return ((flat - middle) / jnp.maximum(spread, 1e-6)).reshape(depth.shape)


def median_loss(prediction: Array, target: Array, mask: Array) -> Array:
    """Mean |difference| of the :func:`normalised` maps; 0 for an empty mask."""
    target = jnp.where(mask, target, 0.0)
    apart = jnp.abs(normalised(prediction, mask) - normalised(target, mask))
    return _mean(_flat(apart), _flat(mask))


def gradient_loss(prediction: Array, target: Array, mask: Array, scales: int = 4) -> Array:
    """Mean |gradient| of the difference of two aligned maps, over ``scales`` halvings: edges stand
    where they are, and what is flat stays flat."""
    apart, total = prediction - jnp.where(mask, target, 0.0), jnp.zeros(prediction.shape[:-2])
    for scale in range(scales):
        step = 2**scale
        d, m = apart[..., ::step, ::step], mask[..., ::step, ::step]
        for axis in (-2, -1):
            n = d.shape[axis]
            if n < 2:
                continue
            cut = lambda a, i, axis=axis, n=n: jax.lax.slice_in_dim(a, i, n - 1 + i, axis=axis)
            both = cut(m, 0) & cut(m, 1)
            total = total + _mean(_flat(jnp.abs(cut(d, 1) - cut(d, 0))), _flat(both))
    return total


def silog_loss(prediction: Array, target: Array, mask: Array, focus: float = 0.85) -> Array:
    """sqrt(mean e^2 - focus mean(e)^2) of e = log prediction - log target, for metric depth."""
    known = _flat(mask)
    safe = lambda a: jnp.where(known, jnp.maximum(_flat(a), 1e-6), 1.0)
    e = jnp.log(safe(prediction)) - jnp.log(safe(target))
    inside = _mean(e * e, known) - focus * _mean(e, known) ** 2
    return jnp.sqrt(jnp.maximum(inside, 1e-12))
