"""Many streams in one batch: each has a slot, and none notices the others."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import jax
import numpy as np

from ..layers.streaming import Carry, looks_across, takes_elapsed
from .framing import Framing
from .portable import Portable, in_turn
from .step import Step


def _take(carry, index):
    return jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, index, 1, axis=0), carry)


def _put(carry, index, one):
    return jax.tree.map(
        lambda a, b: jax.lax.dynamic_update_slice_in_dim(a, b, index, axis=0), carry, one
    )


class SlotError(ValueError):
    """A stream that is unknown, is there already, or finds no free slot."""


class Slots(Portable):
    """One carry for ``size`` streams at different times; streams come and go without compiling.

    ``step({name: frame})`` runs every stream that has a frame; the others hold still. Threads take
    turns; a pickle or a deep copy goes on from this frame.
    """

    CARRIES = ("carry", "_fresh")
    REMADE = ("_take", "_put")

    def __init__(self, step: Step, size: int, frame_shape: tuple[int, int] | None = None):
        if size < 1:
            raise SlotError(f"{size} slots: at least one is needed")
        super().__init__()
        self._step, self.size = step, size
        self._framing = Framing(step.card, frame_shape)
        self.frame_shape = self._framing.size
        self._names: dict[Hashable, int] = {}
        self.carry = step.init_carry(size, self.frame_shape)
        self._fresh = step.init_carry(1, self.frame_shape)
        self._prepare()

    def _prepare(self) -> None:
        self._take, self._put = jax.jit(_take), jax.jit(_put, donate_argnums=0)

    @property
    def streams(self) -> list[Hashable]:
        """Names of the streams that hold a slot."""
        return list(self._names)

    def _index(self, name: Hashable) -> int:
        if name not in self._names:
            raise SlotError(f"no stream {name!r}; admitted are {self.streams}")
        return self._names[name]

    @in_turn
    def admit(self, name: Hashable, carry: Carry = None) -> int:
        """Gives a stream a slot, new or going on from ``carry`` (leaves [1, ...]).

        Raises:
          SlotError: the name is taken, no slot is free, or the carry is of another model.
        """
        if name in self._names:
            raise SlotError(f"stream {name!r} is admitted already; evict it first")
        free = set(range(self.size)) - set(self._names.values())
        if not free:
            raise SlotError(f"all {self.size} slots are taken; evict a stream or make more slots")
        index = min(free)
        self._write(index, self._fresh if carry is None else carry)
        self._names[name] = index
        return index

    @in_turn
    def evict(self, name: Hashable) -> Carry:
        """Takes a stream out and returns its carry, leaves [1, ...]."""
        one = self.extract(name)
        del self._names[name]
        return one

    @in_turn
    def extract(self, name: Hashable) -> Carry:
        """A copy of one stream's carry, leaves [1, ...]."""
        return self._take(self.carry, np.int32(self._index(name)))

    @in_turn
    def insert(self, name: Hashable, carry: Carry) -> None:
        """Replaces one stream's carry by ``carry``, leaves [1, ...]."""
        self._write(self._index(name), carry)

    @in_turn
    def reset(self, name: Hashable) -> None:
        """Starts one stream anew."""
        self._write(self._index(name), self._fresh)

    def _write(self, index: int, one: Carry) -> None:
        self.check(one)
        self.carry = self._put(self.carry, np.int32(index), one)

    def check(self, one: Carry) -> None:
        """Raises SlotError: ``one`` is not the carry of one stream of this model."""
        want = [(a.shape, a.dtype) for a in jax.tree.leaves(self._fresh)]
        got = [(a.shape, a.dtype) for a in jax.tree.leaves(one)]
        if jax.tree.structure(one) != jax.tree.structure(self._fresh) or got != want:
            raise SlotError(
                "this carry is not one stream of this model and frame size; "
                "take it from extract() or init_carry(1)"
            )

    def _extras(self, rows: int, elapsed: Mapping[int, int] | None = None) -> dict[str, np.ndarray]:
        """What models are told besides. One that looks across streams: which of ``rows`` (its
        batch, row by row the slots) hold a stream. A slot that was left keeps its carry, and nobody
        may see it. One that takes ``elapsed``: frame intervals by row, where they are not 1."""
        extras = {}
        if looks_across(self._step.model):
            extras["active"] = np.zeros(rows, bool)
            extras["active"][list(self._names.values())] = True
        if takes_elapsed(self._step.model):
            extras["elapsed"] = np.ones((rows, 1), np.int32)
            for row, intervals in (elapsed or {}).items():
                extras["elapsed"][row] = intervals
        return extras

    @in_turn
    def step(self, frames: Mapping[Hashable, np.ndarray]) -> dict[Hashable, Any]:
        """One tick: {name: uint8 frame [h, w, 3]} -> {name: output, leaves [1, ...] numpy}.

        Frames are of any size and boxes fractions of them where the card has a rule for pictures
        (:class:`.framing.Framing`).

        Raises:
          SlotError: an unknown stream, or a frame of another size.
        """
        height, width = self.frame_shape
        batch = np.zeros((self.size, 1, height, width, 3), np.uint8)
        valid = np.zeros((self.size, 1), bool)
        framed = {}
        for name, frame in frames.items():
            index = self._index(name)
            try:
                framed[name] = self._framing(frame)
            except ValueError as error:
                raise SlotError(f"stream {name!r}: {error}") from None
            self._framing.put(batch[index, 0], framed[name].image)
            valid[index, 0] = True
        self.carry, out = self._step(self.carry, batch, valid, **self._extras(self.size))
        out = jax.device_get(out)
        return {
            name: framed[name].told(jax.tree.map(lambda a: a[self._names[name], 0], out))  # noqa: B023
            for name in frames
        }
