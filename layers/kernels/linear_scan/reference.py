"""The diagonal linear recurrence h_t = a_t * h_{t-1} + b_t, one frame after the other."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def scan(a: Array, b: Array, h0: Array, reverse: bool = False) -> tuple[Array, Array]:
    """The recurrence over axis 1 (from its end if ``reverse``) in fp32; see ``linear_scan``.

    One pass over the inputs, where they lie: no axis is moved, and the answer is filled in place.
    Not to be differentiated (``gradient`` does that): a loop's gradient would keep every answer.
    """
    steps = a.shape[1]

    def step(h: Array, t: Array | int) -> Array:
        decay, drive = (
            jax.lax.dynamic_index_in_dim(x, t, 1, keepdims=False).astype(jnp.float32)
            for x in (a, b)
        )
        # A decay of exactly 0 forgets the state, were it not finite either.
        return jnp.where(decay == 0, 0.0, decay * h) + drive

    def body(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        t = steps - 1 - i if reverse else i
        h = step(state[0], t)
        return h, jax.lax.dynamic_update_index_in_dim(state[1], h, t, 1)

    h0 = h0.astype(jnp.float32)
    if steps == 1:
        last = step(h0, 0)
        return last[:, None], last
    # zeros that vary over a mesh as b does, which a loop inside shard_map asks for
    empty = jnp.where(False, b, 0).astype(jnp.float32)
    last, h = jax.lax.fori_loop(0, steps, body, (h0, empty))
    return h, last
