"""What waits: one bounded queue per stream, and three ways to bound it.

Credits are how many frames a sender may still offer without any being refused. A queue that
drops frames to stay within its bound says which and why; nothing leaves it unseen.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

SUPERSEDED, LATE, CLOSED, ERROR = "superseded", "late", "closed", "error"
SKIPPED = "skipped"  # left out by the engine's gear


@dataclasses.dataclass(slots=True, eq=False)
class Item:
    """A frame on its way. Times in seconds on the engine's clock.

    Attributes:
      index: number of the frame in its stream.
      arrived: when it was offered.
      deadline: when its answer is due.
      event: the gate marked it: keep-events never drops it.
      payload: the frame; the scheduler does not look at it.
      due, renewed: the scheduler's: the deadline by which frames are ordered.
    """

    index: int
    arrived: float
    deadline: float
    event: bool = False
    payload: Any = None
    due: float = dataclasses.field(init=False)
    renewed: bool = False

    def __post_init__(self):
        self.due = self.deadline


Dropped = list[tuple[Item, str]]


class Queue:
    """Frames of one stream, oldest first; never more than ``capacity``."""

    def __init__(self, capacity: int):
        if capacity < 1:
            raise ValueError(f"a queue for {capacity} frames: it needs room for at least 1")
        self.capacity = capacity
        self._items: deque[Item] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    @property
    def head(self) -> Item:
        return self._items[0]

    @property
    def last(self) -> Item:
        return self._items[-1]

    @property
    def credits(self) -> int:
        """Frames that would be taken if they came now."""
        raise NotImplementedError

    def offer(self, item: Item) -> tuple[bool, Dropped]:
        """(taken or not, what was dropped to make room)."""
        if self.credits < 1:
            return False, []
        dropped = self._make_room() if len(self._items) >= self.capacity else []
        self._items.append(item)
        return True, dropped

    def _make_room(self) -> Dropped:
        return []

    def pop(self) -> Item:
        """The oldest frame, which leaves."""
        return self._items.popleft()

    def spares(self, item: Item) -> bool:
        """Whether the frame is kept even when it is late."""
        del item
        return False

    @property
    def event(self) -> Item | None:
        """The oldest frame that must not be lost for what it shows: it goes before others."""
        return None

    def shed(self, limit: float) -> Dropped:
        """Drops what is due before ``limit``, unless the queue spares it."""
        late = [i for i in self._items if i.deadline < limit and not self.spares(i)]
        if late:
            self._items = deque(i for i in self._items if i not in late)
        return [(item, LATE) for item in late]

    def clear(self) -> Dropped:
        """Drops everything: the stream is closed."""
        dropped = [(item, CLOSED) for item in self._items]
        self._items.clear()
        return dropped


class LatestWins(Queue):
    """The newest frames: a full queue gives up its oldest. Always has credits."""

    @property
    def credits(self) -> int:
        return self.capacity

    def _make_room(self) -> Dropped:
        return [(self._items.popleft(), SUPERSEDED)]


class Lossless(Queue):
    """Every frame: a full queue has no credits, and the sender waits."""

    @property
    def credits(self) -> int:
        return self.capacity - len(self._items)

    def spares(self, item: Item) -> bool:
        del item
        return True


class KeepEvents(Queue):
    """Every event, and the newest of the rest: a queue full of events has no credits."""

    @property
    def credits(self) -> int:
        return self.capacity - sum(item.event for item in self._items)

    def _make_room(self) -> Dropped:
        oldest = next(i for i, item in enumerate(self._items) if not item.event)
        item = self._items[oldest]
        del self._items[oldest]
        return [(item, SUPERSEDED)]

    def spares(self, item: Item) -> bool:
        return item.event

    @property
    def event(self) -> Item | None:
        return next((item for item in self._items if item.event), None)


POLICIES: dict[str, tuple[Callable[[int], Queue], int]] = {
    "latest": (LatestWins, 2),
    "lossless": (Lossless, 8),
    "events": (KeepEvents, 8),
}


def make_queue(policy: str, capacity: int | None = None) -> Queue:
    """A queue by policy: "latest", "lossless" or "events"; capacity None: 2, 8 or 8 frames.

    Raises:
      ValueError: another policy, or a capacity below 1.
    """
    if policy not in POLICIES:
        raise ValueError(f"drop policy {policy!r}: it is one of {', '.join(POLICIES)}")
    kind, default = POLICIES[policy]
    return kind(default if capacity is None else capacity)
