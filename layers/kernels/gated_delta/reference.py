"""The gated delta rule in plain jnp: the recurrence, and its chunked form for clips.

    S <- exp(g_t) S;  u = beta_t (v_t - S^T k_t);  S <- S + k_t u^T;  o_t = S^T q_t / sqrt(dk)

Source: Yang, Kautz, Hatamizadeh (2024), "Gated Delta Networks", sections 3.1-3.3. In a chunk the
corrections u depend on each other through a unit lower triangular system; inverting it block by
block (rather than summing powers of its strictly lower part, which overflow) turns the chunk into
matrix products. All arguments here are fp32, with as many heads in q and k as in v; a reset is a
log decay that ``exp`` takes to zero.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

Array = jax.Array
HIGHEST = jax.lax.Precision.HIGHEST
INVERSE_BASE = 8  # blocks that are inverted row by row


def _dot(spec: str, *args: Array) -> Array:
    return jnp.einsum(spec, *args, precision=HIGHEST)


def step(state: Array, frame: tuple[Array, ...]) -> tuple[Array, Array]:
    """One frame of the definition; q, k [B, H, dk], v [B, H, dv], g, beta [B, H]."""
    q, k, v, g, beta = frame
    decay = jnp.exp(g)[..., None, None]
    # Full decay forgets the state, were it not finite either.
    state = jnp.where(decay == 0, 0.0, decay * state)
    read = _dot("bhkv,bhk->bhv", state, k)
    update = beta[..., None] * (v - read)
    state = state + k[..., :, None] * update[..., None, :]
    return state, _dot("bhkv,bhk->bhv", state, q * q.shape[-1] ** -0.5)


def recurrent(
    q: Array, k: Array, v: Array, g: Array, beta: Array, state: Array
) -> tuple[Array, Array]:
    """The definition, one frame after the other."""
    frames = tuple(x.swapaxes(0, 1) for x in (q, k, v, g, beta))
    state, o = jax.lax.scan(step, state, frames)
    return o.swapaxes(0, 1), state


@jax.custom_jvp
def unit_lower_inverse(lower: Array) -> Array:
    """(I + lower)^-1 for a strictly lower triangular [..., C, C], C a power of two.

    Each half is inverted, then the block between them is -X22 L21 X11: entries stay as small as
    those of the result.
    """
    size = lower.shape[-1]
    if size <= INVERSE_BASE:
        return _substitute(lower)
    half = size // 2
    pair = jnp.stack([lower[..., :half, :half], lower[..., half:, half:]])
    top, bottom = unit_lower_inverse(pair)
    between = lower[..., half:, :half]
    between = -_dot("...ij,...jk->...ik", bottom, _dot("...ij,...jk->...ik", between, top))
    top = jnp.concatenate([top, jnp.zeros_like(between)], axis=-1)
    return jnp.concatenate([top, jnp.concatenate([between, bottom], axis=-1)], axis=-2)


@unit_lower_inverse.defjvp
def _unit_lower_inverse_jvp(primals, tangents):
    inverse = unit_lower_inverse(*primals)
    return inverse, -_dot("...ij,...jk,...kl->...il", inverse, tangents[0], inverse)


def _substitute(lower: Array) -> Array:
    """The same by forward substitution, unrolled."""
    rows: list[Array] = []
    for i in range(lower.shape[-1]):
        row = jnp.broadcast_to(jnp.eye(lower.shape[-1], dtype=lower.dtype)[i], lower.shape[:-1])
        rows.append(row - sum(lower[..., i, j, None] * rows[j] for j in range(i)))
    return jnp.stack(rows, axis=-2)


def _advance(state: Array, chunk: tuple[Array, ...]) -> tuple[Array, Array]:
    """One chunk; q, k [P, C, dk], v [P, C, dv], g, beta [P, C, 1], state [P, dk, dv]."""
    q, k, v, g, beta = chunk
    size = q.shape[1]
    index = jnp.arange(size)
    lower, strict = index[:, None] >= index[None], index[:, None] > index[None]
    # decay[i, j] = exp(g_{j+1} + .. + g_i). Summing from j on, instead of subtracting two sums
    # from the start of the chunk, loses no digits where the decay is strong.
    log_decay = _dot("im,pmj->pij", lower.astype(jnp.float32), jnp.where(strict, g, 0.0))
    decay = jnp.where(lower, jnp.exp(jnp.where(lower, log_decay, 0.0)), 0.0)
    start = jnp.exp(jnp.cumsum(g, axis=1))  # from the state to frame i
    end = decay[:, -1, :, None]  # from frame i to the end of the chunk

    both = jnp.concatenate([k, q * q.shape[-1] ** -0.5], axis=1)
    scores = _dot("pik,pjk->pij", both, k)
    reads = _dot("pik,pkv->piv", both, state)
    system = jnp.where(strict, beta * scores[:, :size] * decay, 0.0)
    update = beta * (v - start * reads[:, :size])
    update = _dot("pij,pjv->piv", unit_lower_inverse(system), update)
    o = start * reads[:, size:] + _dot("pij,pjv->piv", scores[:, size:] * decay, update)
    return start[:, -1:] * state + _dot("pik,piv->pkv", k * end, update), o


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()


@functools.partial(jax.jit, static_argnames="chunk")
def chunked(
    q: Array, k: Array, v: Array, g: Array, beta: Array, state: Array, *, chunk: int
) -> tuple[Array, Array]:
    """The same in chunks of at most ``chunk`` frames, rounded up to a power of two."""
    batch, steps, heads, dk = q.shape
    if steps == 1:
        state, o = step(state, tuple(x[:, 0] for x in (q, k, v, g, beta)))
        return o[:, None], state
    # Longer chunks than half a head's width do more arithmetic than they save on a CPU.
    size = power_of_two(min(chunk, steps, max(32, dk // 2)))
    count = -(-steps // size)

    def split(x: Array) -> Array:  # [B, T, H, ...] -> [chunks, B * H, size, ...]
        x = x.reshape(*x.shape[:3], -1)
        # Frames of zeros behind the last change nothing.
        x = jnp.pad(x, [(0, 0), (0, count * size - steps), (0, 0), (0, 0)])
        x = x.reshape(batch, count, size, heads, -1).transpose(1, 0, 3, 2, 4)
        return x.reshape(count, batch * heads, size, -1)

    # What a reset at the first frame forgets need not be finite.
    state = jnp.where(jnp.exp(g[:, 0])[..., None, None] == 0, 0.0, state)
    state = state.reshape(batch * heads, dk, -1)
    state, o = jax.lax.scan(_advance, state, tuple(split(x) for x in (q, k, v, g, beta)))
    o = o.reshape(count, batch, heads, size, -1).transpose(1, 0, 3, 2, 4)
    o = o.reshape(batch, count * size, heads, -1)[:, :steps]
    return o, state.reshape(batch, heads, dk, -1)
