"""The ring itself: slots of un-rotated keys and values, how they are written and quantised."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ...exportable import exportable
from ...stacked import Layer
from ..dispatch import KernelError

Array = jax.Array
BITS = (8, 4)


@exportable
class Ring(NamedTuple):
    """Slots 0 .. sinks-1 are sinks; frame p >= sinks lives in sinks + (p - sinks) % window.

    N' is N up to a multiple of 8 (from 8 tokens on): a TPU lays such a ring out as a kernel reads
    it, and would copy all of it around the kernel otherwise.

    With ``bits`` k and v are integer codes with scales: 8 bits, one code a byte and one scale per
    head of a token; 4 bits, two codes a byte and one scale for each half of a head.
    """

    k: (
        Array | Layer
    )  # [B, sinks + window, N', D] un-rotated in time; int8 codes with bits (D / 2 of 4)
    v: Array | Layer  # [B, sinks + window, N', D]
    pos: Array  # [B, sinks + window] int32 frame number, -1 where empty
    seen: Array  # [B] int32 frames seen
    k_scale: Array | Layer | None = None  # [B, sinks + window, 8 / bits * heads, N'] fp32
    v_scale: Array | Layer | None = None  # as k_scale
    segment: Array | None = None  # [B, sinks + window] int32, what each slot's frame belongs to


def init_ring(
    batch: int,
    sinks: int,
    window: int,
    tokens: int,
    dim: int,
    dtype,
    *,
    bits: int | None = None,
    kv_heads: int = 1,
    segments: bool = False,
) -> Ring:
    """An empty ring; leaves as in :class:`Ring`.

    Args:
      dim: width of a key: key heads x head width.
      dtype: of keys and values where they are not quantised.
      bits: 8 or 4 quantises keys and values; ``kv_heads`` then says how many heads have scales.
      segments: whether slots remember a segment id.

    Raises:
      KernelError: bits is neither 8 nor 4, or dim does not divide into heads and groups.
    """
    slots, tokens = sinks + window, padded(tokens)
    pos = jnp.full((batch, slots), -1, jnp.int32)
    segment = jnp.zeros((batch, slots), jnp.int32) if segments else None
    zeros = lambda kind, *shape: jnp.zeros((batch, slots, *shape), kind)
    scales = None, None
    if bits is not None:
        groups = groups_of(dim, kv_heads, bits)
        dim, dtype = dim * bits // 8, jnp.int8
        scales = zeros(jnp.float32, groups, tokens), zeros(jnp.float32, groups, tokens)
    # Each leaf is a buffer of its own, so that the carry can be donated from the first frame on.
    k, v = zeros(dtype, tokens, dim), zeros(dtype, tokens, dim)
    return Ring(k, v, pos, jnp.zeros((batch,), jnp.int32), *scales, segment)


def shape_of(a: Array | Layer) -> tuple[int, ...]:
    """[B, ...] of an array, or of one layer of a stack."""
    return (a.stack.shape[0], *a.stack.shape[2:]) if isinstance(a, Layer) else a.shape


def padded(tokens: int) -> int:
    """N' of :class:`Ring`."""
    return tokens if tokens < 8 else -(-tokens // 8) * 8


def groups_of(dim: int, kv_heads: int, bits: int) -> int:
    """Scales per token."""
    if bits not in BITS:
        raise KernelError(f"ring_attention: bits={bits!r} is neither 8 nor 4 nor None")
    groups = kv_heads * 8 // bits
    if dim % groups:
        raise KernelError(
            f"ring_attention: width {dim} does not divide into {groups} groups of {bits} bits "
            f"({kv_heads} key heads)"
        )
    return groups


def quantise(x: Array, kv_heads: int, bits: int) -> tuple[Array, Array]:
    """x [..., N, D] -> (codes [..., N, D * bits / 8] int8, scales [..., 8 / bits * heads, N] fp32).

    Symmetric, rounded to the nearest: an element is off by scale / 2 at most. Of 4 bits the first
    half of a head lies in the low nibbles, the second half in the high ones; the scales of all
    first halves come before those of all second halves.
    """
    top, planes = (127, 1) if bits == 8 else (7, 2)
    lead = x.shape[:-1]
    parts = x.astype(jnp.float32).reshape(*lead, kv_heads, planes, -1)
    scale = jax.lax.stop_gradient(jnp.abs(parts).max(-1) / top)
    codes = jnp.round(parts / jnp.maximum(scale, 1e-30)[..., None])
    codes = jnp.clip(codes, -top, top).astype(jnp.int8)
    if planes == 2:
        codes = (codes[..., 1:, :] << 4) | (codes[..., :1, :] & 15)
    scale = scale.swapaxes(-1, -2).reshape(*lead, -1).swapaxes(-1, -2)
    return codes.reshape(*lead, -1), scale


def dequantise(codes: Array, scale: Array | None, kv_heads: int) -> Array:
    """Undoes :func:`quantise`: [..., N, D] in fp32; what has no scale comes back as it is."""
    if scale is None:
        return codes
    lead, planes = codes.shape[:-1], scale.shape[-2] // kv_heads
    parts = codes.reshape(*lead, kv_heads, 1, -1)
    if planes == 2:
        parts = jnp.concatenate([(parts << 4) >> 4, parts >> 4], axis=-2)
    own = scale.swapaxes(-1, -2).reshape(*lead, planes, kv_heads).swapaxes(-1, -2)
    return (parts.astype(jnp.float32) * own[..., None]).reshape(*lead, -1)


def write(ring: Ring, new: Ring, fresh: Array, sinks: int, window: int) -> Ring:
    """Puts the first ``fresh[b]`` of the new frames (a ring of T slots) into their slots."""
    batch, steps = new.pos.shape
    step = jnp.arange(steps, dtype=jnp.int32)[None]
    pos = ring.seen[:, None] + step  # [B, T]
    end = (ring.seen + fresh)[:, None]
    slot = jnp.where(pos < sinks, pos, sinks + (pos - sinks) % window)
    # A frame that a later one of this chunk would overwrite is not written: no duplicate slots.
    lives = (step < fresh[:, None]) & ((pos < sinks) | (pos >= end - window))
    slot = jnp.where(lives, slot, sinks + window)  # out of range: dropped
    row = jnp.arange(batch)[:, None]

    def put(old: Array | Layer | None, part: Any) -> Any:
        if old is None or part is None:
            return old
        if isinstance(old, Layer):
            stack = old.stack.at[row, old.at, slot].set(part.astype(old.stack.dtype), mode="drop")
            return old._replace(stack=stack)
        return old.at[row, slot].set(part.astype(old.dtype), mode="drop")

    return Ring(
        put(ring.k, new.k),
        put(ring.v, new.v),
        put(ring.pos, pos),
        ring.seen + fresh,
        put(ring.k_scale, new.k_scale),
        put(ring.v_scale, new.v_scale),
        put(ring.segment, new.segment),
    )
