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

import jax.numpy as jnp

from ..memory import Notes, Slots, View, forget, free_slots, joined, numbered
from ..streaming import Array
from .policy import Arrival


@dataclass(frozen=True)
class Contiguous:
    """Keeps what fits, and reads it as one text without holes.

    Rows are ordered by their segment, and within it by when they came. A chunk's rows must not
    belong before rows that are there already; :func:`move` is for that.

    Attributes:
      budget: slots. A token that finds none is read, with those before it, and not kept: rows leave
        by events alone (``ChunkSinks.make_room``, ``StreamingVLM.begin_turn``, :func:`drop`).

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
        slot = free_slots(slots.notes, valid)
        stays = slot < self.capacity
        old = slots.notes["serial"] >= 0
        steps = valid.shape[1]
        back = jnp.arange(steps)[:, None] - jnp.arange(steps)
        own = (stays[:, None] & (back > 0)) | ((back == 0) & valid[:, None])
        before = jnp.broadcast_to(old[:, None], (*valid.shape, old.shape[1]))
        # one that is not kept takes no room from those behind it
        moves = jnp.where(stays, new["advance"], 0)
        both = {**{n: joined(slots.notes, new, n) for n in new}}
        both["advance"] = jnp.concatenate([slots.notes["advance"], moves], axis=1)
        place = places(both)
        # only differences count, and small numbers have exact angles
        base = place.max(axis=(1, 2), keepdims=True)
        view = View(
            jnp.concatenate([before, own], axis=2),
            place - base,
            (place[:, old.shape[1] :] - base)[:, :, None],
        )
        return Arrival(new, view, slot, seen, slots.next + (seen - slots.seen))


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
    """

    sinks: int = 4

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
