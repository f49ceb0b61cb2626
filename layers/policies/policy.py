"""What a policy is: a frozen value that says what a memory keeps and where its rows stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ..memory import Notes, Rotary, Slots, View
from ..streaming import Array
from ..transformer.attention import Memories


class Arrival(NamedTuple):
    """T new tokens met a memory.

    Attributes:
      notes: of the new tokens, name -> [B, T, ...].
      view: how they see the slots and each other.
      slot: [B, T] int32, the slot that each of them takes, C for one that is not kept. It is the
        same however the tokens came, so that equal streams have equal memories.
      seen, next: of the slots afterwards, [B].
    """

    notes: Notes
    view: View
    slot: Array
    seen: Array
    next: Array


@runtime_checkable
class Policy(Protocol):
    """A policy. Chunks change nothing: a token sees what it would see had it come alone."""

    @property
    def capacity(self) -> int:
        """Slots of a stream."""
        ...

    def notes(self, axes: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the notes of a slot beside its serial, with positions on ``axes`` axes."""
        ...

    def arrive(self, slots: Slots, valid: Array, axes: int, told: Mapping[str, Array]) -> Arrival:
        """New tokens [B, T] of which ``valid`` are there; ``told``: notes that the caller gives."""
        ...


@runtime_checkable
class Layered(Policy, Protocol):
    """A policy that chooses in each layer by itself, by what that layer's keys and queries say."""

    def layered(self, keys: Array, heads: int, axes: int) -> Notes:
        """What an empty memory knows of its layers: name -> [B, L, ...].

        Args:
          keys: [B, L, C, G, Dh] of the empty slots.
          heads: H, of the queries.
          axes: of a position.
        """
        ...

    def memories(
        self, slots: Slots, arrival: Arrival, valid: Array, rotary: Rotary, turned: Array
    ) -> Memories:
        """What each layer reads as T new tokens [B, T] come; it also finds what stays."""
        ...

    def settle(self, slots: Slots, arrival: Arrival, keys: Any, values: Any) -> Slots:
        """The slots afterwards; ``keys`` and ``values`` as the layers of :meth:`memories` gave
        them, [L, B, ...]."""
        ...


@runtime_checkable
class Retrieves(Policy, Protocol):
    """A policy under which a question reads a part of what is kept, found layer by layer."""

    def recall(self, slots: Slots, valid: Array, rotary: Rotary, turned: Array) -> Memories:
        """What a question of T tokens [B, T] reads; the slots stay as they are."""
        ...

    def answer(self, room: int) -> Policy:
        """The policy under which an answer is spoken: ``room`` rows for the question and it."""
        ...

    def begin_answer(self, slots: Slots, keys: Any, values: Any, valid: Array, room: int) -> Slots:
        """The slots from which an answer of ``room`` tokens goes on, under :meth:`answer` of T +
        ``room``; ``keys`` and ``values`` [B, L, ...] as the layers of :meth:`recall` gave them."""
        ...
