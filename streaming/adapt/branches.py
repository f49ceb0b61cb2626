"""The choice of a branch of execution: the most accurate one that is fast enough.

A branch is one setting of everything that trades accuracy for time. Where a detector runs every few
frames and a tracker between them, the time of a branch is the mean over such an interval.

Source: Xu et al., "ApproxDet: Content and Contention-Aware Approximate Object Detection for
Mobiles" (SenSys 2020), section 4; github.com/StarsThu2016/ApproxDet, utils_approxdet/scheduler.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

MARGIN = 1.3  # predicted times are means; so much shorter than the target they have to be
STAY = 100  # frames over which the cost of a switch is spread
SHORTEST = 8  # frames between two decisions, at least


def frontier(accuracy: Sequence[float] | np.ndarray, seconds: np.ndarray) -> list[int]:
    """Branches that no other one beats in both, the fastest first.

    Args:
      accuracy, seconds: of each branch. One of accuracy 0 or of infinite time is on no frontier.

    Of branches that take equally long the first one listed comes first.
    """
    best, found = 0.0, []
    for index in np.argsort(seconds, kind="stable"):
        if accuracy[index] > best and np.isfinite(seconds[index]):
            best = accuracy[index]
            found.append(int(index))
    return found


def choose(
    accuracy: Sequence[float] | np.ndarray,
    seconds: Sequence[float] | np.ndarray,
    target: float,
    margin: float = MARGIN,
) -> int:
    """The most accurate branch of at most target / margin seconds, else the fastest useful one.

    Raises:
      ValueError: different numbers of branches, or none of finite time and accuracy above 0.
    """
    times = np.asarray(seconds, float)
    if len(accuracy) != times.shape[0]:
        raise ValueError(f"{len(accuracy)} accuracies and {times.shape[0]} times of branches")
    front = frontier(accuracy, times)
    if not front:
        raise ValueError("no branch has an accuracy above 0 and a finite time")
    fitting = [index for index in front if times[index] <= target / margin]
    return fitting[-1] if fitting else front[0]


@dataclasses.dataclass(frozen=True)
class Branches:
    """Detect every few frames, track between: the time of each branch, per frame.

    Attributes:
      intervals: frames from one detection to the next, of each branch; 1 never tracks.
      detect: seconds of a detection, averaged over its interval already, as measured.
      start: seconds to start the tracker after a detection.
      track: seconds of a tracked frame; infinite switches a branch off.
    """

    intervals: np.ndarray
    detect: np.ndarray
    start: np.ndarray
    track: np.ndarray

    def seconds(
        self, switch: float | np.ndarray = 0.0, *, detector: float = 1.0, tracker: float = 1.0
    ) -> np.ndarray:
        """Mean seconds per frame.

        Args:
          switch: seconds that going to each branch costs once.
          detector, tracker: how much slower each runs than when it was measured.
        """
        every = self.intervals.astype(float)
        with np.errstate(invalid="ignore"):  # a tracker that is off, where none runs: inf * 0
            tracked = np.where(every > 1, self.track * ((every - 1) / every), 0.0)
        between = self.start / every + tracked
        return detector * self.detect + tracker * between + np.asarray(switch) / STAY


@dataclasses.dataclass
class Cadence:
    """Which frames detect, and which decide.

    Attributes:
      detect: frames between detections.
      decide: frames between decisions; a decision detects, too.
    """

    detect: int = 1
    decide: int = 10
    _video: object = None
    _detected: int = -1
    _decided: int = -1

    def take(self, detect: int) -> None:
        """A branch that detects every ``detect`` frames was chosen."""
        self.detect, self.decide = detect, max(detect, SHORTEST)

    def __call__(self, video: object, frame: int) -> tuple[bool, bool, bool]:
        """(this frame detects, it decides, it begins a video); a frame before the last decision
        begins one, too."""
        new = (
            self._video is None
            or video != self._video
            or frame < max(self._detected, self._decided)
        )
        decides = new or (frame - self._decided) % self.decide == 0
        detects = decides or (frame - self._detected) % self.detect == 0
        self._video = video
        if detects:
            self._detected = frame
        if decides:
            self._decided = frame
        return detects, decides, new
