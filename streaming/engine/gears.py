"""The branches of an engine: ways to compute its steps, and what they cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from ..variants import Variant
from .costs import Costs


@dataclasses.dataclass(frozen=True)
class Gear:
    """One branch of an engine.

    Attributes:
      name: for people, such as "96 x 128 bf16 1/2".
      accuracy: 0 to 1, measured with these settings.
      costs: seconds of its steps, alone on the machine.
      every: a stream's frames from one that is computed to the next; those between are left out.
      variant: which of the pool's compiled steps it is.
    """

    name: str
    accuracy: float
    costs: Costs
    every: int = 1
    variant: int = 0

    def __post_init__(self):
        if not (self.every >= 1 and 0 <= self.accuracy <= 1 and self.variant >= 0):
            raise ValueError(f"{self}: every is at least 1, accuracy a share")


@dataclasses.dataclass(frozen=True)
class Way:
    """A branch before it is timed: which variant (0 is the step as it is), every how many frames,
    how accurate."""

    name: str
    variant: int
    every: int
    accuracy: float


class Branches(NamedTuple):
    """variants: beside the step as it is, by number from 1 on. ways: what can be chosen."""

    variants: tuple[Variant, ...]
    ways: tuple[Way, ...]

    def gears(self, costs: Sequence[Costs]) -> list[Gear]:
        """With the costs of the step as it is and of each variant."""
        return [Gear(w.name, w.accuracy, costs[w.variant], w.every, w.variant) for w in self.ways]
