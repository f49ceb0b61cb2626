"""8-bit weights and activations: kernels per output channel, activations per token, int32 sums.

The convention is absmax / 127 on both sides; the sums of int8 products are exact in int32.
Source: Dettmers et al., "LLM.int8()" (arXiv 2208.07339), section 2.1, vector-wise quantisation.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from ..streaming import Array

LEVELS = 127


def per_row(x: Array) -> tuple[Array, Array]:
    """x [..., K] -> (int8 codes of its shape, fp32 scales [..., 1])."""
    x = x.astype(jnp.float32)
    scale = jnp.abs(x).max(-1, keepdims=True) / jnp.float32(LEVELS)
    codes = jnp.round(x / jnp.where(scale > 0, scale, 1))
    return jnp.clip(codes, -LEVELS, LEVELS).astype(jnp.int8), scale


def integer_product(codes: Array, kernel: Array) -> Array:
    """int8 [..., K] times int8 [K, O] -> int32 [..., O], exact up to K = 2^31 / 127^2."""
    contract = (((codes.ndim - 1,), (0,)), ((), ()))
    return lax.dot_general(codes, kernel, contract, preferred_element_type=jnp.int32)


def product(x: Array, kernel: Array, scale: Array) -> Array:
    """x [..., K] floats times int8 codes [K, O] with scales [O] (or [1, O]) -> fp32 [..., O]."""
    codes, own = per_row(x)
    total = integer_product(codes, kernel).astype(jnp.float32)
    return total * own * scale.reshape(scale.shape[-1])
