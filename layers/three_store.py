"""Working and long-term memory of what a tracker saw: exact frames, and prototypes of older ones.

The working memory holds the keys and values of the first frame and of the last few. When it is
full the frames between go: the most used of their cells become prototypes in the long-term memory,
whose values are means of all that goes, weighted by likeness. Where the long-term memory is full,
what was used least makes room. Without one the oldest frame but the first gives way.

Every row (a stream's object) has its own keys, so that objects come and go without each other; the
shapes never change. The third store, the sensory memory, is the state of a recurrent unit and lives
with the network that has it.

Source: Cheng and Schwing, XMem (arXiv 2207.07115), sections 3.2 to 3.4 and its code,
hkchengrex/XMem, ``memory_manager.py`` and ``kv_memory_store.py``; DEVA and Cutie (same author) have
the same stores, one for all objects that came with the same frame.

Axis letters: ``lead`` rows, F frames, L cells of a frame, N prototypes, M cells that ask, C key and
D value width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import struct

from .exportable import exportable
from .prototypes import (
    MANY,
    LongTerm,
    counted,
    frequency,
    like,
    prototypes,
    remembered,
    share,
    similarity,
)
from .ranks import to_rank

Array = jax.Array


@dataclass(frozen=True)
class StoreSizes:
    """How much is remembered.

    Attributes:
      frames: F, of the working memory.
      kept: frames that stay in it when it is full, the first among them.
      prototypes: cells that stand for those that go.
      long: N, entries of the long-term memory; 0: there is none.
      spare: entries that are freed besides where it is full.
      ties: those that were used as little as the first that goes stay (Cutie); else they go, too.
      nearest: entries that a cell reads; 0: all.

    Raises:
      ValueError: fewer than two frames, none that could go, or no room for prototypes.
    """

    frames: int
    kept: int = 1
    prototypes: int = 0
    long: int = 0
    spare: int = 0
    ties: bool = False
    nearest: int = 30

    def __post_init__(self) -> None:
        if not 1 <= self.kept < self.frames:
            raise ValueError(f"{self.kept} frames stay of {self.frames}; some must go, one stays")
        if self.long and not 0 < self.prototypes <= self.long - self.spare - self.prototypes:
            raise ValueError(
                f"{self.prototypes} prototypes and {self.spare} spare of {self.long} entries: "
                "twice the prototypes must fit"
            )


@exportable
@struct.dataclass
class Working:
    """Frames in the order in which they came.

    key, select: [*lead, F, L, C]; shrink, usage: [*lead, F, L]; value: [*lead, F, L, D]
    reads: [*lead, F] int32, since a frame was written; count: [*lead] int32, frames there are
    """

    key: Array
    select: Array
    shrink: Array
    value: Array
    usage: Array
    reads: Array
    count: Array


@exportable
@struct.dataclass
class Stores:
    """Both; ``long`` is None where there is none."""

    working: Working
    long: LongTerm | None


def empty_stores(
    lead: tuple[int, ...], sizes: StoreSizes, cells: int, key: int, value: int, dtype: str
) -> Stores:
    """Nothing remembered; ``dtype`` is that of values, keys are fp32."""

    def some(*shape: int, kind: str = "float32") -> Array:
        return jnp.zeros((*lead, *shape), kind)

    f, n = sizes.frames, sizes.long
    working = Working(
        key=some(f, cells, key), select=some(f, cells, key), shrink=some(f, cells),
        value=some(f, cells, value, kind=dtype), usage=some(f, cells),
        reads=some(f, kind="int32"), count=some(kind="int32"),
    )  # fmt: skip
    if not n:
        return Stores(working, None)
    long = LongTerm(
        key=some(n, key), shrink=some(n), value=some(n, value, kind=dtype), usage=some(n),
        reads=some(n, kind="int32"), count=some(kind="int32"),
    )  # fmt: skip
    return Stores(working, long)


def forget(stores: Stores, which: Array) -> Stores:
    """Nothing of the rows in ``which`` [*lead] bool."""
    return jax.tree.map(lambda a: jnp.where(like(which, a), jnp.zeros((), a.dtype), a), stores)


def _flat(a: Array, like: Array) -> Array:
    """[*lead, F, L, ...] -> [*lead, F * L, ...]; ``like`` is [*lead]."""
    return a.reshape(*like.shape, -1, *a.shape[like.ndim + 2 :])


def read(
    stores: Stores, sizes: StoreSizes, query: Array, select: Array, reading: Array
) -> tuple[Stores, Array]:
    """What cells find: (stores with their usage counted, values [*lead, M, D] fp32).

    query, select: [*lead, M, C] or with axes of one; reading: [*lead] bool, rows whose reads count.
    """
    w, long = stores.working, stores.long
    lead, (f, cells) = w.count, w.usage.shape[-2:]
    here = to_rank(jnp.arange(f), w.reads) < w.count[..., None]
    there = jnp.repeat(here, cells, axis=-1)
    key, shrink, value = (_flat(a, lead) for a in (w.key, w.shrink, w.value))
    if long is not None:
        known = to_rank(jnp.arange(sizes.long), long.shrink) < long.count[..., None]
        there = jnp.concatenate([known, there], -1)
        key = jnp.concatenate([long.key, key], -2)
        shrink = jnp.concatenate([long.shrink, shrink], -1)
        value = jnp.concatenate([long.value, value], -2)
    weight = share(similarity(key, shrink, query, select), there, sizes.nearest)
    found = jnp.einsum(
        "...mn,...nd->...md", weight.astype(value.dtype), value, preferred_element_type=jnp.float32
    )
    if long is None:
        return stores, found
    used = weight.sum(-2)
    before, after = used[..., : sizes.long], used[..., sizes.long :]
    usage, reads = counted(long.usage, long.reads, before, reading)
    many = reads >= MANY
    usage, reads = jnp.where(many, usage / 2, usage), jnp.where(many, reads // 2, reads)
    long = replace(long, usage=usage, reads=reads)
    after = jnp.where(reading[..., None, None], after.reshape(w.usage.shape), 0.0)
    _, reads = counted(jnp.zeros_like(here, jnp.float32), w.reads, jnp.zeros(()), reading)
    w = replace(w, usage=w.usage + after, reads=jnp.minimum(reads, MANY))
    return Stores(w, long), found


def add(
    stores: Stores,
    sizes: StoreSizes,
    key: Array,
    shrink: Array,
    select: Array,
    value: Array,
    write: Array,
) -> Stores:
    """A frame more: key, select [*lead, L, C], shrink [*lead, L] (or with axes of one), value
    [*lead, L, D], for the rows in ``write`` [*lead] bool."""
    w = stores.working
    if stores.long is None:  # first in, first out, but for the very first
        full = write & (w.count == sizes.frames)
        shifted = _without(w, sizes, sizes.frames - 1)
        w = jax.tree.map(lambda n, o: jnp.where(like(full, n), n, o), shifted, w)
    axis = w.count.ndim
    place = to_rank(jnp.arange(sizes.frames), w.reads) == w.count[..., None]
    place &= write[..., None]

    def put(old: Array, new: Array) -> Array:
        new = jnp.expand_dims(new, axis).astype(old.dtype)
        return jnp.where(like(place, old), new, old)

    w = Working(
        key=put(w.key, key), select=put(w.select, select), shrink=put(w.shrink, shrink),
        value=put(w.value, value), usage=jnp.where(like(place, w.usage), 0.0, w.usage),
        reads=jnp.where(place, 0, w.reads), count=w.count + write.astype(jnp.int32),
    )  # fmt: skip
    stores = replace(stores, working=w)
    if stores.long is None:
        return stores
    full = w.count >= sizes.frames
    go = lambda: _where(full, _consolidated(stores, sizes), stores)
    return jax.lax.cond(full.any(), go, lambda: stores)


def _where(rows: Array, new: Stores, old: Stores) -> Stores:
    return jax.tree.map(lambda n, o: jnp.where(like(rows, n), n, o), new, old)


def _without(w: Working, sizes: StoreSizes, kept: int) -> Working:
    """Of full stores the first frame and the last ``kept - 1``."""
    axis, f = w.count.ndim, sizes.frames

    def cut(a: Array) -> Array:
        first = jax.lax.slice_in_dim(a, 0, 1, axis=axis)
        last = jax.lax.slice_in_dim(a, f - kept + 1, f, axis=axis)
        none = jnp.zeros_like(jax.lax.slice_in_dim(a, 0, f - kept, axis=axis))
        return jnp.concatenate([first, last, none], axis)

    rest = {name: cut(getattr(w, name)) for name in vars(w) if name != "count"}
    return Working(**rest, count=jnp.full_like(w.count, kept))


def _consolidated(stores: Stores, sizes: StoreSizes) -> Stores:
    """Of full stores: the frames between become prototypes."""
    w, long = stores.working, stores.long
    assert long is not None
    axis, end = w.count.ndim, sizes.frames - sizes.kept + 1
    between = lambda a: jax.lax.slice_in_dim(a, 1, end, axis=axis)
    usage = frequency(between(w.usage), between(w.reads)[..., None])
    flat = [_flat(between(a), w.count) for a in (w.key, w.shrink, w.select, w.value)]
    new = prototypes(*flat, usage=_flat(usage, w.count), count=sizes.prototypes)
    long = remembered(long, *new, spare=sizes.spare, ties=sizes.ties)
    return Stores(_without(w, sizes, sizes.kept), long)
