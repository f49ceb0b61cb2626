"""JAX's own attention: cuDNN's or XLA's choice on an accelerator."""

from __future__ import annotations

import jax

Array = jax.Array


def attention(q: Array, k: Array, v: Array) -> Array:
    """q, k, v [M, N, H, Dh] -> [M, N, H, Dh]."""
    return jax.nn.dot_product_attention(q, k, v)
