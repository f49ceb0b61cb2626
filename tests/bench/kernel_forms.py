"""The forms that people write first, and the definitions in float64: what kernels race and obey."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array

# --- random arrays ---------------------------------------------------------------------------


def normal(seed: int, *shape: int, dtype: Any = jnp.float32) -> jax.Array:
    """Random numbers on the device: zeros would flatter it."""
    draw = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return jnp.asarray(draw, dtype)


def delta_arrays(batch: int, steps: int, heads: int, d: int, dtype: Any = jnp.float32):
    """q, k (of unit length), v, g, beta, state."""
    q, k, v = (normal(i, batch, steps, heads, d) for i in (1, 2, 3))
    q, k = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
    g = -0.1 * jnp.abs(normal(4, batch, steps, heads))
    beta = jax.nn.sigmoid(normal(5, batch, steps, heads))
    return *(x.astype(dtype) for x in (q, k, v)), g, beta, normal(6, batch, heads, d, d)


def ssd_arrays(batch: int, steps: int, heads: int, width: int, n: int, dtype: Any = jnp.float32):
    """q, k, v, g, state of one group."""
    q, k = (normal(i, batch, steps, 1, n) * n**-0.5 for i in (1, 2))
    v, g = normal(3, batch, steps, heads * width), normal(4, batch, steps, heads)
    q, k, v = (x.astype(dtype) for x in (q, k, v))
    return q, k, v, -0.1 * jnp.abs(g), normal(5, batch, n, heads * width)


def page_arrays(batch, steps, heads, page, count, chosen, head=64, dtype: Any = jnp.float32):
    """q, k, v and the pages with the highest of random scores."""
    dim, rng = heads * head, np.random.default_rng(0)
    q = normal(1, batch, steps, dim, dtype=dtype)
    k, v = (normal(i, batch, count * page, dim, dtype=dtype) for i in (2, 3))
    pages = np.argsort(rng.random((batch, count)))[:, :chosen]
    return q, k, v, jnp.asarray(pages, jnp.int32)


# --- the naive forms, in jnp -------------------------------------------------------------------


def turn(x: Any, place: Any, base: float = 1e4, xp: Any = jnp) -> Any:
    """RoPE (halves convention): x [..., Dh] at place [...] broadcast over the leading axes."""
    half = x.shape[-1] // 2
    angle = place[..., None] * base ** (-np.arange(half, dtype=np.float32) / half)
    cos, sin = xp.cos(angle), xp.sin(angle)
    a, b = x[..., :half], x[..., half:]
    return xp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def concatenating_decode(
    past_k: Array, past_v: Array, q: Array, k: Array, v: Array, window: int, tokens: int
) -> tuple[Array, Array, Array]:
    """One frame against the whole history, masked to the window.

    Args:
      past_k, past_v: [M, H, t * tokens, Dh], keys already rotated.
      q, k, v: [M, H, tokens, Dh] of frame t.

    Returns:
      the longer history (k, v), and the values [M, H, tokens, Dh].
    """
    t = past_k.shape[2] // tokens
    now = jnp.float32(t)
    keys = jnp.concatenate([past_k, turn(k, now)], axis=2)
    values = jnp.concatenate([past_v, v], axis=2)
    scores = jnp.matmul(turn(q, now), keys.swapaxes(2, 3)) * q.shape[-1] ** -0.5
    frame = jnp.arange(keys.shape[2]) // tokens
    weights = jax.nn.softmax(jnp.where(frame > t - window, scores, -jnp.inf), axis=-1)
    return keys, values, jnp.matmul(weights, values)


def delta_step(state: Array, frame: tuple[Array, ...]) -> tuple[Array, Array]:
    """The gated delta rule as its definition is written; state [B, H, dk, dv]."""
    q, k, v, g, beta = frame
    state = jnp.exp(g)[..., None, None] * state
    update = beta[..., None] * (v - jnp.einsum("bhkv,bhk->bhv", state, k))
    state = state + k[..., None] * update[..., None, :]
    return state, jnp.einsum("bhkv,bhk->bhv", state, q) * q.shape[-1] ** -0.5


def diagonal_step(h: Array, frame: tuple[Array, ...]) -> tuple[Array, Array]:
    a, b = frame
    h = a * h + b
    return h, h


def ssd_step(state: Array, frame: tuple[Array, ...]) -> tuple[Array, Array]:
    """Mamba-2's recurrence, heads apart: q, k [B, n] of one group, v [B, H, P], g [B, H]."""
    q, k, v, g = frame
    state = jnp.exp(g)[..., None, None] * state + jnp.einsum("bn,bhp->bhnp", k, v)
    return state, jnp.einsum("bhnp,bn->bhp", state, q)


def scanned(step: Any):
    """A jitted lax.scan of single steps over axis 1; (frames, state) -> values."""

    @jax.jit
    def run(frames: tuple[Array, ...], state: Array) -> Array:
        _, y = lax.scan(step, state, tuple(x.swapaxes(0, 1) for x in frames))
        return y.swapaxes(0, 1)

    return run


def python_loop(step: Any):
    """The same as a Python loop over a jitted step."""
    one = jax.jit(lambda state, frames, t: step(state, tuple(x[:, t] for x in frames)))

    def run(frames: tuple[Array, ...], state: Array) -> Array:
        found = []
        for t in range(frames[0].shape[1]):
            state, y = one(state, frames, t)
            found.append(y)
        return jnp.stack(found, axis=1)

    return run


@jax.jit
def associative(frames: tuple[Array, ...], state: Array) -> Array:
    """The diagonal recurrence by jax.lax.associative_scan."""
    a, b = frames
    b = b.at[:, 0].add(a[:, 0] * state)
    return lax.associative_scan(lambda x, y: (x[0] * y[0], x[1] * y[0] + y[1]), (a, b), axis=1)[1]


def masked_attention(q: Array, k: Array, v: Array, pages: Array, page: int, heads: int) -> Array:
    """All keys scored, those of other pages masked: q [B, T, D], k, v [B, S, D], pages [B, K]."""
    split = lambda x: x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)
    scores = jnp.matmul(split(q), split(k).swapaxes(2, 3)) * (q.shape[-1] // heads) ** -0.5
    own = jnp.arange(k.shape[1]) // page
    seen = (own[None, :, None] == pages[:, None, :]).any(-1)  # [B, S]
    weights = jax.nn.softmax(jnp.where(seen[:, None, None], scores, -jnp.inf), axis=-1)
    return jnp.matmul(weights, split(v)).swapaxes(1, 2).reshape(q.shape)


# --- the definitions in float64, on the host ---------------------------------------------------


def f64(*arrays: Any) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(a, np.float64) for a in arrays)


def softmax64(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def ring64(q, k, v, *, heads: int, over: str) -> np.ndarray:
    """q [B, N, D] of the last of the window's frames k, v [B, W, N, D]; all in sight, no sinks."""
    q, k, v = f64(q, k, v)
    batch, frames, tokens, dim = k.shape
    head = lambda x: x.reshape(*x.shape[:-1], heads, -1)
    q, k, v = head(q), head(k), head(v)
    k = turn(k, np.arange(1.0 - frames, 1.0)[None, :, None, None], xp=np)
    form = "bnhd,bwnhd->bnhw" if over == "position" else "bnhd,bwmhd->bnhwm"
    scores = np.einsum(form, q, k) * (dim // heads) ** -0.5
    shape = scores.shape
    weights = softmax64(scores.reshape(*shape[:3], -1)).reshape(shape)
    back = "bnhw,bwnhd->bnhd" if over == "position" else "bnhwm,bwmhd->bnhd"
    return np.einsum(back, weights, v).reshape(batch, tokens, dim)


def delta64(q, k, v, g, beta, state) -> np.ndarray:
    q, k, v, g, beta, state = f64(q, k, v, g, beta, state)
    found = []
    for t in range(q.shape[1]):
        state = np.exp(g[:, t])[..., None, None] * state
        update = beta[:, t, :, None] * (v[:, t] - np.einsum("bhkv,bhk->bhv", state, k[:, t]))
        state = state + k[:, t, ..., None] * update[..., None, :]
        found.append(np.einsum("bhkv,bhk->bhv", state, q[:, t]) * q.shape[-1] ** -0.5)
    return np.stack(found, 1)


def diagonal64(a, b, h) -> np.ndarray:
    a, b, h = f64(a, b, h)
    found = []
    for t in range(a.shape[1]):
        h = a[:, t] * h + b[:, t]
        found.append(h)
    return np.stack(found, 1)


def ssd64(q, k, v, g, state) -> np.ndarray:
    """q, k [B, T, 1, n], v [B, T, H * P], g [B, T, H], state [B, n, H * P]."""
    q, k, v, g, state = f64(q, k, v, g, state)
    heads = g.shape[2]
    state, found = state.reshape(*state.shape[:2], heads, -1), []
    for t in range(q.shape[1]):
        value = v[:, t].reshape(v.shape[0], 1, heads, -1)
        state = np.exp(g[:, t])[:, None, :, None] * state + k[:, t, 0, :, None, None] * value
        found.append(np.einsum("bnhp,bn->bhp", state, q[:, t, 0]).reshape(v.shape[0], -1))
    return np.stack(found, 1)


def pages64(q, k, v, pages, *, page: int, heads: int) -> np.ndarray:
    q, k, v = f64(q, k, v)
    found = []
    for row in range(q.shape[0]):
        index = (np.asarray(pages)[row][:, None] * page + np.arange(page)).ravel()
        head = lambda x: x.reshape(len(x), heads, -1)
        queries, keys, values = head(q[row]), head(k[row, index]), head(v[row, index])
        scores = np.einsum("thd,khd->htk", queries, keys) * keys.shape[-1] ** -0.5
        found.append(np.einsum("htk,khd->thd", softmax64(scores), values).reshape(q.shape[1:]))
    return np.stack(found)
