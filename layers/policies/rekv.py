"""ReKV: everything is kept, a window is read, and a question reads the frames that suit it.

Source: Di et al., "Streaming Video Question-Answering with In-context Video KV-Cache Retrieval"
(arXiv 2503.00540) and its code, Becomebright/ReKV. The score of a frame is a dot product there,
though the paper and the function's name say cosine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from ..memory import Reader, Rotary, Slots, View, empty_slots, joined, numbered, store
from ..streaming import Array
from .policy import Arrival

LATE = jnp.iinfo(jnp.int32).max


@dataclass(frozen=True)
class SinkWindow:
    """Reads the latest ``local`` rows, and the first ones from the window's far end.

    Attributes:
      budget: slots; beside the first rows the latest stay.
      init: first rows, which stay, and are read un-turned by queries ``local - 1`` further on.
      local: rows of the window, the one that reads included.
      block: None: a first row is read so from when it left the window; else, as in the authors'
        code, all of them are from the block of this length in which the first leaves, also where
        the window has them still.

    Raises:
      ValueError: a window that does not fit into the budget.
    """

    budget: int = 4096
    init: int = 4
    local: int = 1024
    block: int | None = None

    def __post_init__(self) -> None:
        if min(self.init, self.local) < 1 or self.budget < self.init + self.local:
            raise ValueError(
                f"{self.init} first rows and a window of {self.local} do not fit into"
                f" {self.budget} slots, or are none"
            )

    @property
    def capacity(self) -> int:
        return self.budget

    def notes(self, axes: int) -> dict[str, tuple[int, ...]]:
        if axes != 1:
            raise ValueError(f"positions on {axes} axes: this window has them on one")
        return {}

    def arrive(self, slots: Slots, valid: Array, axes: int, told: Mapping[str, Array]) -> Arrival:
        """``told`` has nothing that this policy reads."""
        del axes, told
        serial, seen = numbered(slots, valid)
        new = {"serial": serial}
        ends = None
        if self.block is not None:
            ends = self.init + ((serial - self.init) // self.block + 1) * self.block
        view = self.view(joined(slots.notes, new, "serial"), serial, slots.seen, ends)
        rest = self.budget - self.init
        stays = valid & ((serial < self.init) | (serial >= (seen - rest)[:, None]))
        turn = self.init + (serial - self.init) % rest
        slot = jnp.where(serial < self.init, serial, turn)
        slot = jnp.where(stays, slot, self.budget)
        return Arrival(new, view, slot, seen, slots.next + (seen - slots.seen))

    def view(self, held: Array, serial: Array, base: Array, ends: Array | None = None) -> View:
        """How rows ``serial`` [B, T] see rows ``held`` [B, K] (EMPTY: none), and the first ones a
        second time. ``base`` [B] is near all of them; ``ends`` [B, T]: rows that are there when the
        block of each is; None: every row by itself."""
        now, then = serial[:, :, None], held[:, None]
        window = (then >= 0) & (then <= now) & (now - then < self.local)
        first = jnp.arange(self.init, dtype=jnp.int32)
        match = held[:, None] == first[:, None]  # [B, init, K]
        far = now - first >= self.local
        if ends is not None:
            far = jnp.broadcast_to((ends > self.local)[..., None], far.shape)
        again = match.any(axis=2)[:, None] & far & (now >= 0)
        source = jnp.broadcast_to(jnp.arange(held.shape[1], dtype=jnp.int32), held.shape)
        at = jnp.argmax(match, axis=2).astype(jnp.int32)
        keys = jnp.concatenate([held - base[:, None], jnp.zeros_like(at)], axis=1)
        queries = jnp.stack([serial - base[:, None], jnp.full_like(serial, self.local - 1)], axis=2)
        group = jnp.concatenate([jnp.zeros_like(held), jnp.ones_like(at)], axis=1)
        return View(
            jnp.concatenate([window, again], axis=2),
            keys[..., None],
            queries[..., None],
            group,
            jnp.concatenate([source, at], axis=1),
        )


@dataclass(frozen=True)
class ReKV(SinkWindow):
    """A window for what comes, and the frames that suit a question for its answer.

    Attributes:
      frame: rows of a frame; frames follow the first ``init`` rows without anything between.
      top: frames that a question reads.
      chunk: frames that are chosen together, by their mean score. Where the last, shorter chunk is
        among the chosen, the next best one fills what is left of ``top``.

    Raises:
      ValueError: a budget that does not hold whole frames, or fewer of them than a question reads.
    """

    frame: int = 16
    top: int = 8
    chunk: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        rest = self.budget - self.init
        if min(self.frame, self.top, self.chunk) < 1 or rest % self.frame:
            raise ValueError(f"{rest} slots beside the first are not whole frames of {self.frame}")
        if self.top % self.chunk or self.top > rest // self.frame:
            raise ValueError(
                f"{self.top} frames of a question: a multiple of {self.chunk}, and at most the"
                f" {rest // self.frame} that are kept"
            )

    def answer(self, room: int) -> SinkWindow:
        """The policy under which an answer is spoken: ``room`` rows for the question and it. It has
        no blocks, in the authors' code neither."""
        rows = max(self.init + self.top * self.frame + room, self.init + self.local)
        return SinkWindow(rows, self.init, self.local)

    def scores(self, q: Array, keys: Array, valid: Array) -> Array:
        """q [B, T, H, Dh] of a question, un-turned, and keys [B, C, G, Dh] of a layer -> [B, F],
        one for every place of a frame."""
        count = jnp.maximum(valid.sum(axis=1), 1)[:, None, None]
        asked = (q * valid[:, :, None, None]).sum(axis=1) / count
        shown = (
            keys[:, self.init :].reshape(len(keys), -1, self.frame, *keys.shape[2:]).mean(axis=2)
        )
        shown = jnp.repeat(shown, q.shape[2] // keys.shape[2], axis=2)
        return jnp.einsum("bhd,bfhd->bf", asked, shown)

    def choose(self, scores: Array, serial: Array) -> tuple[Array, Array]:
        """Scores [B, F], serial [B, C] of the slots -> (places of the chosen frames [B, top] by
        age, which of them are there [B, top])."""
        rows = serial[:, self.init :].reshape(len(serial), -1, self.frame)
        whole = (rows[..., 0] >= 0) & (rows[..., -1] - rows[..., 0] == self.frame - 1)
        # by age, those that are not whole last
        age = jnp.argsort(jnp.where(whole, rows[..., 0], LATE), axis=1).astype(jnp.int32)
        count = whole.sum(axis=1, dtype=jnp.int32)[:, None]
        frames = whole.shape[1]
        order = jnp.arange(frames, dtype=jnp.int32)
        there = order < count
        aged = jnp.where(there, jnp.take_along_axis(scores, age, axis=1), 0.0)
        pad = ((0, 0), (0, -frames % self.chunk))
        total, number = (
            jnp.pad(a, pad).reshape(len(a), -1, self.chunk).sum(axis=2) for a in (aged, there)
        )
        mean = jnp.where(number > 0, total / jnp.maximum(number, 1), -jnp.inf)
        rank = jnp.argsort(jnp.argsort(-mean, axis=1, stable=True), axis=1).astype(jnp.int32)
        first = jnp.repeat(rank * self.chunk, self.chunk, axis=1)[:, :frames] + order % self.chunk
        best = jnp.argsort(jnp.where(there, first, LATE), axis=1)[:, : self.top]
        best = jnp.sort(jnp.where(best < count, best, frames), axis=1)
        place = jnp.take_along_axis(age, jnp.minimum(best, frames - 1), axis=1)
        return place, best < frames

    def recall(self, slots: Slots, valid: Array, rotary: Rotary, turned: Array) -> Retriever:
        """What a question of T tokens [B, T] reads, layer by layer; the slots stay as they are."""
        return Retriever(
            self, slots.keys, slots.values, slots.notes["serial"], valid, rotary, turned
        )

    def numbers(self, slots: Slots, valid: Array) -> Array:
        """[B, init + top * frame + T] int32: serials of the rows that a question's answer reads, as
        :class:`Retriever` gives them; the same in every layer."""
        serial = slots.notes["serial"]
        scores = jnp.zeros((len(serial), (self.budget - self.init) // self.frame))
        return _numbered(self, serial, *self.choose(scores, serial), valid)[1]

    def begin_answer(self, slots: Slots, keys: Array, values: Array, valid: Array, room: int):
        """The slots from which an answer goes on, under :meth:`answer` of T + ``room`` rows.

        keys, values: [B, L, init + top * frame + T, G, Dh], as :class:`Retriever` gave them.
        """
        number = self.numbers(slots, valid)
        batch, depth, _, heads, width = keys.shape
        capacity = self.answer(valid.shape[1] + room).capacity
        fresh = empty_slots(batch, depth, capacity, heads, width, {}, keys.dtype)
        slot = jnp.where(number >= 0, number, capacity)
        after = store(fresh, keys, values, {"serial": number}, slot)
        seen = number.max(axis=1) + 1
        return Slots(after.keys, after.values, after.notes, seen, seen)


def _numbered(
    policy: ReKV, serial: Array, place: Array, there: Array, valid: Array
) -> tuple[Array, Array]:
    """(slots of the first rows and of chosen frames [B, R], serials of these and of T rows behind
    them [B, R + T], EMPTY where there is none)."""
    first = jnp.broadcast_to(jnp.arange(policy.init), (len(place), policy.init))
    rows = policy.init + place[..., None] * policy.frame + jnp.arange(policy.frame)
    slot = jnp.concatenate([first, rows.reshape(len(place), -1)], axis=1)
    told = jnp.concatenate(
        [serial[:, : policy.init] >= 0, jnp.repeat(there, policy.frame, axis=1), valid], axis=1
    )
    return slot, jnp.where(told, jnp.cumsum(told, axis=1, dtype=jnp.int32) - 1, -1)


class Retriever(NamedTuple):
    """The frames of one layer, or of all, that a question reads; it finds them itself.

    Attributes:
      policy: which and how many.
      keys, values: [B, C, G, Dh], or [B, L, C, G, Dh] of all layers.
      serial: [B, C] of the slots.
      valid: [B, T] tokens of the question that are there.
      rotary, turned: as of :class:`Reader`.
    """

    policy: ReKV
    keys: Array
    values: Array
    serial: Array
    valid: Array
    rotary: Rotary
    turned: Array

    def layer(self, index: Array) -> Retriever:
        """The slots of one layer."""
        return self._replace(
            keys=jnp.take(self.keys, index, axis=1),
            values=jnp.take(self.values, index, axis=1),
            turned=jnp.take(self.turned, index, axis=0),
        )

    def __call__(
        self, q: Array, k: Array, v: Array, softcap: float | None = None
    ) -> tuple[Array, Array, Array]:
        """As :class:`Reader`; the rows to keep are the first, the chosen and the question's."""
        policy = self.policy
        chosen = policy.choose(policy.scores(q, self.keys, self.valid), self.serial)
        slot, number = _numbered(policy, self.serial, *chosen, self.valid)
        pick = lambda a: jnp.take_along_axis(a, slot[..., None, None], axis=1)
        keys, values = pick(self.keys), pick(self.values)
        asked = number[:, slot.shape[1] :]
        total = number.max(axis=1) + 1
        view = policy.view(number, asked, total)
        every = Reader.of(keys[:, None], values[:, None], view, self.rotary, self.turned[None])
        y, _, _ = every.layer(jnp.int32(0))(q, k, v, softcap)
        return y, jnp.concatenate([keys, k], axis=1), jnp.concatenate([values, v], axis=1)
