"""What a policy is: a frozen value that says what a memory keeps and where its rows stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from ..memory import Notes, Slots, View
from ..streaming import Array


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
