"""Attention as two batched matrix products, with a gradient written out for the plain form.

With the heads outermost both products are plain ones, 1.5 times as fast on a CPU as the token-major
form. The written gradient keeps q, k, v and the rows and nothing else: automatic differentiation
would keep every step of the softmax, and a training step on a CPU waits for memory.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ...ranks import to_rank

Array = jax.Array


def attention(q: Array, k: Array, v: Array, mask=None, bias=None, **options) -> Array:
    """As :func:`~streamzoo.layers.kernels.attention.attention`."""
    return attention_with_rows(q, k, v, mask, bias, **options)[0]


def attention_with_rows(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    bias: Array | None = None,
    *,
    causal: bool = False,
    window: int | None = None,
    softcap: float | None = None,
    scale: float | None = None,
) -> tuple[Array, Array]:
    """As :func:`~streamzoo.layers.kernels.attention.attention`, and the weights.

    Returns:
      (y [M, N, H, Dv], rows [M, H, N, K] fp32: each sums to 1, or is 0 where a query sees nothing).

    Raises:
      ValueError: the key heads do not divide the query heads, or a window without ``causal``.
    """
    heads, groups = q.shape[2], k.shape[2]
    if heads % groups:
        raise ValueError(f"{groups} key heads do not divide {heads} query heads")
    if window is not None and not causal:
        raise ValueError("an attention window reaches into the past: it needs causal=True")
    if causal:
        seen = jnp.asarray(causal_mask(q.shape[1], k.shape[1], window))
        mask = seen if mask is None else mask & seen
    plain = mask is None and bias is None and softcap is None
    if heads == groups and plain and scale in (None, q.shape[-1] ** -0.5):
        return _plain(q, k, v)
    if heads != groups:
        k, v = (jnp.repeat(a, heads // groups, axis=2) for a in (k, v))
    q, k, v = (_heads_first(a) for a in (q, k, v))
    logits = _product(q, k.swapaxes(2, 3)) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    if bias is not None:
        logits = logits + to_rank(jnp.asarray(bias), logits)
    rows = _softmax(logits, mask)
    return _heads_first(rows.astype(v.dtype) @ v), rows


def causal_mask(queries: int, keys: int, window: int | None = None) -> np.ndarray:
    """[queries, keys] bool: what each query sees when the last query stands at the last key."""
    back = np.arange(queries)[:, None] + (keys - queries) - np.arange(keys)
    return (back >= 0) & (back < (keys if window is None else window))


def _softmax(logits: Array, mask: Array | None) -> Array:
    if mask is None:
        return jax.nn.softmax(logits, axis=-1)
    # finite even where nothing is seen, in the gradient too; such rows become 0
    mask = to_rank(jnp.asarray(mask), logits)
    rows = jax.nn.softmax(jnp.where(mask, logits, jnp.finfo(logits.dtype).min), axis=-1)
    return jnp.where(mask, rows, 0)


def _heads_first(a: Array) -> Array:
    return a.swapaxes(1, 2)


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _plain(q: Array, k: Array, v: Array) -> tuple[Array, Array]:
    return _forward(q, k, v)[0]


def _forward(q: Array, k: Array, v: Array):
    q, k, v = (_heads_first(a) for a in (q, k, v))
    rows = jax.nn.softmax(_product(q, k.swapaxes(2, 3)) * q.shape[-1] ** -0.5, axis=-1)
    y = rows.astype(v.dtype) @ v
    return (_heads_first(y), rows), (q, k, v, rows)


def _backward(kept, slopes):
    q, k, v, rows = kept
    dy, d_rows = slopes
    dy = _heads_first(dy)
    dv = _product(rows.astype(dy.dtype).swapaxes(2, 3), dy)
    d_rows = d_rows + _product(dy, v.swapaxes(2, 3))
    d_logits = rows * (d_rows - (rows * d_rows).sum(axis=-1, keepdims=True))
    d_logits = (d_logits * q.shape[-1] ** -0.5).astype(q.dtype)
    dq, dk = _product(d_logits, k), _product(d_logits.swapaxes(2, 3), q)
    return tuple(_heads_first(d).astype(a.dtype) for d, a in ((dq, q), (dk, k), (dv, v)))


_plain.defvjp(_forward, _backward)
