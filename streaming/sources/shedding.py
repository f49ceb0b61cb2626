"""The last step of shedding load: decode key frames only, while most of the rest is dropped."""

from __future__ import annotations

WINDOW, WINDOWS = 5.0, 2  # seconds, and how many such must be bad: an outage ends with a burst
ENTER, LEAVE = 0.5, 0.05  # shares of frames lost
HOLD, LONGEST = 30.0, 480.0  # seconds at key frames before the rest is tried again


class Shedding:
    """Says when a stream's source is to decode key frames only; see :meth:`__call__`.

    With key frames only, nothing tells whether there is room for all of them again: it has to be
    tried. A try that fails doubles the time to the next one; one that lasts as long as the pause
    before it begins anew.
    """

    def __init__(self):
        self.active = False
        self._hold = HOLD
        self._seen: tuple[float, int, int] | None = None  # beginning of the window
        self._changed, self._bad = 0.0, 0

    def __call__(self, now: float, came: int, lost: int) -> bool:
        """Whether key frames only.

        Args:
          now: seconds.
          came: frames decoded so far, and ``lost`` those of them dropped for want of time.
        """
        if self._seen is None:
            self._seen, self._changed = (now, came, lost), now
        since, before, gone = self._seen
        if now - since < WINDOW:
            return self.active
        self._seen = now, came, lost
        share = (lost - gone) / max(1, came - before)
        self._bad = self._bad + 1 if share > ENTER else 0
        if self.active:
            if share < LEAVE and now - self._changed >= self._hold:
                self._turn(False, now)
        elif self._bad >= WINDOWS:
            tried = now - self._changed
            self._hold = HOLD if tried > self._hold else min(2 * self._hold, LONGEST)
            self._turn(True, now)
        return self.active

    def _turn(self, active: bool, now: float) -> None:
        self.active, self._changed, self._bad = active, now, 0
