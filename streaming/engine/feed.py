"""A source feeds a stream of the engine, in a thread of its own, until either of them ends."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Literal

from ...layers.streaming import Fields, Json
from ..sources.base import KEYFRAMES, Frame, FrameSource
from ..sources.jitter import OVERFLOW
from ..sources.redaction import scrub
from ..sources.shedding import Shedding
from .queues import LATE, SUPERSEDED
from .stream import Stream, StreamClosed

log = logging.getLogger("streamzoo.serve")
POLL = 0.2  # seconds: how soon a feed without frames notices that it is closed


class Feed:
    """Reads a source in its own I/O thread and offers every frame to an engine's stream.

        source = await asyncio.to_thread(open_source, url, size=engine.frame_shape, stream="cam")
        stream = engine.add("cam", fps=source.fps or 30.0, policy="latest")
        feed = Feed(source, stream)            # runs from here on
        async for answer in stream: ...        # ends when the source does
        await feed.close()

    The feed owns the source from now on and closes it. Which frames are dropped is up to the two
    ends: the engine's queue by the stream's policy (``stream.books``), a live source's own queue
    (``source.drops``). A stream without credits makes the feed wait, which holds back a recording
    and lets a live source drop; a frame the feed holds is offered until it is taken.

    When the source ends the stream is finished: what waits is answered, then its iteration ends.
    When the source fails the same happens, and ``error`` says why; other streams do not notice.
    When the stream is closed the source is.

    A live source of a stream with the policy "latest" that loses most of its frames for a while
    decodes key frames only, see :class:`Shedding`; what is skipped counts in ``source.drops``.

    Args:
      source: opened with ``size`` equal to the engine's ``frame_shape``.
      stream: made by ``Engine.add`` on the event loop that calls this.
      tap: called as ``tap(index, frame)`` in the I/O thread for every frame the engine took,
        ``index`` being ``Answer.index``: for tiles and replays. It must be quick. If it raises,
        the feed fails.
      event: ``event(frame) -> bool`` marks the frames that the policy "events" never drops.

    ``Answer.time`` is the frame's ``captured``, Unix seconds.

    Attributes:
      state: "running", "ended" or "failed".
      error: why it failed, one line; else None.
      offered: frames the engine took.
    """

    def __init__(
        self,
        source: FrameSource,
        stream: Stream,
        *,
        tap: Callable[[int, Frame], None] | None = None,
        event: Callable[[Frame], bool] | None = None,
    ):
        self.source, self.stream = source, stream
        self.state: Literal["running", "ended", "failed"] = "running"
        self.error: str | None = None
        self.offered = 0
        self._tap, self._event = tap, event
        self._shedding = Shedding() if source.live and stream.state.room is None else None
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"streamzoo feed {stream.name}", daemon=True
        )
        self._thread.start()

    async def wait(self) -> str | None:
        """Until the source has ended and is closed; returns ``error``."""
        await self._ended.wait()
        return self.error

    async def close(self) -> None:
        """Ends the feed and closes its source; the stream is finished, its answers still come.

        Again, and from any state, without harm.
        """
        self._stop.set()
        await self._ended.wait()

    def report(self) -> Json:
        """For JSON: the state, and what the source dropped before the engine saw it."""
        source = self.source
        return {
            "state": self.state if self.state != "running" else source.state,
            "error": self.error,
            "source": source.name,
            "fps": source.fps,
            "delay": source.delay,
            "offered": self.offered,
            "dropped": dict(source.drops),
            "corrupt": source.corrupt,
            "reconnects": source.reconnects,
            "stalls": source.stalls,
            "missed": source.missed,
            "keyframes_only": source.keyframes_only,
        }

    # The rest runs in the I/O thread.

    def _run(self) -> None:
        try:
            self._read()
        except StreamClosed:
            pass  # somebody let go of the stream
        except BaseException as error:  # whatever it is, it ends this stream only
            self.error = scrub(str(error) or repr(error))
        try:
            self.source.close()
        except Exception as error:
            self.error = self.error or scrub(f"{self.source.name}: closing failed: {error!r}")
        self.state = "ended" if self.error is None else "failed"
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self.stream.finish()
        self._ended.set()

    def _read(self) -> None:
        while not self._stop.is_set() and not self.stream.closed:
            self._shed()
            frame = self.source.read(timeout=POLL)
            if frame is None:
                if self.source.over:
                    return
                continue
            index = self._offer(frame)
            if index is None:  # closed while it waited
                return
            self.offered += 1
            if self._tap is not None:
                self._tap(index, frame)

    def _shed(self) -> None:
        if self._shedding is None:
            return
        dropped, before_us = self.stream.books.dropped, self.source.drops
        lost = dropped.get(SUPERSEDED, 0) + dropped.get(LATE, 0) + before_us.get(OVERFLOW, 0)
        came = self.offered + sum(before_us.values()) - before_us.get(KEYFRAMES, 0)
        before = self._shedding.active
        active = self._shedding(monotonic(), came, lost)
        if active != before:
            self.source.keyframes_only = active
            log.info("%s: %s", self.stream.name, "key frames only" if active else "all frames")

    def _offer(self, frame: Frame) -> int | None:
        mark = self._event is not None and bool(self._event(frame))
        told: Fields = dict(event=mark, original=frame.original_size)
        index = self.stream.offer(frame.image, frame.captured, **told)
        if index is not None:
            return index
        waiting = asyncio.run_coroutine_threadsafe(
            self.stream.push(frame.image, frame.captured, **told), self._loop
        )
        while not (self._stop.is_set() or self._loop.is_closed()):
            try:
                return waiting.result(POLL)
            except concurrent.futures.TimeoutError:
                continue
        waiting.cancel()
        return None
