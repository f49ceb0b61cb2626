"""A ring of pages of keys and values: what block-gather attention over time reads.

Frame p lives in page p // page of its stream, and the pages that are kept lie in a ring of
``capacity`` pages. A page is given up as a whole, when the page that takes its place begins.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .exportable import exportable
from .positions import rotate_halves
from .ranks import to_rank

Array = jax.Array


@exportable
class PagedRing(NamedTuple):
    """Minor axis: all key heads side by side, a whole number of lanes on an accelerator."""

    k: Array  # [B, N, capacity * page, C]
    v: Array  # [B, N, capacity * page, C]
    seen: Array  # [B] int32 frames seen


class View(NamedTuple):
    """The pages that a chunk of frames may read; "logical" pages are in order of time."""

    k: Array  # [B, N, slots, C]
    v: Array  # [B, N, slots, C]
    pos: Array  # [B, slots] int32 frame number, -1 where there is none
    now: Array  # [B, T] int32 frame number of each new frame
    first: Array  # [B] int32 page number of logical page 0 (negative while a stream begins)
    place: Array  # [B, pages] int32 where each logical page lies
    capacity: int
    page: int

    @property
    def number(self) -> Array:
        """[B, pages]: the page number of each logical page."""
        return self.first[:, None] + jnp.arange(self.place.shape[1], dtype=jnp.int32)[None]

    def readable(self) -> Array:
        """[B, T, pages]: begun and not given up, as a new frame sees it."""
        own, number = (self.now // self.page)[..., None], self.number[:, None]
        return (number >= 0) & (number <= own) & (number > own - self.capacity)

    def locate(self, logical: Array) -> Array:
        """Logical pages [B, ...] -> pages of ``k``; -1 where out of range."""
        fits = (logical >= 0) & (logical < self.place.shape[1])
        flat = jnp.clip(logical, 0, self.place.shape[1] - 1).reshape(logical.shape[0], -1)
        found = jnp.take_along_axis(self.place, flat, axis=1).reshape(logical.shape)
        return jnp.where(fits, found, -1)


def init_ring(batch: int, tokens: int, capacity: int, page: int, width: int, dtype) -> PagedRing:
    """An empty ring; leaves as in :class:`PagedRing`."""
    shape = (batch, tokens, capacity * page, width)
    # a buffer each, so that the carry can be donated from the first frame on
    return PagedRing(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.zeros(batch, jnp.int32))


def drop_set(old: Array, slot: Array, new: Array) -> Array:
    """old [B, N, S, C] with rows new [B, N, T, C] at slot [B, T]; out of range: dropped."""
    put = lambda o, s, n: o.at[:, s].set(n.astype(o.dtype), mode="drop")
    return jax.vmap(put)(old, slot, new)


def take(x: Array, index: Array) -> Array:
    """x [B, N, S, C] at index [B, M], in range -> [B, N, M, C]."""
    return jax.vmap(lambda a, i: a.at[:, i].get(mode="promise_in_bounds"))(x, index)


def write(ring: PagedRing, k: Array, v: Array, fresh: Array) -> PagedRing:
    """Puts the first ``fresh[b]`` of the new frames [B, N, T, C] into their slots."""
    slots = ring.k.shape[2]
    step = jnp.arange(k.shape[2], dtype=jnp.int32)[None]
    # A frame that a later one of this chunk would overwrite is not written: no duplicate slots.
    lives = (step < fresh[:, None]) & (step >= (fresh - slots)[:, None])
    slot = jnp.where(lives, (ring.seen[:, None] + step) % slots, slots)
    return PagedRing(drop_set(ring.k, slot, k), drop_set(ring.v, slot, v), ring.seen + fresh)


def push(ring: PagedRing, k: Array, v: Array, fresh: Array, page: int) -> tuple[PagedRing, View]:
    """Writes new frames k, v [B, N, T, C], ``fresh[b]`` of them real, and shows what they see.

    A single frame reads the ring where it lies. A longer chunk reads a copy in order of time, as
    its last frames may take the place of pages that its first ones still see.
    """
    slots, steps = ring.k.shape[2], k.shape[2]
    capacity = slots // page
    now = ring.seen[:, None] + jnp.arange(steps, dtype=jnp.int32)[None]
    first = ring.seen // page - capacity + 1
    after = write(ring, k, v, fresh)
    if steps == 1:
        last = after.seen[:, None] - 1
        pos = last - (last - jnp.arange(slots, dtype=jnp.int32)[None]) % slots
        pos = jnp.where(pos >= jnp.maximum(first * page, 0)[:, None], pos, -1)
        place = (first[:, None] + jnp.arange(capacity, dtype=jnp.int32)[None]) % capacity
        return after, View(after.k, after.v, pos, now, first, place, capacity, page)
    count = capacity + (page + steps - 2) // page
    pos = first[:, None] * page + jnp.arange(count * page, dtype=jnp.int32)[None]
    index = jnp.where(pos < ring.seen[:, None], pos % slots, slots + pos - ring.seen[:, None])
    index = jnp.clip(index, 0, slots + steps - 1)
    both = lambda old, new: take(jnp.concatenate([old, new.astype(old.dtype)], axis=2), index)
    pos = jnp.where((pos >= 0) & (pos < after.seen[:, None]), pos, -1)
    place = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), (k.shape[0], count))
    return after, View(both(ring.k, k), both(ring.v, v), pos, now, first, place, capacity, page)


TURN = 1 << 24  # whole steps of a full turn


def turn(x: Array, position: Array, base: float) -> Array:
    """Rotary embedding that stays exact for ever: x [..., heads, D], position [...] int32.

    Frequencies are rounded to whole multiples of a full turn / 2 ** 24 (their wave length is
    within 4e-3 of the usual one at base 10,000 and width 64), so angles are computed in wrapping
    integers: keys that were turned when they were written agree with queries years later.
    """
    half = x.shape[-1] // 2
    rate = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    whole = jnp.round(rate * (TURN / (2 * jnp.pi))).astype(jnp.int32)
    position = position[..., None, None]
    # int32 wraps; TURN divides 2 ** 32
    steps = (position * to_rank(whole, position)) & (TURN - 1)
    angle = steps.astype(jnp.float32) * (2 * jnp.pi / TURN)
    return rotate_halves(x, jnp.cos(angle), jnp.sin(angle)).astype(x.dtype)
