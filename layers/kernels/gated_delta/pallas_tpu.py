"""One frame of the gated delta rule for TPUs, on a state that may be one layer of a stack.

Which layer is a number that is prefetched, so that the blocks of the state are fetched from and
written to where they lie. A TPU keeps a state of narrow heads (dv = 64) with the streams innermost,
which wastes no lanes. Taken so, it needs no copy, and every product of the step is elementwise.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from .pallas_generic import TPU_BYTES, _step_body, tpu_blocks

Array = jax.Array
LANES = 128


def _filled(n: int) -> float:
    """The part of the lanes that an innermost axis of n fills."""
    return n / (-(-n // LANES) * LANES)


def suits(streams: int, dk: int, dv: int) -> bool:
    """Whether the compiler keeps such states with the streams innermost, and they fit."""
    return _filled(streams) > _filled(dv) and 4 * dk * dv * LANES * 4 <= TPU_BYTES


def _lanes_body(_, q_ref, k_ref, v_ref, g_ref, beta_ref, s_ref, o_ref, out_ref):
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


def _rows_body(_, *refs):
    _step_body(*refs)


def step(
    q, k, v, g, beta, stack, layer, *, rows: int | None = None, heads: int | None = None,
    interpret=False,
) -> tuple[Array, Array]:  # fmt: skip
    """One frame of G groups of S streams; layer ``layer`` of the stack is updated in place.

    Args:
      q, k: [G, S, H, dk].
      v: [G, S, H, dv].
      g, beta: [G, S, H].
      stack: [G, L, S, H, dk, dv] fp32.
      layer: int32.
      rows, heads: streams and heads of one program, where not the streams are in the lanes.

    Returns:
      (o [G, S, H, dv] fp32, the stack).
    """
    groups, _, streams, all_heads, dk, dv = stack.shape
    arrays = [x.astype(jnp.float32) for x in (q, k, v, g[..., None], beta[..., None])]
    by_lanes = rows is None and heads is None and suits(streams, dk, dv)
    if by_lanes:
        lanes = min(LANES, streams)
        arrays = [jnp.moveaxis(x, 1, -1) for x in arrays]
        stack = jnp.moveaxis(stack, 2, -1)
        grid = (groups, all_heads, -(-streams // lanes))
        vector = lambda d: pl.BlockSpec((None, None, d, lanes), lambda n, h, i, _: (n, h, 0, i))
        matrix = pl.BlockSpec(
            (None, None, None, dk, dv, lanes), lambda n, h, i, at: (n, at[0], h, 0, 0, i)
        )
    else:
        sizes = tpu_blocks(streams, all_heads, dk, dv, 1, 1)
        rows, some = rows or sizes.rows, heads or sizes.heads
        grid = (groups, all_heads // some, -(-streams // rows))
        vector = lambda d: pl.BlockSpec((None, rows, some, d), lambda n, h, i, _: (n, i, h, 0))
        matrix = pl.BlockSpec(
            (None, None, rows, some, dk, dv), lambda n, h, i, at: (n, at[0], i, h, 0, 0)
        )
    state = streams * all_heads * groups * dk * dv
    o, stack = pl.pallas_call(
        _lanes_body if by_lanes else _rows_body,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=grid,
            in_specs=[*(vector(x.shape[2 if by_lanes else 3]) for x in arrays), matrix],
            out_specs=[vector(dv), matrix],
        ),
        out_shape=[
            jax.ShapeDtypeStruct(arrays[2].shape, jnp.float32),
            jax.ShapeDtypeStruct(stack.shape, jnp.float32),
        ],
        input_output_aliases={6: 1},
        # an estimate is of numbers: none where the batch of an export is a symbol
        cost_estimate=pl.CostEstimate(
            flops=7 * state,
            bytes_accessed=8 * state + 4 * sum(x.size for x in arrays) + 4 * arrays[2].size,
            transcendentals=arrays[3].size,
        )
        if isinstance(state, int)
        else None,
        interpret=interpret,
        name="gated_delta_step_lanes" if by_lanes else "gated_delta_step",
    )(jnp.asarray(layer, jnp.int32).reshape(1), *arrays, stack)
    if by_lanes:
        o, stack = jnp.moveaxis(o, -1, 1), jnp.moveaxis(stack, -1, 2)
    return o, stack
