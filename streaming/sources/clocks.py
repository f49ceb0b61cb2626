"""Timestamps: which are believed, made strictly increasing, and put on the local clock.

The rules, for every source. A picture's stamp is FFmpeg's best-effort timestamp
(:class:`BestEffort`). A stamp that does not fit its neighbours is a fault of that picture alone: it
gets a time between them, and what follows stays at its own stamps. Only stamps that agree with each
other and not with those before say that the sender's clock was set, or that recordings were joined:
then what follows keeps its own spacing, right behind what was before. A repeated stamp comes within
one frame of what it says.

Recordings (:class:`RecordedClock`) look a few pictures ahead for that. Live streams
(:class:`LiveClock`) cannot, and use the time of arrival as their witness.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from statistics import median
from typing import Any

Stamps = tuple[float | None, float | None]  # (presentation, decoding), seconds

STEP = 1e-6  # seconds between two pictures, at least
JOINED = 10.0  # seconds: a longer step, where clocks restart in mid-file, is no pause (as FFmpeg's)


class BestEffort:
    """Presentation time, or decoding time where the former is not to be had.

    FFmpeg's ``best_effort_timestamp`` (``guess_correct_pts`` of its libavcodec/decode.c) takes the
    one that has stepped back less often so far. So does this, but a fault or two do not count, for
    they would move everything that follows. Files that store decoding times only show it: what
    FFmpeg guesses of the other is out of order there, as soon as there are B-frames.
    """

    RECENT, FAULTS = 32, 2  # pictures, and how many more of them must be out of order

    def __init__(self, decoding_only: bool = False):
        """decoding_only: the container has no presentation times (AVI)."""
        self._decoding = decoding_only
        self._last: list[float | None] = [None, None]
        self._back: deque[int] = deque(maxlen=self.RECENT)

    def look(self, stamps: Stamps) -> None:
        """Takes note of a picture, before its stamp or that of an earlier one is asked for."""
        faults = []
        for which, stamp in enumerate(stamps):
            last = self._last[which]
            faults.append(stamp is not None and last is not None and stamp < last)
            self._last[which] = last if stamp is None else stamp
        self._back.append(faults[0] - faults[1])
        often = sum(self._back) > max(self.FAULTS - 1, len(self._back) // 8)
        self._decoding |= often and stamps[1] is not None

    def __call__(self, stamps: Stamps) -> float | None:
        """The stamp to go by."""
        shown, decoded = stamps
        return decoded if self._decoding or shown is None else shown


def stamps_of(picture: Any) -> Stamps:
    """Of a decoded picture."""
    base = picture.time_base
    pts, dts = picture.pts, getattr(picture, "dts", None)
    if not base:
        return None, None
    return (
        None if pts is None else float(pts * base),
        None if dts is None else float(dts * base),
    )


class RecordedClock:
    """Stamps of a recording's pictures -> seconds from its start, strictly increasing.

    Args:
      interval: nominal seconds per frame.
      origin: stamp of the recording's start; None: the first picture.
      restarts: whether clocks may start anew in mid-file (MPEG-TS, HLS with discontinuities): a
        step of more than ten seconds is closed there, and is a pause of the recording elsewhere.
      decoding_only: see :class:`BestEffort`.
    """

    AHEAD = 8  # packets to look at: half as many in a row may be wrong

    def __init__(
        self,
        interval: float,
        origin: float | None = None,
        restarts: bool = False,
        decoding_only: bool = False,
    ):
        self.interval, self._restarts = interval, restarts
        self._offset = None if origin is None else -origin
        self._stamp: float | None = None  # the last one believed
        self._time: float | None = None  # the last one given
        self._frozen = False
        self._guess = BestEffort(decoding_only)

    def __call__(self, stamps: Stamps, coming: Iterable[Stamps] = ()) -> float:
        """Of the next picture; coming: stamps of packets that the decoder has not got yet."""
        self._guess.look(stamps)
        later = [s for s in map(self._guess, coming) if s is not None]
        self._time = self._at(self._guess(stamps), later)
        return self._time

    def _at(self, stamp: float | None, later: list[float]) -> float:
        if stamp is None or not self._believed(stamp, later):
            return self._between(stamp, later)
        last, self._stamp, self._frozen = self._stamp, stamp, False
        joined = last is not None and (stamp <= last or (self._restarts and stamp > last + JOINED))
        if self._offset is None or joined:
            self._offset = -stamp if self._time is None else self._time + self.interval - stamp
        if self._time is not None and stamp + self._offset <= self._time:  # guesses were too long
            return self._between(stamp, later)
        return stamp + self._offset

    def _believed(self, stamp: float, later: list[float]) -> bool:
        """Whether it is with the majority of the stamps around it that can be in one order."""
        last = self._stamp
        if last is not None and stamp <= last:
            again = {s for s in later if stamp < s <= last}
            going_on = {s for s in later if s > last}
            if stamp == last or not later or len(going_on) > len(again):
                return False  # repeated, or wrong: the clock goes on as before
        rest = {s for s in later if last is None or stamp <= last or s > last}
        with_it, without = 1 + sum(s > stamp for s in rest), len(rest)
        near = last is None or stamp <= last + JOINED
        return with_it > without or (with_it == without and near)

    def _between(self, stamp: float | None, later: list[float]) -> float:
        """A time for a picture that does not say, before those that do."""
        if self._time is None:
            if self._offset is None or not later:
                return 0.0
            return max(0.0, min(later) + self._offset - self.interval)
        step = self.interval
        if self._offset is not None and self._stamp is not None:
            room = [s + self._offset - self._time for s in later if s > self._stamp]
            step = min([step, *(r / 2 for r in room if r > 0)])
            repeated = stamp is not None and stamp == self._stamp
            self._frozen |= repeated and len(later) >= self.AHEAD - 1 and {*later} == {stamp}
            if repeated and not self._frozen:
                # Half of what is left up to the next frame: any number of repetitions fits.
                step = min(step, (self._stamp + self._offset + self.interval - self._time) / 2)
        return self._time + max(step, STEP)


class LiveClock:
    """Stamps of a live stream's pictures -> seconds since the first, strictly increasing.

    A stamp that steps back, or ahead of the time that has passed, is not believed until the next
    one agrees with it; meanwhile the time of arrival counts, as it does for pictures without a
    stamp and across connections.

    Args:
      interval: nominal seconds per frame.
      witness: whether pictures arrive as they are taken. False where whole segments come at once
        and are given at their own pace: there a long step is a restart of the clock.
      ahead: seconds by which a stamp may outrun arrival: queues that empty.
    """

    MAX_JUMP = 10.0  # seconds ahead: more is a clock that was set, less was lost on the way

    def __init__(self, interval: float, witness: bool = True, ahead: float = 1.0):
        self.interval, self.witness, self._ahead = interval, witness, ahead
        self._offset: float | None = None
        self._stamp: float | None = None  # the last one believed
        self._suspect: tuple[float, float] | None = None  # (stamp, arrival) of one that was not
        self._time: float | None = None
        self._wall = self._seen = 0.0  # arrival of the last picture, and of the last believed
        self._transits: deque[float] = deque(maxlen=31)  # arrival - stamp of those believed

    def restart(self) -> None:
        """The next frame comes from a new connection, whose timestamps start anywhere."""
        self._offset = self._stamp = self._suspect = None
        self._transits.clear()

    def __call__(self, stamp: float | None, wall: float) -> float:
        """stamp: the picture's own time or None; wall: monotonic seconds of its arrival."""
        if self._time is None:
            self._time, self._wall = 0.0, wall
            self._begin(stamp, wall)
            return 0.0
        passed = max(0.0, wall - self._wall)
        arrival = self._time + max(passed, STEP)
        if stamp is None:
            time = arrival
        elif self._offset is None or self._stamp is None:  # the first of a connection
            time = self._time + max(self.interval, passed)
            self._begin(stamp, wall, time)
        elif self._fits(stamp, self._stamp, max(0.0, wall - self._seen)):
            time = stamp + self._offset
            self._believe(stamp, wall)
        elif stamp == self._stamp:  # repeated: a fault of this picture alone
            time = min(self._time + self.interval / 2, max(arrival, self._time + STEP))
        else:
            time = arrival if self.witness else self._time + self.interval
            before = self._suspect
            if before is not None and self._fits(stamp, before[0], max(0.0, wall - before[1])):
                ahead = stamp - self._stamp
                if self._is_lost(ahead, wall - stamp):
                    time = stamp + self._offset
                    self._believe(stamp, wall)
                else:
                    self._begin(stamp, wall, time)
            else:
                self._suspect = stamp, wall
        self._time = max(time, self._time + STEP)
        self._wall = wall
        return self._time

    def _begin(self, stamp: float | None, wall: float, time: float = 0.0) -> None:
        """Stamps count from here."""
        if stamp is not None:
            self._offset = time - stamp
            self._transits.clear()
            self._believe(stamp, wall)

    def _believe(self, stamp: float, wall: float) -> None:
        self._stamp, self._seen, self._suspect = stamp, wall, None
        self._transits.append(wall - stamp)

    def _fits(self, stamp: float, last: float, passed: float) -> bool:
        if not self.witness:
            return last < stamp <= last + JOINED
        return last < stamp <= last + passed + max(self._ahead, 3 * self.interval)

    def _is_lost(self, ahead: float, transit: float) -> bool:
        """Whether two stamps that agree go on by the old clock: it was the last one believed that
        was wrong, or what lay between was lost."""
        if not self.witness:
            return 0 < ahead <= JOINED
        if ahead > 0:
            return ahead <= self.MAX_JUMP
        return abs(transit - median(self._transits)) < -ahead / 2


class UsualGap:
    """How many pictures are missing in a gap, by the usual one of this stream."""

    SHORTEST = 1e-3  # seconds: closer ones are stamps that were put in order, not a rate

    def __init__(self):
        self._gaps: deque[float] = deque(maxlen=31)

    def missing(self, gap: float, interval: float) -> int:
        """Pictures that should have come between two that are ``gap`` seconds apart; interval: the
        nominal gap, for as long as there is no usual one. A gap of up to two pictures is none."""
        due = round(gap / (median(self._gaps) if self._gaps else interval))
        if gap > self.SHORTEST:
            self._gaps.append(gap)
        return due - 1 if due >= 3 else 0


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
