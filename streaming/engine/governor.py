"""Which branch the engine's next steps take: how large pictures are, how narrow numbers, how many
frames are left out, so that all streams are served in time while others use the machine.

The choice is ApproxDet's (:mod:`..adapt.branches`): the most accurate branch that is predicted to
be fast enough. Fast enough is a share of the time, the streams' frames times their seconds, and a
budget, the seconds from a frame to its answer. Contention is inferred from how much longer the last
steps took than they take alone. Pure: the engine and the simulator run this very code.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Sequence

from ...layers.streaming import Json
from ..adapt.branches import MARGIN, SHORTEST, choose
from .admission import Demand
from .costs import Costs
from .gears import Gear

STEPS = 3  # whose median tells the contention


class Governor:
    """Chooses a gear every few steps.

    Args:
      gears: all with costs of the same buckets.
      margin: what is predicted may take at most 1 / margin of what is allowed.
      max_load: share of the time that steps may take.

    Attributes:
      chosen: number of the gear.
      changes: how often it changed.

    Raises:
      ValueError: no gear, or gears of different buckets.
    """

    def __init__(self, gears: Sequence[Gear], margin: float = MARGIN, max_load: float = 0.9):
        if not gears or len({gear.costs.buckets for gear in gears}) != 1:
            raise ValueError(f"{len(gears)} gears: at least one, and all of the same buckets")
        self.gears, self.margin, self.max_load = tuple(gears), margin, max_load
        self.chosen = max(range(len(gears)), key=lambda k: gears[k].accuracy)
        self.changes = 0
        self._ratios: deque[float] = deque(maxlen=STEPS)
        self._steps = SHORTEST  # the first step decides

    @property
    def gear(self) -> Gear:
        return self.gears[self.chosen]

    @property
    def contention(self) -> float:
        """How much slower steps are than alone; at least 1."""
        return max(1.0, statistics.median(self._ratios)) if self._ratios else 1.0

    def to_dict(self) -> Json:
        """For JSON."""
        told = {"name": self.gear.name, "accuracy": self.gear.accuracy, "changes": self.changes}
        return {**told, "contention": round(self.contention, 3)}

    def took(self, gear: int, bucket: int, seconds: float) -> None:
        """A step of this gear took so long."""
        self._ratios.append(seconds / self.gears[gear].costs.mean(bucket))

    def needs(self, demands: Sequence[Demand]) -> list[float]:
        """For each gear the larger of its share of the time and of the shortest budget, 1 being
        all that is allowed."""
        slow, rate = self.contention, sum(d.fps for d in demands)
        budget, count = min(d.budget for d in demands), len(demands)
        found = []
        for gear in self.gears:
            costs, least = gear.costs, min(count, gear.costs.largest)
            per_frame = costs.cheapest(count) / count
            load = slow * rate * per_frame / gear.every / self.max_load
            # a frame may come while a step runs, so that it waits for two
            late = 2 * slow * costs.high(costs.bucket(least)) / budget
            found.append(max(load, late))
        return found

    def next(self, demands: Sequence[Demand]) -> bool:
        """Before a step: True if the gear changes now."""
        self._steps += 1
        if self._steps <= SHORTEST or not demands:
            return False
        self._steps = 1
        before = self.chosen
        accuracy = [gear.accuracy for gear in self.gears]
        self.chosen = choose(accuracy, self.needs(demands), 1.0, self.margin)
        self.changes += self.chosen != before
        return self.chosen != before

    def refusal(
        self, demands: list[Demand], hold: Callable[[Costs, list[Demand]], str | None]
    ) -> str | None:
        """Why no gear holds these streams, or None; ``hold`` says it of one gear's costs and of
        what it has to compute."""
        why: str | None = None
        for gear in sorted(self.gears, key=lambda g: g.costs.mean(g.costs.largest) / g.every):
            rest = [demand._replace(fps=demand.fps / gear.every) for demand in demands]
            said = hold(gear.costs, rest)
            if said is None:
                return None
            why = why or said  # of the fastest
        return why

    def costs(self) -> Costs:
        """Of the chosen gear, as slow as the machine is now."""
        alone, slow = self.gear.costs, self.contention
        return Costs({b: [slow * alone.mean(b), slow * alone.high(b)] for b in alone.buckets})
