"""Weights of 1 to 4 bits that are learned with their scales (quantisation-aware training).

1 bit: sign(w) alpha (a weight of exactly 0 stays 0). 1.58 and 2 bits: stretched elastic
quantisation, whose levels lie evenly around zero: {-2/3, 0, 2/3} alpha and {-3/4, -1/4, 1/4, 3/4}
alpha. 3 and 4 bits: learned step size (LSQ), round(w / alpha) alpha. The gradient of a weight
passes inside the range alone; that of alpha is scaled by 1 / sqrt(numel Qp), where the stretched
forms keep LSQ's Qp.

Source: Liu et al., "ParetoQ" (arXiv 2502.02631) and facebookresearch/ParetoQ,
``models/utils_quant.py``; LSQ: Esser et al. (arXiv 1902.08153).
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from ..streaming import Array

BITS = (1, 1.58, 2, 3, 4)
LEAST = 1e-5
CLIP = 1 - 1e-2


def _range(bits: float) -> tuple[int, int]:
    if bits not in BITS:
        raise ValueError(f"ParetoQ has {', '.join(map(str, BITS))} bits, not {bits}")
    if bits < 2:
        return -1, 1
    return -(2 ** (int(bits) - 1)), 2 ** (int(bits) - 1) - 1


def _stretched(bits: float) -> tuple[float, float] | None:
    """(levels on a side, shift), None for the other forms."""
    return {1.58: (1.5, 0.0), 2: (2.0, 0.5)}.get(bits)


def first_alpha(w: Array, bits: float, axis: int = -2) -> Array:
    """The scale that training begins with, 1 in place of ``axis`` (the inputs of a kernel)."""
    size = jnp.abs(w)
    if bits == 1:
        return size.mean(axis, keepdims=True)
    most = size.max(axis, keepdims=True)
    return most if _stretched(bits) else most / _range(bits)[1]


def levels(w: Array, alpha: Array, bits: float) -> Array:
    """What is multiplied by alpha: integers of LSQ, fractions of the stretched forms."""
    if bits == 1:
        return jnp.sign(w)
    if stretched := _stretched(bits):
        n, shift = stretched
        return (jnp.round(jnp.clip(w / alpha, -CLIP, CLIP) * n - shift) + shift) / n
    return jnp.clip(jnp.round(w / alpha), *_range(bits))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def fake_quantise(w: Array, alpha: Array, bits: float) -> Array:
    """w, rounded to the levels of ``bits``; ``alpha`` broadcasts against it (one per output
    channel, or one for all). Differentiable in both."""
    alpha = jnp.maximum(alpha, LEAST)
    return levels(w, alpha, bits) * alpha


def _forward(w: Array, alpha: Array, bits: float):
    safe = jnp.maximum(alpha, LEAST)
    return levels(w, safe, bits) * safe, (w, safe, alpha)


def _backward(bits: float, kept, upstream: Array):
    w, safe, alpha = kept
    low, high = _range(bits)
    share = (w.size * high) ** -0.5
    ratio = w / safe
    least, most, bottom, top = low, high, low, high
    if stretched := _stretched(bits):
        n, shift = stretched
        least, most = -CLIP, CLIP
        bottom, top = -(n - shift) / n, (n - shift) / n
    small, big = ratio < least, ratio > most
    inside = ~(small | big)
    if bits == 1:
        slope = jnp.sign(w)
    else:
        slope = jnp.where(small, bottom, jnp.where(big, top, levels(w, safe, bits) - ratio))
    slope = slope * upstream * share
    for axis in range(w.ndim):
        if jnp.broadcast_shapes(w.shape, alpha.shape) != w.shape:
            raise ValueError(f"alpha {alpha.shape} does not broadcast to the weights {w.shape}")
        padded = (1,) * (w.ndim - alpha.ndim) + alpha.shape
        if padded[axis] == 1:
            slope = slope.sum(axis, keepdims=True)
    return jnp.where(inside, upstream, 0), slope.reshape(alpha.shape)


fake_quantise.defvjp(_forward, _backward)
