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
      start: seconds to begin with what stands for frames between (a tracker), after a computed one.
    """

    size: tuple[int, int]
    tokens: float
    every: int
    precision: str
    accuracy: float
    compute: float
    between: float = 0.0
    start: float = 0.0

    def __post_init__(self):
        least = min(self.between, self.start)
        if not (self.every >= 1 and 0 < self.tokens <= 1 and self.compute > 0 <= least):
            raise ValueError(f"{self}: every is at least 1, tokens a share, seconds are above 0")

    @property
    def seconds(self) -> float:
        """Mean per frame, alone on the machine."""
        return (self.compute + self.start + (self.every - 1) * self.between) / self.every


class BranchScheduler:
    """Chooses a branch every few frames, so that the mean time of a frame keeps a target.

        branch, computes = scheduler.frame("cam", n)
        ...                                   # run it, if it computes
        scheduler.took(seconds)               # of a frame that computed

    Args:
      branches: what can be run.
      target: mean seconds per frame that are allowed.
      margin: the chosen branch is predicted to take at most target / margin.
      switch: seconds that a change of branch costs (compiling is not in it: compile them before);
        one number, or [from, to].

    Computed frames and those between may run on different parts of a machine, so that each has a
    contention of its own; where nothing was said of frames between, theirs is the same.
    """

    def __init__(
        self,
        branches: Sequence[Branch],
        target: float,
        margin: float = MARGIN,
        switch: float | np.ndarray = 0.0,
    ):
        if not branches or not target > 0:
            raise ValueError(f"{len(branches)} branches, target={target}: give both")
        self.branches, self.target, self.margin = branches, target, margin
        count = len(branches)
        one = np.ndim(switch) == 0
        self.switch = switch * (1 - np.eye(count)) if one else np.asarray(switch, float)
        self._computed: deque[float] = deque(maxlen=SAMPLES)
        self._between: deque[float] = deque(maxlen=SAMPLES)
        self._cadence = Cadence(branches[0].every)
        self.chosen = 0
        column = lambda name: np.asarray([getattr(b, name) for b in branches], float)
        self.accuracy, every = column("accuracy"), column("every")
        self._times = Branches(every, column("compute") / every, column("start"), column("between"))

    @property
    def contention(self) -> float:
        """How much slower computed frames are than when the branches were measured; at least 1."""
        return max(1.0, statistics.median(self._computed)) if self._computed else 1.0

    @property
    def contention_between(self) -> float:
        """The same of the frames between."""
        if not self._between:
            return self.contention
        return max(1.0, statistics.median(self._between))

    def frame(self, stream: object, index: int) -> tuple[Branch, bool]:
        """The branch of this frame, and whether it is one that computes."""
        computes, decides, new = self._cadence(stream, index)
        if new:
            self._computed.clear()
            self._between.clear()
        if decides:
            self.chosen = self.decide()
            self._cadence.take(self.branches[self.chosen].every)
        return self.branches[self.chosen], computes

    def decide(self) -> int:
        """The branch to go to now, by number."""
        times = self._times.seconds(
            self.switch[self.chosen],
            detector=self.contention,
            tracker=self.contention_between,
        )
        return choose(self.accuracy, times, self.target, self.margin)

    def took(self, seconds: float, computed: bool = True) -> None:
        """A frame of the chosen branch, one that computed or one between, took so long."""
        branch = self.branches[self.chosen]
        if computed:
            self._computed.append(seconds / branch.compute)
        elif branch.between > 0:
            self._between.append(seconds / branch.between)
