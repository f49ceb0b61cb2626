"""Who is served when not all can be: streams that have had the least of late.

By deadline alone, streams whose frames come at the wrong moment would always be the late ones.
"""

from __future__ import annotations

import math

MEMORY = 2.0  # seconds after which what was counts a third
ENTER, LEAVE = 0.05, 0.01  # share of the frames that are dropped or late


class Faded:
    """A sum whose terms fade with time."""

    def __init__(self):
        self._value, self._at = 0.0, 0.0

    def __call__(self, now: float) -> float:
        return self._value * math.exp(min(0.0, self._at - now) / MEMORY)

    def add(self, amount: float, now: float) -> None:
        self._value, self._at = self(now) + amount, max(now, self._at)


class Overload:
    """Whether more comes than can be served, for longer than a moment: with hysteresis."""

    def __init__(self):
        self._taken, self._lost, self._on = Faded(), Faded(), False

    def took(self, now: float) -> None:
        self._taken.add(1, now)

    def lost(self, frames: int, now: float) -> None:
        """Frames that were dropped for want of time, or are late."""
        if frames:
            self._lost.add(frames, now)

    def __call__(self, now: float) -> bool:
        lost, taken = self._lost(now), self._taken(now)
        if lost < 1:  # less than a frame or two: chance
            self._on = False
        else:
            self._on = lost > (LEAVE if self._on else ENTER) * taken
        return self._on
