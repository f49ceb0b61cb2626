"""What sources share whose frames come from another thread: the buffer between, and its end."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Mapping
from time import monotonic
from typing import Generic, TypeVar

from .base import Frame, FrameSource, SourceError
from .jitter import MAX_DELAY, JitterBuffer

Item = TypeVar("Item")


class BufferedSource(FrameSource, Generic[Item]):
    """Items go in from any thread, frames come out to one reader.

    `_put` an item; `_end` when nothing more will come, with the error if there is one; the
    reader gets what is held first. `_frame` turns an item into a frame, in the reader's thread.
    """

    live = True

    def __init__(self, delay: float, capacity: int):
        self.delay = delay
        self._buffer: JitterBuffer[Item] = JitterBuffer(delay, capacity, 2 * MAX_DELAY)
        self._news = threading.Condition()
        self._error: SourceError | None = None
        self._ended = False
        self._stop = threading.Event()

    @property
    def drops(self) -> Mapping[str, int]:
        with self._news:
            return Counter(self._buffer.dropped)

    @property
    def held(self) -> int:
        """Frames that wait for their time or for the reader."""
        with self._news:
            return len(self._buffer)

    def read(self, timeout: float | None = None) -> Frame | None:
        end = math.inf if timeout is None else monotonic() + timeout
        while (item := self._take(end)) is not None:
            frame = self._frame(item)
            if frame is not None:
                return frame
        return None

    def _frame(self, item: Item) -> Frame | None:
        raise NotImplementedError

    def _take(self, end: float) -> Item | None:
        """The next item, or None at the time `end`. Raises SourceError."""
        with self._news:
            while not self._stop.is_set():
                now = monotonic()
                item = self._buffer.pop(math.inf if self._ended else now)
                if item is not None:
                    self._news.notify_all()  # there is room again
                    return item
                if self._error is not None:
                    raise self._error
                if self._ended or now >= end:
                    return None
                due = self._buffer.due
                wait = min(end, math.inf if due is None else due) - now
                self._news.wait(None if wait == math.inf else wait)
        return None

    def _put(self, item: Item, stamp: float, now: float) -> None:
        """Hold `self._news` around it."""
        self._buffer.push(item, stamp, now)
        self._news.notify_all()

    def _end(self, error: SourceError | None = None) -> None:
        with self._news:
            self._error, self._ended = error, True
            self._news.notify_all()

    @property
    def state(self) -> str:
        """ "live", or "closed" once nothing more will come."""
        with self._news:
            over = self._stop.is_set() or (self._ended and not len(self._buffer))
        return "closed" if over else "live"

    def close(self) -> None:
        self._stop.set()
        with self._news:
            if len(self._buffer):
                self._buffer.clear()
            self._news.notify_all()
