"""Our own branches: resolution, token budget, skip interval and precision, chosen while it runs.

The rule is ApproxDet's (:mod:`.branches`). Contention is inferred, as theirs is, from how much
longer the last frames took than they take alone.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import deque
from collections.abc import Sequence

import numpy as np

from .branches import MARGIN, Branches, Cadence, choose

SAMPLES = 3  # computed frames whose median tells the contention


@dataclasses.dataclass(frozen=True)
class Branch:
    """One way to run a model. The seconds are measured on an idle machine.

    Attributes:
      size: (height, width) of its pictures.
      tokens: share of the tokens that its layers compute.
      every: frames from one computed frame to the next; those between are held or tracked.
      precision: of the weights and products ("fp32", "bf16", "int8").
      accuracy: measured with these settings, 0 to 1.
      compute, between: seconds of a computed frame, and of one between two.
    """

    size: tuple[int, int]
    tokens: float
    every: int
    precision: str
    accuracy: float
    compute: float
    between: float = 0.0

    def __post_init__(self):
        if not (self.every >= 1 and 0 < self.tokens <= 1 and self.compute > 0 <= self.between):
            raise ValueError(f"{self}: every is at least 1, tokens a share, seconds are above 0")

    @property
    def seconds(self) -> float:
        """Mean per frame, alone on the machine."""
        return (self.compute + (self.every - 1) * self.between) / self.every


class BranchScheduler:
    """Chooses a branch every few frames, so that the mean time of a frame keeps a target.

        branch, computes = scheduler.frame("cam", n)
        ...                                   # run it, if it computes
        scheduler.took(seconds)               # of a frame that computed

    Args:
      branches: what can be run.
      target: mean seconds per frame that are allowed.
      margin: the chosen branch is predicted to take at most target / margin.
      switch: seconds that a change of branch costs (compiling is not in it: compile them before).
    """

    def __init__(
        self,
        branches: Sequence[Branch],
        target: float,
        margin: float = MARGIN,
        switch: float = 0.0,
    ):
        if not branches or not target > 0:
            raise ValueError(f"{len(branches)} branches, target={target}: give both")
        self.branches, self.target, self.margin, self.switch = branches, target, margin, switch
        self._ratios: deque[float] = deque(maxlen=SAMPLES)
        self._cadence = Cadence(branches[0].every)
        self.chosen = 0
        column = lambda name: np.asarray([getattr(b, name) for b in branches], float)
        self._accuracy, every = column("accuracy"), column("every")
        self._times = Branches(
            every, column("compute") / every, np.zeros(len(branches)), column("between")
        )

    @property
    def contention(self) -> float:
        """How much slower the machine is than when the branches were measured; at least 1."""
        return max(1.0, statistics.median(self._ratios)) if self._ratios else 1.0

    def frame(self, stream: object, index: int) -> tuple[Branch, bool]:
        """The branch of this frame, and whether it is one that computes."""
        computes, decides, new = self._cadence(stream, index)
        if new:
            self._ratios.clear()
        if decides:
            switch = np.full(len(self.branches), self.switch)
            switch[self.chosen] = 0.0
            times = self._times.seconds(switch, detector=self.contention, tracker=self.contention)
            self.chosen = choose(self._accuracy, times, self.target, self.margin)
            self._cadence.take(self.branches[self.chosen].every)
        return self.branches[self.chosen], computes

    def took(self, seconds: float) -> None:
        """A frame of the chosen branch that computed took so long."""
        self._ratios.append(seconds / self.branches[self.chosen].compute)
