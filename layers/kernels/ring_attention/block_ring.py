"""A ring whose keys are quantised per channel over blocks of frames, its values per token.

A channel of the keys has a range of its own, alike in all frames, so over a block of frames it
loses less than a token over its channels. The frames of a block that is not full are kept beside
the codes in full precision; when it is full, they take the place of the block of a window ago.
Sinks stay in full precision. Source: Liu et al., "KIVI" (arXiv 2402.02750), section 3; keys before
their rotation, as in Hooper et al., "KVQuant" (arXiv 2401.18079), section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ...codec import kivi
from ...exportable import exportable
from ..dispatch import KernelError
from .reference import Keys

Array = jax.Array
BITS = (8, 4, 2)
GROUP = 32  # channels of a value that share a scale


@exportable
class BlockRing(NamedTuple):
    """Frame p >= sinks lives in slot (p - sinks) % window; codes are those of ``codec.kivi``."""

    k: Array  # [B, N, window * bits / 32, D] int32
    k_scale: Array  # [B, N, window / block, 1, D] fp32
    k_least: Array  # as k_scale
    v: Array  # [B, N, window, D * bits / 32] int32
    v_scale: Array  # [B, N, window, D / 32, 1] fp32
    v_least: Array  # as v_scale
    new: Array  # [B, N, block, D] keys of the block that is not full
    first_k: Array  # [B, N, sinks, D]
    first_v: Array  # [B, N, sinks, D]
    pos: Array  # [B, sinks + window] int32 frame number, -1 where empty
    seen: Array  # [B] int32 frames seen

    @property
    def bits(self) -> int:
        """Of a code."""
        return 32 * self.v.shape[-1] // self.new.shape[-1]


def init_block_ring(
    batch: int,
    sinks: int,
    window: int,
    tokens: int,
    dim: int,
    dtype,
    *,
    bits: int,
    block: int,
) -> BlockRing:
    """An empty ring; leaves as in :class:`BlockRing`.

    Raises:
      KernelError: bits that are not 8, 4 or 2, or sizes that do not divide.
    """
    if bits not in BITS:
        raise KernelError(f"ring_attention: bits={bits!r} is none of 8, 4, 2, as block= wants")
    if window % block or block * bits % 32:
        raise KernelError(
            f"ring_attention: block={block} must divide window={window}, and its codes of {bits}"
            f" bits fill words of 32: blocks of {32 // bits}, {64 // bits}, ... frames do"
        )
    if dim % GROUP:
        raise KernelError(f"ring_attention: width {dim} does not divide into groups of {GROUP}")
    zeros = lambda kind, *shape: jnp.zeros((batch, tokens, *shape), kind)
    scale, group = (window // block, 1, dim), (window, dim // GROUP, 1)
    return BlockRing(
        zeros(jnp.int32, window * bits // 32, dim),
        zeros(jnp.float32, *scale),
        zeros(jnp.float32, *scale),
        zeros(jnp.int32, window, dim * bits // 32),
        zeros(jnp.float32, *group),
        zeros(jnp.float32, *group),
        zeros(dtype, block, dim),
        zeros(dtype, sinks, dim),
        zeros(dtype, sinks, dim),
        jnp.full((batch, sinks + window), -1, jnp.int32),
        jnp.zeros((batch,), jnp.int32),
    )


def check(ring: BlockRing, k: Array, sinks: int, window: int) -> None:
    """Raises KernelError: a ring of other sizes."""
    tokens, dim = k.shape[2:]
    got = (ring.new.shape[1], ring.new.shape[-1], ring.first_k.shape[2], ring.v.shape[2])
    if got != (tokens, dim, sinks, window):
        raise KernelError(
            f"ring_attention: a ring in blocks of (tokens, width, sinks, window) {got} must be"
            f" {(tokens, dim, sinks, window)}; make it with init_block_ring"
        )


def attend(
    ring: BlockRing,
    q: Array,
    k: Array,
    v: Array,
    fresh: Array,
    read: Callable[[Array, Keys], Array],
) -> tuple[BlockRing, Array]:
    """Frame by frame, so that a clip reads what a stream reads: a key is exact for those queries
    alone that come before its block is full. q [B, T, N, heads x Dh], k and v [B, T, N, D], of
    which ``fresh`` [B] frames exist; ``read(q of one frame, keys)`` is the attention."""

    def turn(ring: BlockRing, frame: tuple[Array, ...]) -> tuple[BlockRing, Array]:
        q, k, v, here = frame
        ring = push(ring, k, v, here)
        keys = Keys(*_frames(ring), None, None, ring.pos, ring.seen[:, None] - 1, None, None)
        return ring, read(q[:, None], keys)[:, 0]

    here = jnp.arange(q.shape[1])[:, None] < fresh[None]
    frames = (*(a.swapaxes(0, 1) for a in (q, k, v)), here)
    if q.shape[1] == 1:
        ring, y = turn(ring, tuple(a[0] for a in frames))
        return ring, y[:, None]
    ring, y = jax.lax.scan(turn, ring, frames)
    return ring, y.swapaxes(0, 1)


def push(ring: BlockRing, k: Array, v: Array, here: Array) -> BlockRing:
    """Writes a frame k, v [B, N, D] of the streams that have one, ``here`` [B]."""
    sinks, window, block, bits = *_sizes(ring), ring.bits
    late = ring.seen - sinks  # which frame behind the sinks this is
    slot, row = late % window, jnp.arange(len(here))
    one = kivi.quantise_values(jnp.where(here[:, None, None], v, 0)[:, :, None], bits, GROUP)

    def put(old: Array, part: Array, at: Array, wanted: Array) -> Array:
        """old [B, N, S, ...] with part [B, N, ...] at [B] of the streams ``wanted``."""
        at = jnp.where(wanted, at, old.shape[2])  # out of range: dropped
        return old.at[row, :, at].set(part.astype(old.dtype), mode="drop")

    kept, begun = here & (late >= 0), here & (late < 0)
    new = put(ring.new, k, slot % block, kept)
    full = kept & (slot % block == block - 1)
    words = block * bits // 32

    def packed(old: tuple[Array, ...]) -> tuple[Array, ...]:
        codes = kivi.quantise_keys(new.astype(jnp.float32), bits, block)
        start = slot // block
        rows = lambda a: a.reshape(*a.shape[:2], -1, words, a.shape[-1])
        mine = full[:, None, None, None, None]
        choose = lambda a, part: jnp.where(
            mine & (jnp.arange(a.shape[2])[:, None, None] == start[:, None, None, None, None]),
            part,
            a,
        )
        k, scale, least = old
        return (
            choose(rows(k), rows(codes.codes)).reshape(k.shape),
            choose(scale, codes.scale),
            choose(least, codes.least),
        )

    keys = (ring.k, ring.k_scale, ring.k_least)
    codes, scale, least = jax.lax.cond(full.any(), packed, lambda old: old, keys)
    place = jnp.where(late < 0, ring.seen, sinks + slot)
    pos = jnp.where(
        here[:, None] & (jnp.arange(sinks + window) == place[:, None]),
        ring.seen[:, None],
        ring.pos,
    )
    return BlockRing(
        codes,
        scale,
        least,
        put(ring.v, one.codes[:, :, 0], slot, kept),
        put(ring.v_scale, one.scale[:, :, 0], slot, kept),
        put(ring.v_least, one.least[:, :, 0], slot, kept),
        new,
        put(ring.first_k, k, ring.seen, begun),
        put(ring.first_v, v, ring.seen, begun),
        pos,
        ring.seen + here,
    )


def _sizes(ring: BlockRing) -> tuple[int, int, int]:
    """(sinks, window, block)."""
    return ring.first_k.shape[2], ring.v.shape[2], ring.new.shape[2]


def _frames(ring: BlockRing) -> tuple[Array, Array]:
    """Keys and values [B, sinks + window, N, D] as they are read after a frame was pushed."""
    sinks, window, block = _sizes(ring)
    k = kivi.dequantise_keys(kivi.Packed(ring.k, ring.k_scale, ring.k_least), ring.bits)
    v = kivi.dequantise_values(kivi.Packed(ring.v, ring.v_scale, ring.v_least), ring.bits)
    last = ring.seen[:, None] - 1 - sinks  # of the frames behind the sinks, -1 if there is none
    slots = jnp.arange(window)
    begun = (last % window // block == slots // block) & (slots % block <= last % block)
    begun &= (last >= 0) & (last % block != block - 1)
    new = jnp.tile(ring.new, (1, 1, window // block, 1))
    k = jnp.where(begun[:, None, :, None], new.astype(k.dtype), k)
    join = lambda first, rest: jnp.concatenate([first.astype(rest.dtype), rest], axis=2).swapaxes(
        1, 2
    )
    return join(ring.first_k, k), join(ring.first_v, v)
