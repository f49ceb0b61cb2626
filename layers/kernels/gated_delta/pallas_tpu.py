"""One frame of the gated delta rule with the streams in the lanes, for TPUs.

A TPU keeps a [B, H, dk, dv] state of narrow heads (dv = 64) with B innermost, which wastes no
lanes. Taken so, the state needs no copy, and every product of the step is elementwise.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from .pallas_generic import TPU_BYTES

Array = jax.Array
LANES = 128


def _filled(n: int) -> float:
    """The part of the lanes that an innermost axis of n fills."""
    return n / (-(-n // LANES) * LANES)


def suits(streams: int, dk: int, dv: int) -> bool:
    """Whether the compiler keeps such states with the streams innermost, and they fit."""
    return _filled(streams) > _filled(dv) and 4 * dk * dv * LANES * 4 <= TPU_BYTES


def _body(q_ref, k_ref, v_ref, g_ref, beta_ref, s_ref, o_ref, out_ref):
    """q, k [dk, L], v, o [dv, L], g, beta [1, L], s [dk, dv, L]."""
    dk = s_ref.shape[0]
    decay = jnp.exp(g_ref[...])
    row = lambda ref, i: ref[pl.ds(i, 1), :]

    def decayed(i):
        return jnp.where(decay == 0, 0.0, decay * s_ref[i])

    zero = jnp.zeros(v_ref.shape, jnp.float32)
    read = lax.fori_loop(0, dk, lambda i, r: r + row(k_ref, i) * decayed(i), zero, unroll=4)
    update = beta_ref[...] * (v_ref[...] - read)

    def write(i, o):
        state = decayed(i) + row(k_ref, i) * update
        out_ref[i] = state
        return o + row(q_ref, i) * state

    o_ref[...] = lax.fori_loop(0, dk, write, zero, unroll=4) * dk**-0.5


def step(q, k, v, g, beta, state, *, interpret=False) -> tuple[Array, Array]:
    """One frame: q, k [B, H, dk], v [B, H, dv], g, beta [B, H]; the state is updated in place."""
    batch, heads, dk, dv = state.shape
    lanes = min(LANES, batch)
    inward = lambda x: jnp.moveaxis(x.astype(jnp.float32), 0, -1)
    vector = lambda d: pl.BlockSpec((None, d, lanes), lambda h, i: (h, 0, i))
    matrix = pl.BlockSpec((None, dk, dv, lanes), lambda h, i: (h, 0, 0, i))
    o, state = pl.pallas_call(
        _body,
        grid=(heads, -(-batch // lanes)),
        in_specs=[*(vector(d) for d in (dk, dk, dv, 1, 1)), matrix],
        out_specs=[vector(dv), matrix],
        out_shape=[
            jax.ShapeDtypeStruct((heads, dv, batch), jnp.float32),
            jax.ShapeDtypeStruct((heads, dk, dv, batch), jnp.float32),
        ],
        input_output_aliases={5: 1},
        interpret=interpret,
        name="gated_delta_step_lanes",
    )(*(inward(x) for x in (q, k, v, g[..., None], beta[..., None], state)))
    return jnp.moveaxis(o, -1, 0), jnp.moveaxis(state, -1, 0)
