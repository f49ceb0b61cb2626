"""Linear attention with a scalar decay per head (SSD) in plain jnp: the recurrence and its chunks.

    S_t = exp(g_t) S_{t-1} + k_t v_t^T;  o_t = S_t^T q_t

Source: Dao, Gu (2024), "Transformers are SSMs" (arXiv 2405.21060), section 6: within a chunk a
masked product of scores, between chunks one state.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
HIGHEST = jax.lax.Precision.HIGHEST


def _float32(*arrays: Array) -> tuple[Array, ...]:
    return tuple(a.astype(jnp.float32) for a in arrays)


def _step(q: Array, k: Array, v: Array, g: Array, state: Array) -> tuple[Array, Array]:
    """One frame: q, k [B, G, n], v [B, H * P], g [B, H], state [B, n, H * P]."""
    batch, groups, n = k.shape
    heads = g.shape[1]
    shape = (batch, n, groups, heads // groups, v.shape[1] // heads)
    column = lambda a: a.swapaxes(1, 2)[..., None, None]  # [B, n, G, 1, 1]
    decay = jnp.exp(g).reshape(batch, 1, *shape[2:4], 1)
    state = decay * state.reshape(shape) + column(k) * v.reshape(batch, 1, *shape[2:])
    # a sum of products instead of a dot: it fuses with the update, the state is read once
    o = (state * column(q)).sum(axis=1)
    return o.reshape(v.shape), state.reshape(batch, n, -1)


def recurrent(q: Array, k: Array, v: Array, g: Array, state: Array) -> tuple[Array, Array]:
    """The definition, one frame after the other. Arguments as :func:`chunked`."""
    q, k, v, g, state = _float32(q, k, v, g, state)

    def frame(state, inputs):
        q, k, v, g = inputs
        o, state = _step(q, k, v, g, state)
        return state, o

    state, o = jax.lax.scan(frame, state, tuple(a.swapaxes(0, 1) for a in (q, k, v, g)))
    return o.swapaxes(0, 1), state


def chunked(
    q: Array, k: Array, v: Array, g: Array, state: Array, *, chunk: int = 64, **_: Any
) -> tuple[Array, Array]:
    """One step for T = 1, chunks of ``chunk`` frames beyond.

    Args:
      q, k: [B, T, G, n]; each group serves H / G consecutive heads.
      v: [B, T, H * P], the heads side by side.
      g: [B, T, H] log decay, <= 0.
      state: [B, n, H * P].

    Returns:
      (o [B, T, H * P], the last state [B, n, H * P]), both fp32.
    """
    q, k, v, g, state = _float32(q, k, v, g, state)
    batch, steps, groups, n = k.shape
    if steps == 1:
        o, state = _step(q[:, 0], k[:, 0], v[:, 0], g[:, 0], state)
        return o[:, None], state
    heads = g.shape[2]
    each, width = heads // groups, v.shape[2] // heads
    size = min(chunk, steps)
    count = -(-steps // size)

    def split(a):  # [B, T, G, ...] -> [chunks, B, G, size, ...]; padded frames change nothing
        a = jnp.pad(a, [(0, 0), (0, count * size - steps)] + [(0, 0)] * (a.ndim - 2))
        a = a.reshape(batch, count, size, *a.shape[2:])
        return jnp.moveaxis(jnp.moveaxis(a, 3, 2), 1, 0)

    q, k = split(q), split(k)
    v = split(v.reshape(batch, steps, groups, each, width)).swapaxes(3, 4)  # [c, B, G, R, size, P]
    g = split(g.reshape(batch, steps, groups, each)).swapaxes(3, 4)  # [c, B, G, R, size]
    lower = jnp.tril(jnp.ones((size, size), bool))
    strict = jnp.tril(jnp.ones((size, size), bool), -1)

    # decay[i, j] = exp(g_{j+1} + .. + g_i). Summing from j on, instead of subtracting two sums
    # from the start of the chunk, loses no digits where the decay is strong (or a reset).
    logs = jnp.cumsum(jnp.where(strict, g[..., :, None], 0.0), axis=-2)
    decay = jnp.where(lower, jnp.exp(jnp.where(lower, logs, 0.0)), 0.0)
    start = jnp.exp(jnp.cumsum(g, axis=-1))[..., None]  # from the state to frame i
    end = decay[..., -1, :, None]  # from frame i to the end of the chunk

    def dot(spec, *args):
        return jnp.einsum(spec, *args, precision=HIGHEST)

    scores = dot("...in,...jn->...ij", q, k)[:, :, :, None] * decay
    inside = dot("...ij,...jp->...ip", scores, v)
    writes = dot("cbgjn,cbgrjp->cbgrnp", k, v * end)

    def advance(state, block):
        q, start, inside, write = block
        o = inside + start * dot("bgin,bgrnp->bgrip", q, state)
        return start[..., -1:, :] * state + write, o

    state = state.reshape(batch, n, groups, each, width).transpose(0, 2, 3, 1, 4)
    state, o = jax.lax.scan(advance, state, (q, start, inside, writes))
    state = state.transpose(0, 3, 1, 2, 4).reshape(batch, n, -1)
    o = o.transpose(1, 0, 4, 2, 3, 5).reshape(batch, count * size, -1)[:, :steps]
    return o, state
