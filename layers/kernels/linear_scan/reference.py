"""The diagonal linear recurrence h_t = a_t * h_{t-1} + b_t in plain jnp."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def linear_scan(a: Array, b: Array, h0: Array) -> tuple[Array, Array]:
    """Runs h_t = a_t * h_{t-1} + b_t over axis 1, in fp32.

    Args:
      a: [B, T, ...] decay, |a| <= 1 for a stable recurrence. T >= 1.
      b: [B, T, ...] input.
      h0: [B, ...] the state before the first frame.

    Returns:
      (h [B, T, ...], the last h [B, ...]), both fp32.
    """
    a, b, h0 = (v.astype(jnp.float32) for v in (a, b, h0))
    if a.shape[1] == 1:
        last = a[:, 0] * h0 + b[:, 0]
        return last[:, None], last
    # The state enters as if it were part of the first input; then pairs (a, b) compose.
    b = b.at[:, 0].add(a[:, 0] * h0)

    def compose(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1]

    h = jax.lax.associative_scan(compose, (a, b), axis=1)[1]
    return h, h[:, -1]
