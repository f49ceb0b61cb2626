"""Speaking when the scene changes: frames of which few tokens could be dropped.

Source: Yao et al., "TimeChat-Online" (arXiv 2504.17343), section 3.3: a low drop ratio marks a
transition. Their demo takes the lowest tenth of the whole video, which a stream cannot know;
:class:`ChangeTrigger` holds a frame against the ratios so far, by the P-square estimate of a
quantile: Jain and Chlamtac, "The P2 Algorithm" (Communications of the ACM 28(10), 1985).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .gate import Gate, GateState


def valleys(ratios: Sequence[float], share: float = 0.1) -> list[int]:
    """The frames with the lowest ratios of a whole video: ceil(share * n) of them, in order."""
    count = math.ceil(share * len(ratios))
    lowest = sorted(range(len(ratios)), key=lambda i: ratios[i])[:count]
    return sorted(lowest)


class Sketch(NamedTuple):
    """Five markers of a distribution.

    heights: their values; before five values came, those values.
    places: how many values lie up to each.
    """

    heights: tuple[float, ...]
    places: tuple[int, ...]


@dataclass(frozen=True)
class Quantile:
    """A running quantile of any number of values in five markers.

    Attributes:
      share: below which that part of the values lies.

    Raises:
      ValueError: a share outside (0, 1).
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share {self.share}: between 0 and 1")

    def begin(self) -> Sketch:
        """No values."""
        return Sketch((), ())

    def value(self, sketch: Sketch) -> float:
        """The estimate, NaN before any value."""
        seen = sorted(sketch.heights)
        if not seen:
            return math.nan
        if len(sketch.places) < 5:
            return seen[min(len(seen) - 1, int(self.share * len(seen)))]
        return sketch.heights[2]

    def __call__(self, sketch: Sketch, value: float) -> Sketch:
        """The sketch after one more value."""
        if len(sketch.heights) < 5:
            heights = tuple(sorted((*sketch.heights, value)))
            return Sketch(heights, tuple(range(1, 6)) if len(heights) == 5 else ())
        q, n = list(sketch.heights), list(sketch.places)
        q[0], q[4] = min(q[0], value), max(q[4], value)
        cell = max(i for i in range(4) if q[i] <= value)
        n = [place + (i > cell) for i, place in enumerate(n)]
        for i in (1, 2, 3):
            at = (self.share / 2, self.share, (1 + self.share) / 2)[i - 1]
            off = 1 + (n[4] - 1) * at - n[i]
            if (off >= 1 and n[i + 1] - n[i] > 1) or (off <= -1 and n[i - 1] - n[i] < -1):
                step = 1 if off > 0 else -1
                q[i] = self._moved(q, n, i, step)
                n[i] += step
        return Sketch(tuple(q), tuple(n))

    @staticmethod
    def _moved(q: list[float], n: list[int], i: int, d: int) -> float:
        """Marker i one place on, by a parabola, or by a line where that would leave its cell."""
        up = (n[i] - n[i - 1] + d) * (q[i + 1] - q[i]) / (n[i + 1] - n[i])
        down = (n[i + 1] - n[i] - d) * (q[i] - q[i - 1]) / (n[i] - n[i - 1])
        curved = q[i] + d / (n[i + 1] - n[i - 1]) * (up + down)
        if q[i - 1] < curved < q[i + 1]:
            return curved
        return q[i] + d * (q[i + d] - q[i]) / (n[i + d] - n[i])


class ChangeState(NamedTuple):
    """sketch: of the ratios so far; frames: how many, counted no further than the warm-up."""

    sketch: Sketch
    frames: int
    gate: GateState


@dataclass(frozen=True)
class ChangeTrigger:
    """Fires on a frame whose drop ratio is among the lowest so far.

    Attributes:
      share: of the frames.
      warm: frames before the first decision.
      pause: frames after a firing in which it does not fire.
    """

    share: float = 0.1
    warm: int = 20
    pause: int = 0

    def begin(self) -> ChangeState:
        """No frames seen."""
        return ChangeState(Quantile(self.share).begin(), 0, self._gate.begin())

    @property
    def _gate(self) -> Gate:
        return Gate(0.5, pause=self.pause, repeat=True)

    def __call__(self, state: ChangeState, ratio: float) -> tuple[ChangeState, bool]:
        """One frame's share of dropped tokens; it is judged by those before it."""
        low = state.frames >= self.warm and ratio <= Quantile(self.share).value(state.sketch)
        gate, fires = self._gate(state.gate, float(low))
        sketch = Quantile(self.share)(state.sketch, ratio)
        return ChangeState(sketch, min(state.frames + 1, self.warm), gate), fires
