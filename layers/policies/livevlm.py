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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..kernels.attention import attention, attention_with_rows
from ..memory import EMPTY, Notes, Reader, Rotary, Slots, View, empty_slots, numbered, placed
from ..positions import rotate_halves
from ..streaming import Array
from .buckets import LATE, bucketed
from .policy import Arrival


class Rows(NamedTuple):
    """What one layer holds: S + M + R rows, the first, the chosen and the latest.

    keys, values: [B, C, G, Dh], un-turned; serial [B, C] int32, EMPTY for none; place [B, C, A];
    asked [B, Q, H, Dh], the latest queries, un-turned, and asked_place [B, Q, A], asked_serial
    [B, Q].
    """

    keys: Array
    values: Array
    serial: Array
    place: Array
    asked: Array
    asked_place: Array
    asked_serial: Array


NAMES = Rows._fields[2:]  # what stands in ``Slots.layered``


@dataclass(frozen=True)
class LiveVLM:
    """Keeps the first ``sinks`` rows, ``long`` chosen ones, and up to ``recent`` latest.

    Each time ``recent`` rows came, those and the chosen are weighed together: by the mean attention
    that the latest ``asked`` queries give them. Each layer chooses by itself. ``Slots.notes`` has
    the serials of the first layer.

    Attributes:
      sinks: first rows, which stay.
      long: rows that are chosen (M).
      recent: latest rows, kept in full (R).
      buckets: stretches of the stream that share ``long`` (N); None: as many as rows, one each.
      top: rows of the highest scores that stay whatever their bucket.
      asked: latest queries that say what matters (r).
      page: neighbouring chosen rows that a question reads together, or not.
      ratio: share of the pages that a question reads.

    Raises:
      ValueError: numbers that leave nothing.
    """

    sinks: int = 4
    long: int = 768
    recent: int = 252
    buckets: int | None = None
    top: int = 64
    asked: int = 16
    page: int = 16
    ratio: float = 0.4

    def __post_init__(self) -> None:
        small = min(self.long, self.recent, self.asked, self.page, self.buckets or 1)
        if small < 1 or self.sinks < 0 or self.top < 0 or not 0 < self.ratio <= 1:
            raise ValueError(
                f"{self}: at least one chosen and one latest row, one query, one bucket, a page of"
                " one row, and a share of the pages above 0, up to 1"
            )
        if self.buckets is not None and self.buckets > self.long:
            raise ValueError(f"{self.buckets} buckets share {self.long} rows: at least one each")

    @property
    def capacity(self) -> int:
        return self.sinks + self.long + self.recent

    @property
    def room(self) -> int:
        """Rows of a bucket."""
        return self.long // (self.buckets or self.long)

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

    def compress(self, rows: Rows, total: Array, turn: Any) -> Rows:
        """The chosen and the latest rows become ``long`` chosen ones; ``total`` [B] tokens came
        behind the first, and ``turn(x, place)`` turns queries and keys."""
        first, late = (
            self.sinks,
            rows._replace(
                **{name: getattr(rows, name)[:, self.sinks :] for name in Rows._fields[:4]}
            ),
        )
        held = late.serial >= 0
        asks = rows.asked_serial
        seen = held[:, None] & (late.serial[:, None] <= asks[..., None]) & (asks >= 0)[..., None]
        _, weight = attention_with_rows(
            turn(rows.asked, rows.asked_place), turn(late.keys, late.place), late.values,
            seen[:, None],
        )  # fmt: skip
        score = weight.sum(axis=(1, 2))
        stretch = -(-total // (self.buckets or self.long))
        bucket = (late.serial - first) // jnp.maximum(stretch, 1)[:, None]
        stays = bucketed(score, bucket, held, self.long, self.room, self.top)
        order = jnp.argsort(jnp.where(stays, late.serial, LATE), axis=1)[:, : self.long]
        take = lambda a: jnp.take_along_axis(
            a, order.reshape(*order.shape, *(1,) * (a.ndim - 2)), 1
        )
        serial = jnp.where(take(stays), take(late.serial), EMPTY)
        gone = ((0, 0), (0, self.recent))
        put = lambda old, new: old.at[:, first : first + self.long].set(new)
        return rows._replace(
            keys=put(rows.keys, take(late.keys)),
            values=put(rows.values, take(late.values)),
            place=put(rows.place, take(late.place)),
            serial=jnp.concatenate(
                [rows.serial[:, :first], jnp.pad(serial, gone, constant_values=EMPTY)], axis=1
            ),
        )

    # --- a question -------------------------------------------------------------------------

    def answer(self, room: int) -> LiveVLM:
        """The policy under which an answer is spoken: nothing of it leaves."""
        return replace(self, sinks=self.capacity + room, long=1, recent=1, buckets=None, top=0)

    def pages(self, q: Array, keys: Array, serial: Array, valid: Array) -> Array:
        """Which rows a question reads: q [B, T, H, Dh] and keys [B, C, G, Dh] of a layer, un-turned
        -> [B, C] bool: the first and the latest, and the best share of the pages of the chosen."""
        batch, count, heads = len(q), -(-self.long // self.page), q.shape[2]
        number = jnp.maximum(valid.sum(axis=1), 1)[:, None, None]
        asked = (q * valid[:, :, None, None]).sum(axis=1) / number
        end = self.sinks + self.long
        pad = ((0, 0), (0, count * self.page - self.long))
        held = jnp.pad(serial[:, self.sinks : end] >= 0, pad).reshape(batch, count, self.page)
        rows = jnp.pad(keys[:, self.sinks : end], (*pad, (0, 0), (0, 0)))
        rows = rows.reshape(batch, count, self.page, *keys.shape[2:]) * held[..., None, None]
        mean = rows.sum(axis=2) / jnp.maximum(held.sum(axis=2), 1)[..., None, None]
        mean = jnp.repeat(mean, heads // keys.shape[2], axis=2)
        score = jnp.einsum("bhd,bphd->bp", asked, mean)
        some = held.any(axis=2)
        rank = jnp.argsort(jnp.argsort(jnp.where(some, -score, jnp.inf), axis=1, stable=True), 1)
        most = jnp.ceil(self.ratio * some.sum(axis=1) - 1e-6).astype(jnp.int32)
        read = jnp.repeat(some & (rank < most[:, None]), self.page, axis=1)[:, : self.long]
        sides = jnp.ones((batch, self.sinks), bool), jnp.ones((batch, self.recent), bool)
        return jnp.concatenate([sides[0], read, sides[1]], axis=1) & (serial >= 0)

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


def _turner(rotary: Rotary, turned: Array, base: Array):
    """A function that turns x [B, N, H, Dh] which stands at place [B, N, A], relative to ``base``
    [B]: small numbers have exact angles."""

    def turn(x: Array, place: Array) -> Array:
        cos, sin = rotary.angles((place - base[:, None, None])[:, :, None])
        return jnp.where(turned, rotate_halves(x, cos, sin).astype(x.dtype), x)

    return turn


def _layer(whole: Any, index: Array) -> Any:
    one = lambda a: jax.lax.dynamic_index_in_dim(a, index, 1, keepdims=False)
    return whole._replace(
        rows=jax.tree.map(one, whole.rows),
        turned=jax.lax.dynamic_index_in_dim(whole.turned, index, 0, keepdims=False),
    )


class Choosing(NamedTuple):
    """The rows of one layer, or of all, as new tokens come: serial [B, T], place [B, T, A],
    valid [B, T], base [B]."""

    policy: LiveVLM
    rows: Rows
    serial: Array
    place: Array
    valid: Array
    base: Array
    rotary: Rotary
    turned: Array

    def layer(self, index: Array) -> Choosing:
        return _layer(self, index)

    def __call__(
        self, q: Array, k: Array, v: Array, softcap: float | None = None
    ) -> tuple[Array, Rows, tuple[()]]:
        """As of :class:`Reader`; what to keep are the rows of the layer."""
        policy = self.policy
        first, begin = policy.sinks, policy.sinks + policy.long
        turn = _turner(self.rotary, self.turned, self.base)
        stream = jnp.arange(len(q))

        def come(rows: Rows, now):
            q, k, v, serial, place, there = now
            behind = serial - first
            full = there & (behind > 0) & (behind % policy.recent == 0)
            smaller = lambda: policy.compress(rows, behind, turn)
            less = jax.lax.cond(full.any(), smaller, lambda: rows)
            pick = lambda new, old: jnp.where(full.reshape(-1, *(1,) * (new.ndim - 1)), new, old)
            rows = jax.tree.map(pick, less, rows)
            slot = jnp.where(serial < first, serial, begin + behind % policy.recent)
            slot = jnp.where(there, slot, policy.capacity)
            ask = jnp.where(there, serial % policy.asked, policy.asked)
            put = lambda old, at, new: old.at[stream, at].set(new.astype(old.dtype), mode="drop")
            rows = Rows(
                put(rows.keys, slot, k), put(rows.values, slot, v), put(rows.serial, slot, serial),
                put(rows.place, slot, place), put(rows.asked, ask, q),
                put(rows.asked_place, ask, place), put(rows.asked_serial, ask, serial),
            )  # fmt: skip
            y = attention(
                turn(q[:, None], place[:, None]),
                turn(rows.keys.astype(q.dtype), rows.place),
                rows.values.astype(q.dtype),
                mask=(rows.serial >= 0)[:, None, None] & there[:, None, None, None],
                softcap=softcap,
            )
            return rows, y[:, 0]

        over = (q, k, v, self.serial, self.place, self.valid)
        rows, y = jax.lax.scan(come, self.rows, tuple(a.swapaxes(0, 1) for a in over))
        return y.swapaxes(0, 1), rows, ()


class Recalling(NamedTuple):
    """The rows of one layer, or of all, that a question reads; it finds them itself."""

    policy: LiveVLM
    rows: Rows
    base: Array
    valid: Array
    rotary: Rotary
    turned: Array

    def layer(self, index: Array) -> Recalling:
        return _layer(self, index)

    def __call__(
        self, q: Array, k: Array, v: Array, softcap: float | None = None
    ) -> tuple[Array, tuple[Array, Array], Array]:
        """As of :class:`Reader`; to keep: the rows and the question's, and which of them it
        read."""
        rows, valid = self.rows, self.valid
        read = self.policy.pages(q, rows.keys, rows.serial, valid)
        steps = valid.shape[1]
        own = jnp.tril(jnp.ones((steps, steps), bool))[None] & valid[:, None]
        past = jnp.broadcast_to(read[:, None], (len(q), steps, read.shape[1]))
        seen = jnp.concatenate([past, own], axis=2) & valid[..., None]
        asked = jnp.cumsum(valid, axis=1, dtype=jnp.int32)[..., None] - 1
        asked = jnp.broadcast_to(asked, (*valid.shape, rows.place.shape[-1]))
        places = jnp.concatenate([rows.place - self.base[:, None, None], asked], axis=1)
        view = View(seen, places, asked[:, :, None])
        every = Reader.of(
            rows.keys[:, None], rows.values[:, None], view, self.rotary, self.turned[None]
        )
        y, _, _ = every.layer(jnp.int32(0))(q, k, v, softcap)
        read = jnp.concatenate([read, valid], axis=1)
        both = lambda old, new: jnp.concatenate([old.astype(new.dtype), new], axis=1)
        return y, (both(rows.keys, k), read), both(rows.values, v)
