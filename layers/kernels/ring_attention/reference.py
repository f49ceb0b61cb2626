"""Plain jnp sink + window attention over a ring of slots: the definition of correct.

The ring keeps the first ``sinks`` frames of a stream for ever and the last ``window`` frames, the
current one included. Keys are stored un-rotated; a position is assigned when they are read, by
order in the cache (Xiao et al., "StreamingLLM", arXiv 2309.17453): nothing grows with time, and
while nothing was evicted this is full causal attention.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

# One token position at a time over its own past, or every token of a frame over whole frames.
SCORES = {"position": "btnhd,bsnhd->bhnts", "frame": "btnhd,bsmhd->bhntsm"}
MIXES = {"position": "bhnts,bsnhd->btnhd", "frame": "bhntsm,bsmhd->btnhd"}


class Ring(NamedTuple):
    """Slots 0 .. sinks-1 are sinks; frame p >= sinks lives in sinks + (p - sinks) % window."""

    k: Array  # [B, sinks + window, N, D] un-rotated
    v: Array  # [B, sinks + window, N, D]
    pos: Array  # [B, sinks + window] int32 frame number, -1 where empty
    seen: Array  # [B] int32 frames seen


def init_ring(batch: int, sinks: int, window: int, tokens: int, dim: int, dtype) -> Ring:
    """An empty ring; leaves as in :class:`Ring`."""
    slots = sinks + window
    zeros = jnp.zeros((batch, slots, tokens, dim), dtype)
    pos = jnp.full((batch, slots), -1, jnp.int32)
    return Ring(zeros, zeros, pos, jnp.zeros((batch,), jnp.int32))


def _write(ring: Ring, k: Array, v: Array, fresh: Array, sinks: int, window: int) -> Ring:
    """Puts the first ``fresh[b]`` of the new frames [B, T, N, D] into their slots."""
    batch, steps = k.shape[:2]
    step = jnp.arange(steps, dtype=jnp.int32)[None]
    pos = ring.seen[:, None] + step  # [B, T]
    end = (ring.seen + fresh)[:, None]
    slot = jnp.where(pos < sinks, pos, sinks + (pos - sinks) % window)
    # A frame that a later one of this chunk would overwrite is not written: no duplicate slots.
    lives = (step < fresh[:, None]) & ((pos < sinks) | (pos >= end - window))
    slot = jnp.where(lives, slot, sinks + window)  # out of range: dropped
    row = jnp.arange(batch)[:, None]
    put = lambda old, new: old.at[row, slot].set(new.astype(old.dtype), mode="drop")  # noqa: E731
    return Ring(put(ring.k, k), put(ring.v, v), put(ring.pos, pos), ring.seen + fresh)


def _rotate(x: Array, position: Array, base: float) -> Array:
    """x [B, S, N, H, Dh] rotated by position [B, S] (halves convention), in fp32."""
    half = x.shape[-1] // 2
    freq = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = (position.astype(jnp.float32)[..., None] * freq)[:, :, None, None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def ring_attention(
    ring: Ring,
    q: Array,
    k: Array,
    v: Array,
    *,
    heads: int,
    sinks: int,
    window: int,
    fresh: Array | None = None,
    over: str = "position",
    rope_base: float | None = 10_000.0,
) -> tuple[Ring, Array]:
    """Attends T new frames to the ring and to each other, and writes them into the ring.

    Args:
      ring: what the streams remember; streams may stand at different times.
      q, k, v: [B, T, N, D] un-rotated, D = heads x head width.
      fresh: [B] int32, how many of the T frames exist (they come first); None means all.
      over: ``position``: token n sees its own past; ``frame``: every token of past frames.
      rope_base: base of the rotary frequencies over time, None for no positions.

    Returns:
      the ring, and the attention's values [B, T, N, D] (meaningless for t >= fresh).
    """
    batch, steps, tokens, dim = q.shape
    split = lambda x: x.reshape(*x.shape[:3], heads, dim // heads)  # noqa: E731
    if fresh is None:
        fresh = jnp.full((batch,), steps, jnp.int32)
    now = ring.seen[:, None] + jnp.arange(steps, dtype=jnp.int32)  # [B, T]
    evicted = jnp.maximum(now + 1 - sinks - window, 0)
    after = _write(ring, k, v, fresh, sinks, window)
    if steps == 1:  # the current frame is in the ring: read it there, no concatenation
        keys, values, pos = after.k, after.v, after.pos
    else:
        keys = jnp.concatenate([ring.k, k.astype(ring.k.dtype)], axis=1)
        values = jnp.concatenate([ring.v, v.astype(ring.v.dtype)], axis=1)
        new = jnp.where(now < (ring.seen + fresh)[:, None], now, -1)
        pos = jnp.concatenate([ring.pos, new], axis=1)
    seen = (pos[:, None] >= 0) & (pos[:, None] <= now[..., None])
    seen &= (pos[:, None] < sinks) | (pos[:, None] > now[..., None] - window)  # [B, T, S]

    q, keys, values = split(q), split(keys), split(values)
    score = lambda a, b: jnp.einsum(  # noqa: E731
        SCORES[over], a, b, preferred_element_type=jnp.float32
    )
    if rope_base is None:
        logits = score(q, keys)
    elif steps == 1:
        place = jnp.where(pos < sinks, pos, pos - evicted)
        logits = score(_rotate(q, now - evicted, rope_base), _rotate(keys, place, rope_base))
    else:
        # In the window only the distance matters; sinks stand still while the query's place
        # in the cache stops growing, so they are scored against a query of their own.
        start = ring.seen[:, None]
        logits = score(
            _rotate(q, now - start, rope_base), _rotate(keys, pos - start, rope_base)
        )
        if sinks:
            logits = _score_sinks(logits, score, q, keys, pos, now - evicted, sinks, rope_base)
    extra = logits.ndim - 4  # "frame" scores have one more axis: the keys' tokens
    mask = seen[:, None, None].reshape(batch, 1, 1, steps, -1, *(1,) * (extra - 1))
    logits = jnp.where(mask, logits * (dim // heads) ** -0.5, -jnp.inf)
    axes = -1 if over == "position" else (-2, -1)
    # A row without keys (a stream that has seen nothing) gives zeros, not NaN.
    peak = jax.lax.stop_gradient(jnp.maximum(logits.max(axes, keepdims=True), -1e30))
    weights = jnp.exp(logits - peak)
    weights /= jnp.maximum(weights.sum(axes, keepdims=True), 1e-30)
    y = jnp.einsum(MIXES[over], weights.astype(values.dtype), values)
    return after, y.reshape(batch, steps, tokens, dim)


def _score_sinks(logits, score, q, keys, pos, place, sinks, base):
    """Replaces the scores of keys that are sinks: they are the first slots of the ring, and
    among the first new frames while a stream begins."""
    slots = keys.shape[1] - q.shape[1]
    early = min(sinks, q.shape[1])
    pick = jnp.concatenate([jnp.arange(sinks), slots + jnp.arange(early)])
    own = score(_rotate(q, place, base), _rotate(keys[:, pick], pos[:, pick], base))
    axis = 4  # the keys' slots
    is_sink = (pos[:, pick] < sinks).reshape(
        pos.shape[0], 1, 1, 1, pick.size, *(1,) * (logits.ndim - 5)
    )
    old = jnp.take(logits, pick, axis=axis)
    return logits.at[:, :, :, :, pick].set(jnp.where(is_sink, own, old))
