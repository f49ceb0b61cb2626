"""Rows that close ranks: what is kept stands side by side, whatever left from between.

A row's position is the sum of what the rows before it advance: 1 for a word, the longer side of
the grid for the last row of a picture, 0 for its other rows, which stand at offsets of its start
(M-RoPE). Rows leave by events, between chunks: they are told to a function of the slots.

Sources: Xiao et al., "Efficient Streaming Language Models with Attention Sinks" (arXiv
2309.17453); Xu et al., "StreamingVLM" (arXiv 2510.09608) for positions on three axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..memory import Notes, Slots, View, forget, joined, numbered
from ..streaming import Array
from .policy import Arrival

LATE = jnp.iinfo(jnp.int32).max


@dataclass(frozen=True)
class Contiguous:
    """Keeps what fits, and reads it as one text without holes.

    Rows are ordered by their segment, and within it by when they came. A chunk's rows must not
    belong before rows that are there already; :func:`move` is for that. Rows leave by events
    (``ChunkSinks.make_room``, ``StreamingVLM.begin_turn``, :func:`drop`), and where those leave no
    room, each token takes that of the oldest row of the first segment that is not pinned; of a
    pinned one only where there is no other.

    Attributes:
      budget: slots.

    Raises:
      ValueError: no slots.
    """

    budget: int = 1024

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ValueError(f"a budget of {self.budget} slots: at least 1")

    @property
    def capacity(self) -> int:
        return self.budget

    @property
    def pinned(self) -> int:
        """Segments below this one leave by events, while there are others."""
        return 0

    def notes(self, axes: int) -> dict[str, tuple[int, ...]]:
        return {"segment": (), "turn": (), "role": (), "advance": (), "offset": (axes,)}

    def arrive(self, slots: Slots, valid: Array, axes: int, told: Mapping[str, Array]) -> Arrival:
        """``told`` may have ``segment``, ``turn`` and ``role`` [B, T], 0 by default, ``advance``
        [B, T], 1 by default, and ``offset`` [B, T, axes], 0 by default."""
        serial, seen = numbered(slots, valid)
        new = {"serial": serial}
        for name, shape in self.notes(axes).items():
            plain = jnp.full((*valid.shape, *shape), int(name == "advance"), jnp.int32)
            new[name] = jnp.asarray(told.get(name, plain), jnp.int32)
        both = {name: joined(slots.notes, new, name) for name in new}
        taken = seats(slots.notes, new, self.pinned)
        old, steps = self.capacity, valid.shape[1]
        came = jnp.where(jnp.arange(old + steps) < old, -1, jnp.arange(old + steps) - old)
        now = jnp.arange(steps)[:, None]
        there = (came <= now)[None] & (taken.until[:, None] > now[None])
        there &= (both["serial"] >= 0)[:, None] & valid[..., None]
        place = places(both)
        # only differences count, and small numbers have exact angles
        base = place.max(axis=(1, 2), keepdims=True)
        queries = (place[:, old:] - base)[:, :, None]
        group = None
        if self.pinned:  # between these rows and the others a hole closes as rows leave
            group = (both["segment"] >= self.pinned).astype(jnp.int32)
            gone = jnp.where(group[:, old:] > 0, taken.gone, 0)[..., None, None]
            queries = jnp.concatenate([queries - gone, queries], axis=2)
        last = taken.until[:, old:] > steps  # nothing of this chunk took its slot
        slot = jnp.where(valid & last, taken.slot, old)
        view = View(there, place - base, queries, group)
        return Arrival(new, view, slot, seen, slots.next + (seen - slots.seen))


class Seats(NamedTuple):
    """Where T new tokens go that come one by one, K rows counted from the slots' on.

    slot: [B, T] int32.
    until: [B, K] int32, the number of the token that took a row's slot; later than all, where none
      did.
    gone: [B, T] int32, what the rows that are not pinned and left so far had advanced.
    """

    slot: Array
    until: Array
    gone: Array


def seats(old: Notes, new: Notes, pinned: int) -> Seats:
    """Each new token takes a free slot, or that of the first row that is not pinned."""
    batch, capacity = old["serial"].shape
    steps = new["serial"].shape[1]
    stream = jnp.arange(batch)

    def sit(state, now):
        rows, owner, until, gone = state
        held = rows["serial"] >= 0
        free, loose = ~held, held & (rows["segment"] >= pinned)
        has = lambda mask: mask.any(axis=1, keepdims=True)
        among = jnp.where(has(free), free, jnp.where(has(loose), loose, held))
        slot = jnp.argmin(jnp.where(among, _first(rows, among), LATE), axis=1)
        take = lambda a: jnp.take_along_axis(a, slot[:, None], axis=1)[:, 0]
        there = now["serial"] >= 0
        leaves = there & take(held)
        number = now["number"]
        left = jnp.where(leaves, take(owner), capacity + steps)
        until = until.at[stream, left].set(number, mode="drop")
        counted = leaves & (take(rows["segment"]) >= pinned)
        gone = gone + jnp.where(counted, take(rows["advance"]), 0)
        put = lambda a, value: a.at[stream, slot].set(jnp.where(there, value, take(a)))
        rows = {name: put(rows[name], now[name]) for name in rows}
        return (rows, put(owner, capacity + number), until, gone), (slot.astype(jnp.int32), gone)

    names = ("serial", "segment", "advance")
    over = {name: new[name].swapaxes(0, 1) for name in names}
    over["number"] = jnp.arange(steps, dtype=jnp.int32)
    own = jnp.broadcast_to(jnp.arange(capacity, dtype=jnp.int32), (batch, capacity))
    until = jnp.full((batch, capacity + steps), LATE, jnp.int32)
    first = {name: old[name] for name in names}, own, until, jnp.zeros(batch, jnp.int32)
    (_, _, until, _), (slot, gone) = jax.lax.scan(sit, first, over)
    return Seats(slot.swapaxes(0, 1), until, gone.swapaxes(0, 1))


def _first(rows: Notes, among: Array) -> Array:
    """[B, C]: by this the first row of ``among`` is the smallest: of the lowest segment, the
    oldest."""
    segment = jnp.where(among, rows["segment"], LATE)
    lowest = segment == segment.min(axis=1, keepdims=True)
    return jnp.where(among & lowest, rows["serial"], LATE)


def ordered(notes: Notes) -> Array:
    """[B, K] int32: the rows in their order, those that hold nothing last."""
    gone = notes["serial"] < 0
    key = (notes["serial"], notes["segment"], gone)
    return jnp.lexsort(key, axis=1).astype(jnp.int32)


def ranks(notes: Notes) -> Array:
    """[B, K] int32: how many rows stand before each."""
    return jnp.argsort(ordered(notes), axis=1).astype(jnp.int32)


def places(notes: Notes) -> Array:
    """[B, K, A] int32: where rows stand that close ranks."""
    order = ordered(notes)
    advance = jnp.where(notes["serial"] >= 0, notes["advance"], 0)
    along = jnp.take_along_axis(advance, order, axis=1)
    start = jnp.cumsum(along, axis=1) - along
    back = jnp.argsort(order, axis=1)
    return jnp.take_along_axis(start, back, axis=1)[..., None] + notes["offset"]


def drop(slots: Slots, rows: Array) -> Slots:
    """The slots without ``rows`` [B, C]."""
    return replace(slots, notes=forget(slots.notes, ~rows))


def move(slots: Slots, rows: Array, segment: int) -> Slots:
    """``rows`` [B, C] go to the end of another segment."""
    notes = {**slots.notes, "segment": jnp.where(rows, segment, slots.notes["segment"])}
    return replace(slots, notes=notes)


def trim(slots: Slots, rows: Array, first: Array | int, last: Array | int) -> Slots:
    """Of ``rows`` [B, C] all but the ``first`` and the ``last`` ones leave."""
    rank = ranks({**slots.notes, "serial": jnp.where(rows, slots.notes["serial"], -1)})
    count = rows.sum(axis=1, dtype=jnp.int32)[:, None]
    return drop(slots, rows & (rank >= first) & (rank < count - last))


@dataclass(frozen=True)
class ChunkSinks(Contiguous):
    """StreamingLLM as its authors run it: room for a whole chunk is made before it comes, so what a
    token sees depends on the chunk that it came in. ``Recent(sinks, recent, "cache")`` is the same
    for chunks of one token, and does not depend on them.

    Attributes:
      sinks: rows that stay.
      budget: all rows, a chunk that comes included.

    Raises:
      ValueError: no slots beside the sinks.
    """

    sinks: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.sinks < self.budget:
            raise ValueError(f"{self.sinks} sinks of {self.budget} slots leave none for what comes")

    def make_room(self, slots: Slots, count: int) -> Slots:
        """Before ``count`` tokens come: all but the sinks and the latest rows leave.

        Raises:
          ValueError: more tokens than there is room for beside the sinks.
        """
        recent = self.budget - self.sinks
        if count > recent:
            raise ValueError(f"{count} tokens at once, and room for {recent} beside the sinks")
        full = slots.used[:, None] + count > self.budget
        keep = jnp.where(full, recent - count, self.capacity)
        return trim(slots, slots.notes["serial"] >= 0, self.sinks, keep)
