"""The gated delta rule in plain jnp: the recurrence, and its chunked form for clips.

    S <- exp(g_t) S;  u = beta_t (v_t - S^T k_t);  S <- S + k_t u^T;  o_t = S^T q_t / sqrt(dk)

Source: Yang, Kautz, Hatamizadeh (2024), "Gated Delta Networks", sections 3.1-3.3. In a chunk the
corrections u depend on each other through a unit lower triangular system; solving it (rather than
summing powers of its strictly lower part, which overflow) turns the chunk into matrix products.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array
HIGHEST = jax.lax.Precision.HIGHEST


def _prepare(q, k, v, g, beta, state):
    """Everything fp32, q scaled, key heads repeated to the value heads, a state made if None."""
    heads = v.shape[2]
    if heads % k.shape[2]:
        raise ValueError(
            f"gated_delta: {heads} value heads are not a multiple of {k.shape[2]} key heads"
        )
    q, k, v, g, beta = (x.astype(jnp.float32) for x in (q, k, v, g, beta))
    if k.shape[2] != heads:  # each key head serves consecutive value heads
        q, k = (jnp.repeat(x, heads // x.shape[2], axis=2) for x in (q, k))
    if state is None:
        state = jnp.zeros((q.shape[0], heads, q.shape[-1], v.shape[-1]), jnp.float32)
    return q * q.shape[-1] ** -0.5, k, v, g, beta, state.astype(jnp.float32)


def _step(state, frame):
    """One frame of the definition; q, k [B, H, dk], v [B, H, dv], g, beta [B, H]."""
    q, k, v, g, beta = frame
    state = state * jnp.exp(g)[..., None, None]
    read = jnp.einsum("bhkv,bhk->bhv", state, k, precision=HIGHEST)
    update = beta[..., None] * (v - read)
    state = state + k[..., :, None] * update[..., None, :]
    return state, jnp.einsum("bhkv,bhk->bhv", state, q, precision=HIGHEST)


def gated_delta_recurrent(
    q: Array, k: Array, v: Array, g: Array, beta: Array, state: Array | None
) -> tuple[Array, Array]:
    """The definition, one frame after the other. Arguments as :func:`gated_delta`."""
    dtype = v.dtype
    *inputs, state = _prepare(q, k, v, g, beta, state)
    state, o = jax.lax.scan(_step, state, tuple(x.swapaxes(0, 1) for x in inputs))
    return o.swapaxes(0, 1).astype(dtype), state


def gated_delta(
    q: Array,
    k: Array,
    v: Array,
    g: Array,
    beta: Array,
    state: Array | None,
    *,
    chunk: int = 64,
) -> tuple[Array, Array]:
    """The gated delta rule over axis 1: one step for T = 1, chunks of ``chunk`` frames beyond.

    Args:
      q, k: [B, T, Hk, dk], usually L2-normalised; q is scaled by dk ** -0.5 here.
      v: [B, T, H, dv], H a multiple of Hk.
      g: [B, T, H] log decay, finite and <= 0.
      beta: [B, T, H] writing strength, 0 .. 1 (or .. 2). g = beta = 0 leaves the state as it was.
      state: [B, H, dk, dv] before the first frame, or None for zeros.
      chunk: frames per chunk; T need not be a multiple.

    Returns:
      (o [B, T, H, dv] in the dtype of v, the last state fp32).

    Raises:
      ValueError: chunk < 1, or H is not a multiple of Hk.
    """
    if chunk < 1:
        raise ValueError(f"gated_delta: chunk {chunk} must be at least 1")
    dtype, steps = v.dtype, q.shape[1]
    q, k, v, g, beta, state = _prepare(q, k, v, g, beta, state)
    if steps == 1:
        state, o = _step(state, tuple(x[:, 0] for x in (q, k, v, g, beta)))
        return o[:, None].astype(dtype), state

    size = min(chunk, steps)
    count = -(-steps // size)

    def split(x):  # [B, T, H, ...] -> [chunks, B, H, size, ...]; padded frames change nothing
        pad = [(0, 0), (0, count * size - steps)] + [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, pad).reshape(x.shape[0], count, size, *x.shape[2:])
        return jnp.moveaxis(jnp.moveaxis(x, 3, 1), 2, 0)

    q, k, v, g, beta = (split(x) for x in (q, k, v, g, beta))
    lower = jnp.tril(jnp.ones((size, size), bool))
    strict = jnp.tril(jnp.ones((size, size), bool), -1)

    # decay[i, j] = exp(g_{j+1} + .. + g_i). Summing from j on, instead of subtracting two sums
    # from the start of the chunk, loses no digits where the decay is strong.
    log_decay = jnp.cumsum(jnp.where(strict, g[..., :, None], 0.0), axis=-2)
    decay = jnp.where(lower, jnp.exp(jnp.where(lower, log_decay, 0.0)), 0.0)
    start = jnp.exp(jnp.cumsum(g, axis=-1))[..., None]  # from the state to frame i
    end = decay[..., -1, :, None]  # from frame i to the end of the chunk

    def dot(spec, *args):
        return jnp.einsum(spec, *args, precision=HIGHEST)

    k_beta = k * beta[..., None]
    system = jnp.where(strict, dot("...ik,...jk->...ij", k_beta, k) * decay, 0.0)
    right = jnp.concatenate([v * beta[..., None], k_beta * start], axis=-1)
    solved = jax.lax.linalg.triangular_solve(
        system + jnp.eye(size), right, left_side=True, lower=True, unit_diagonal=True
    )
    writes, reads = solved[..., : v.shape[-1]], solved[..., v.shape[-1] :]
    scores = dot("...ik,...jk->...ij", q, k) * decay

    def advance(state, block):
        q_in, k_out, writes, reads, scores, left = block
        update = writes - dot("bhik,bhkv->bhiv", reads, state)
        o = dot("bhik,bhkv->bhiv", q_in, state) + dot("bhij,bhjv->bhiv", scores, update)
        return left * state + dot("bhik,bhiv->bhkv", k_out, update), o

    blocks = (q * start, k * end, writes, reads, scores, start[..., -1:, :])
    state, o = jax.lax.scan(advance, state, blocks)
    o = jnp.moveaxis(jnp.moveaxis(o, 0, 2), 1, 3)  # [B, chunks, size, H, dv]
    o = o.reshape(o.shape[0], count * size, *o.shape[3:])[:, :steps]
    return o.astype(dtype), state
