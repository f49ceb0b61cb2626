"""The jitter buffer: frames in the order of their capture, a fixed delay after it."""

from __future__ import annotations

import bisect
import math
from collections import Counter
from dataclasses import dataclass
from typing import Generic, TypeVar

from .clocks import SenderClock

NETWORK_DELAY = 1.0  # seconds, of live addresses: 1 to 2 hide what usual networks jitter by
MAX_DELAY = 5.0  # seconds: a longer stall is taken for a clock change
LATE, DUPLICATE, OVERFLOW, CLOSED = "late", "duplicate", "overflow", "closed"

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class _Held(Generic[Item]):
    key: tuple[int, float]  # (era, stamp)
    due: float  # local clock
    item: Item


class JitterBuffer(Generic[Item]):
    """Holds items for ``delay`` seconds after their capture, and gives them in capture order.

    The sender's and the local clock need not agree: see :class:`SenderClock`. When the sender
    sets its clock, what came before goes out before what comes after. No item is held longer
    than ``delay`` after it came.

    With ``delay=0`` it is a queue in which the latest items win.

    The books, at all times: received = released + sum(dropped.values()) + len(buffer), dropped by
    reason: "late" (a later one was released already), "duplicate" (one of the same stamp is held,
    or was the last one released), "overflow" (the oldest, when there is no room), "closed".

    Not thread-safe.

    Args:
      delay: seconds, 1-2 on networks that jitter.
      capacity: items held at most; it may be changed.
      room: items at most whose time has come: a slow reader gets the latest, as with ``delay=0``,
        and not all that the delay has room for. None: as many as are held. It may be changed.
      max_jump: seconds between a stamp and where it should be, beyond which the sender has set
        its clock. A smaller step back costs the frames of that many seconds, as late.
    """

    def __init__(
        self,
        delay: float = 1.0,
        capacity: int = 128,
        max_jump: float = 5.0,
        room: int | None = None,
    ):
        if not (0 <= delay < max_jump and capacity >= 1):
            raise ValueError(
                f"delay={delay}, capacity={capacity}, max_jump={max_jump}: give 0 <= delay < "
                "max_jump seconds, and room for at least 1"
            )
        self.delay, self.capacity, self.room = delay, capacity, room
        self.received = self.released = 0
        self.dropped: Counter[str] = Counter()
        self._clock = SenderClock(max_jump)
        self._held: list[_Held[Item]] = []  # by key
        self._last: tuple[int, float] | None = None  # key of the last one released

    def __len__(self) -> int:
        return len(self._held)

    @property
    def jumps(self) -> int:
        """Times that the sender set its clock."""
        return self._clock.era

    @property
    def due(self) -> float | None:
        """When the next item goes out, on the local clock; None: nothing is held."""
        return min((held.due for held in self._held), default=None)

    def push(self, item: Item, stamp: float, now: float) -> str | None:
        """Takes an item.

        Args:
          stamp: its capture, seconds on the sender's clock.
          now: its arrival, seconds on the local clock; never less than before.

        Returns:
          None, or why this item was dropped. An older one that had to make room is only counted.

        Raises:
          ValueError: the stamp is not a finite number.
        """
        if not math.isfinite(stamp):
            raise ValueError(f"capture time {stamp}: give seconds, a finite number")
        self.received += 1
        due = self._clock(stamp, now) + self.delay
        key = (self._clock.era, stamp)
        at = bisect.bisect_left(self._held, key, key=lambda held: held.key)
        if self._last is not None and key < self._last:
            return self._drop(LATE)
        if key == self._last or (at < len(self._held) and self._held[at].key == key):
            return self._drop(DUPLICATE)
        self._held.insert(at, _Held(key, due, item))
        while len(self._held) > self.capacity:
            reason = self._drop(OVERFLOW)
            if self._held.pop(0).item is item:
                return reason
        return None

    def _drop(self, reason: str) -> str:
        self.dropped[reason] += 1
        return reason

    def pop(self, now: float) -> Item | None:
        """The next item in order, if it or one behind it is due."""
        waiting = [at for at, held in enumerate(self._held) if held.due <= now]
        if not waiting:
            return None
        ready = waiting[-1] + 1  # those before a due one go out before it
        for _ in range(0 if self.room is None else ready - self.room):
            self._held.pop(0)
            self._drop(OVERFLOW)
        held = self._held.pop(0)
        self._last = held.key
        self.released += 1
        return held.item

    def clear(self) -> None:
        """Drops what is held: nobody wants it any more."""
        self.dropped[CLOSED] += len(self._held)
        self._held.clear()
