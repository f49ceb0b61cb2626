"""Timestamps: a stream's own time made strictly increasing, and put on the local clock."""


class Clock:
    """Turns raw timestamps into strictly increasing seconds.

    A missing timestamp, a jump backwards (concatenated or wrapped streams) or, on live sources, a
    jump forwards that wall time does not account for (a camera that set its clock) moves the
    offset, so that the frames after it keep their own spacing.
    """

    MAX_JUMP = 10.0  # seconds a live stream may run ahead of wall time before it is a clock change

    def __init__(self, interval: float, origin: float | None = None):
        """interval: nominal seconds per frame; origin: raw time of 0.0 (None: the first frame)."""
        self.interval = interval
        self._offset = None if origin is None else -origin
        self._last: float | None = None
        self._wall = 0.0
        self._new_stream = False

    def restart(self) -> None:
        """The next frame comes from a new connection, whose timestamps start anywhere."""
        self._new_stream = True

    def __call__(self, raw: float | None, wall: float | None = None) -> float:
        """raw: the frame's own time or None; wall: monotonic seconds now, None for recordings."""
        elapsed = self.interval if wall is None else wall - self._wall
        if self._last is None:
            time = 0.0 if raw is None else raw + (-raw if self._offset is None else self._offset)
            if raw is not None:
                self._offset = time - raw
        else:
            time = None if raw is None or self._offset is None else raw + self._offset
            ahead = time is not None and wall is not None
            if time is None or self._new_stream:
                time = self._last + max(self.interval, elapsed)
            elif time <= self._last or (ahead and time - self._last > elapsed + self.MAX_JUMP):
                time = self._last + self.interval
            if raw is not None:
                self._offset = time - raw
        self._new_stream = False
        self._last, self._wall = time, 0.0 if wall is None else wall
        return time


class SenderClock:
    """Puts a sender's timestamps on the local clock: when was this frame captured, in our time?

    A frame cannot arrive before it was captured, so the smallest ``arrival - stamp`` seen is the
    best estimate of the offset between the clocks (the minimum filter of NTP, RFC 5905 section
    10). The estimate may rise by ``DRIFT`` per second, to follow a sender whose clock is slow.
    While stamps increase so do the answers, and none is later than its arrival.

    A stamp further than ``max_jump`` seconds from where it should be means that the sender set
    its clock: the estimate begins anew, and ``era`` counts on.
    """

    DRIFT = 1 / 128

    def __init__(self, max_jump: float = 5.0):
        self.max_jump, self.era = max_jump, 0
        self._offset: float | None = None
        self._at = 0.0

    def __call__(self, stamp: float, now: float) -> float:
        """stamp: seconds on the sender's clock; now: of the arrival, on the local clock."""
        transit = now - stamp
        if self._offset is None:
            self._offset = transit
        elif abs(transit - self._offset) > self.max_jump:
            self._offset, self.era = transit, self.era + 1
        else:
            self._offset = min(transit, self._offset + self.DRIFT * (now - self._at))
        self._at = now
        return min(stamp + self._offset, now)  # rounding may set the sum above
