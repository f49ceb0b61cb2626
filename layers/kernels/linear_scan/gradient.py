"""The gradient of the linear recurrence: the same recurrence, run backwards.

With cotangents y_t of h_t, the cotangent of b_t is l_t = y_t + a_{t+1} l_{t+1}; that of a_t is
l_t h_{t-1}. Only a, h and h0 are kept.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array


def with_gradient(run: Callable[..., tuple[Array, Array]]) -> Callable[..., tuple[Array, Array]]:
    """f(a, b, h0) with this gradient, from run(a, b, h0, reverse=False)."""

    @jax.custom_vjp
    def f(a: Array, b: Array, h0: Array) -> tuple[Array, Array]:
        return run(a, b, h0, reverse=False)

    def forward(a: Array, b: Array, h0: Array):
        h, last = run(a, b, h0, reverse=False)
        return (h, last), (a, jnp.zeros((), b.dtype), h0, h)

    def backward(kept, cotangents):
        a, like_b, h0, h = kept
        dh, dlast = cotangents
        # The cotangent of the last state is the state that the backward recurrence starts from.
        after = jnp.concatenate([a[:, 1:], jnp.ones_like(a[:, :1])], axis=1)
        db, first = run(after, dh, dlast, reverse=True)
        before = jnp.concatenate([h0[:, None].astype(h.dtype), h[:, :-1]], axis=1)
        start = a[:, 0].astype(jnp.float32)
        dh0 = jnp.where(start == 0, 0.0, start * first)
        return (db * before).astype(a.dtype), db.astype(like_b.dtype), dh0.astype(h0.dtype)

    f.defvjp(forward, backward)
    return f
