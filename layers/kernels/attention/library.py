"""JAX's own attention: XLA's form on a TPU, XLA's or cuDNN's on a GPU."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .reference import causal_mask

Array = jax.Array


def unable(q, k, v, mask=None, bias=None, *, softcap=None, **options) -> str | None:
    """Why ``jax.nn.dot_product_attention`` cannot take these arguments, or None."""
    if softcap is not None:
        return f"softcap {softcap}: the library bounds no logits"
    if v.shape[-1] != k.shape[-1]:
        return f"v has head width {v.shape[-1]}, k {k.shape[-1]}: the library takes equal ones"
    return None


def attention(q, k, v, mask=None, bias=None, *, causal, window, softcap, scale) -> Array:
    """As :func:`~streamzoo.layers.kernels.attention.attention`, without ``softcap``."""
    del softcap
    if causal and q.shape[1] != k.shape[1] or window is not None:
        # the library aligns the first query with the first key, we the last with the last
        seen = jnp.asarray(causal_mask(q.shape[1], k.shape[1], window))[None, None]
        mask, causal = (seen if mask is None else mask & seen), False
    mask, bias = _four_axes(mask), _four_axes(bias)
    with jax.numpy_dtype_promotion("standard"):  # inside, it mixes bfloat16 and fp32
        y = jax.nn.dot_product_attention(q, k, v, bias, mask, scale=scale, is_causal=causal)
    if mask is None:
        return y
    # a query that sees nothing: the library gives the mean of all values
    some = jnp.broadcast_to(mask.any(-1), (*mask.shape[:2], q.shape[1]))
    return jnp.where(some.swapaxes(1, 2)[..., None], y, 0)


def _four_axes(a: Array | None) -> Array | None:
    return None if a is None else a.reshape((1,) * (4 - a.ndim) + a.shape)
