"""LiveVLM: what comes is kept in full until there is enough of it; then the rows stay that the
latest queries look at, some of every stretch of time; and a question reads the pages that suit it.

Source: "LiveVLM: Efficient Online Video Understanding via Streaming-Oriented KV Cache and
Retrieval" (arXiv 2505.15269), its second version's Vision Sink Bucketing and Position-agnostic
Retrieval. No official code was to be had: this is written from the published equations, and what
they leave open is ours: the numbers of ``top`` and ``asked``, and that a bucket is a stretch of
the whole stream, so that old times keep their share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from ..memory import EMPTY, Notes, Rotary, Slots, View, empty_slots, numbered, placed
from ..streaming import Array
from .livevlm_reading import Choosing, Recalling
from .livevlm_rows import Choice, Rows
from .policy import Arrival

NAMES = Rows._fields[2:]  # what stands in ``Slots.layered``


@dataclass(frozen=True)
class LiveVLM(Choice):
    """Keeps the first ``sinks`` rows, ``long`` chosen ones, and up to ``recent`` latest.

    Each time ``recent`` rows came, those and the chosen are weighed together: by the mean attention
    that the latest ``asked`` queries give them. Each layer chooses by itself. ``Slots.notes`` has
    the serials of the first layer. Its numbers are those of :class:`Choice`.
    """

    def notes(self, axes: int) -> dict[str, tuple[int, ...]]:
        return {"place": (axes,)}

    def arrive(self, slots: Slots, valid: Array, axes: int, told: Mapping[str, Array]) -> Arrival:
        """``told`` may have ``place`` [B, T, axes]: positions that the model gives its tokens."""
        serial, seen = numbered(slots, valid)
        place, after = placed(slots, valid, axes, told)
        new = {"serial": serial, "place": place}
        none = jnp.zeros((*valid.shape, axes), jnp.int32)
        view = View(None, none, none[:, :, None])  # each layer makes its own
        slot = jnp.full_like(serial, self.capacity)
        return Arrival(new, view, slot, seen, after)

    def layered(self, keys: Array, heads: int, axes: int) -> Notes:
        batch, depth, rows, _, width = keys.shape
        queries = (batch, depth, self.asked)
        return {
            "serial": jnp.full((batch, depth, rows), EMPTY, jnp.int32),
            "place": jnp.zeros((batch, depth, rows, axes), jnp.int32),
            "asked": jnp.zeros((*queries, heads, width), keys.dtype),
            "asked_place": jnp.zeros((*queries, axes), jnp.int32),
            "asked_serial": jnp.full(queries, EMPTY, jnp.int32),
        }

    def memories(
        self, slots: Slots, arrival: Arrival, valid: Array, rotary: Rotary, turned: Array
    ) -> Choosing:
        rows = Rows(slots.keys, slots.values, *(slots.layered[name] for name in NAMES))
        new = arrival.notes["serial"], arrival.notes["place"]
        return Choosing(self, rows, *new, valid, slots.next, rotary, turned)

    def settle(self, slots: Slots, arrival: Arrival, keys: Rows, values: tuple[()]) -> Slots:
        del values
        rows = jax.tree.map(lambda a: a.swapaxes(0, 1), keys)
        notes = {"serial": rows.serial[:, 0], "place": rows.place[:, 0]}
        layered = {name: getattr(rows, name) for name in NAMES}
        return Slots(rows.keys, rows.values, notes, arrival.seen, arrival.next, layered)

    def answer(self, room: int) -> LiveVLM:
        """The policy under which an answer is spoken: nothing of it leaves."""
        return replace(self, sinks=self.capacity + room, long=1, recent=1, buckets=None, top=0)

    def recall(self, slots: Slots, valid: Array, rotary: Rotary, turned: Array) -> Recalling:
        """What a question of T tokens reads; the slots stay as they are."""
        rows = Rows(slots.keys, slots.values, *(slots.layered[name] for name in NAMES))
        return Recalling(self, rows, slots.next, valid, rotary, turned)

    def begin_answer(
        self, slots: Slots, keys: Any, values: Array, valid: Array, room: int
    ) -> Slots:
        """keys: ([B, L, C + T, G, Dh], [B, L, C + T] bool: the rows that are read)."""
        keys, read = keys
        batch, depth, rows, heads, width = keys.shape
        later, axes = self.answer(valid.shape[1] + room), slots.layered["place"].shape[-1]
        kept = later.notes(axes)
        fresh = empty_slots(batch, depth, later.capacity, heads, width, kept, keys.dtype)
        put = lambda old, new: old.at[:, :, :rows].set(new.astype(old.dtype))
        number = jnp.arange(rows, dtype=jnp.int32)
        asked = slots.next[:, None] + jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1
        mine = jnp.broadcast_to(asked[:, None, :, None], (batch, depth, valid.shape[1], axes))
        layered = later.layered(fresh.keys, slots.layered["asked"].shape[3], axes)
        layered["serial"] = put(layered["serial"], jnp.where(read, number, EMPTY))
        layered["place"] = put(
            layered["place"], jnp.concatenate([slots.layered["place"], mine], axis=2)
        )
        count = valid.sum(axis=1, dtype=jnp.int32)
        notes = {"serial": layered["serial"][:, 0], "place": layered["place"][:, 0]}
        # what is said goes behind the question, whose last tokens may be none
        return Slots(
            put(fresh.keys, keys), put(fresh.values, values), notes, jnp.full_like(count, rows),
            slots.next + count, layered,
        )  # fmt: skip
