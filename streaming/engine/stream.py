"""One stream of the engine: push frames, read answers in order, close at any time."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import Hashable
from typing import Any, Protocol

import numpy as np

from ...layers.streaming import Carry
from ..elapsed import Elapsed
from ..framing import Framed, Framing
from ..session import Result
from .ledger import Snapshot
from .scheduler import StreamState


class Owner(Protocol):
    """What a stream asks of the engine that made it."""

    framing: Framing

    def offer(
        self, stream: Stream, frame: Framed, time: float | None, event: bool
    ) -> int | None: ...
    def pause(self, stream: Stream) -> None: ...
    def resume(self, stream: Stream) -> None: ...
    async def snapshot(self, stream: Stream) -> tuple[int, Carry]: ...
    def finish(self, stream: Stream) -> None: ...
    def remove(self, stream: Stream) -> None: ...
    def taken(self, stream: Stream) -> None: ...


class StreamClosed(RuntimeError):
    """A frame for a stream that takes none any more."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What became of one launched frame.

    Attributes:
      stream: name of the stream.
      index: number of the frame among those taken in; frames that were dropped leave gaps.
      time: seconds, as given with the frame.
      latency: seconds from the frame's arrival to the answer on the host.
      event: the mark that came with the frame.
      result: the model's answer; None if the step raised.
      error: why there is none.
      reset: the stream began anew with this frame, because a failed step took its state.
      frame: the frame itself, if :attr:`Stream.show` was set by the time of the answer.
    """

    stream: Hashable
    index: int
    time: float
    latency: float
    event: bool = False
    result: Result | None = None
    error: str | None = None
    reset: bool = False
    frame: Any = None


class Stream:
    """Made by :meth:`Engine.add`. Iterate it (``async for answer in stream``) for the answers.

    ``offer`` may be called from any thread, the rest belongs to the engine's event loop.
    """

    def __init__(self, engine: Owner, state: StreamState, unread: int, carry: Carry, start: int):
        self._engine, self.state = engine, state
        self.name = state.name
        self.carry = carry  # what it goes on from, until its first step
        self.lost = False  # its state went with a failed step
        self.show = False  # whether answers carry their frame, for who wants to look at it
        self.elapsed = Elapsed(state.demand.fps)  # of the frames launched
        self.launched = start  # frames launched, counted from the stream's start
        self.writers = 0  # pushes that wait for a credit
        self._latest = state.room is None
        self._unread, self._bound = deque(), unread
        self._news, self._credit = asyncio.Event(), asyncio.Event()
        self._ended = False

    @property
    def credits(self) -> int:
        """Frames that would be taken now."""
        return self.state.credits

    @property
    def paused(self) -> bool:
        return self.state.paused

    @property
    def closed(self) -> bool:
        return self.state.closed

    @property
    def unread(self) -> tuple[Answer, ...]:
        """Answers that wait for their reader, oldest first; they stay."""
        return tuple(self._unread)

    @property
    def books(self) -> Snapshot:
        """Where every frame of the stream is."""
        return self.state.account.snapshot()

    def offer(
        self,
        frame: np.ndarray,
        time: float | None = None,
        *,
        event: bool = False,
        original: tuple[int, int] | None = None,
    ) -> int | None:
        """Gives a frame, uint8 RGB [h, w, 3], without waiting; any thread may call it.

        The array belongs to the engine from now on: do not write into it. Where the card has a rule
        for pictures a frame has any size, and boxes are fractions of it: :class:`Framing`, which
        also says what ``original`` is.

        Returns:
          The frame's index, or None: no credit, the frame is still the caller's.

        Raises:
          ValueError: wrong shape or type. StreamClosed: the stream takes no frames any more.
        """
        return self._offer(self._framed(frame, original), time, event)

    def _framed(self, frame: np.ndarray, original: tuple[int, int] | None) -> Framed:
        try:
            return self._engine.framing(frame, original)
        except ValueError as error:
            raise ValueError(f"stream {self.name!r}: {error}") from None

    def _offer(self, frame: Framed, time: float | None, event: bool) -> int | None:
        return self._engine.offer(self, frame, time, event)

    async def push(
        self,
        frame: np.ndarray,
        time: float | None = None,
        *,
        event: bool = False,
        original: tuple[int, int] | None = None,
    ) -> int:
        """Gives a frame as soon as there is a credit for it, and returns its index.

        Raises:
          ValueError: wrong shape or type. StreamClosed: closed before the frame was taken.
        """
        framed = self._framed(frame, original)
        self.writers += 1
        try:
            while True:
                self._credit.clear()
                index = self._offer(framed, time, event)
                if index is not None:
                    return index
                await self._credit.wait()
        finally:
            self.writers -= 1

    def pause(self) -> None:
        """Stops serving the stream; its queue goes by its policy, its state stays."""
        self._engine.pause(self)

    def resume(self) -> None:
        """Raises Refused: others took its share of the time."""
        self._engine.resume(self)

    async def snapshot(self) -> tuple[int, Carry]:
        """(frames that it has seen, carry [1, ...] as numpy): ``add(carry=, start=)`` goes on."""
        return await self._engine.snapshot(self)

    def finish(self) -> None:
        """No more frames will come: what waits is answered, then the iteration ends."""
        self._engine.finish(self)

    def close(self) -> Snapshot:
        """Lets go at once, from any state, and again without harm. Returns the books so far:
        a frame in a running step still counts as in flight, and is dropped when it ends."""
        self._engine.remove(self)
        return self.books

    # The event loop's side of the engine.

    def deliver(self, answer: Answer) -> None:
        if self._latest and len(self._unread) >= self._bound:
            self._unread.popleft()
            self.state.account.overwrite()
        self._unread.append(answer)
        self._news.set()

    def credit(self) -> None:
        self._credit.set()

    def end(self) -> None:
        self._ended = True
        self._news.set()
        self._credit.set()  # a waiting push finds the stream closed

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Answer:
        while not self._unread:
            if self._ended:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        answer = self._unread.popleft()
        self._engine.taken(self)
        return answer
