"""Recordings that come over a network: read in a thread, so that no reader is stuck with it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from typing import Any

from .base import Frame, FrameSource
from .file import FileSource

AHEAD = 4  # frames that wait for the reader


class RemoteSource(FrameSource):
    """A :class:`FileSource` that may be silent: every frame of it, in order, and none is dropped.

    `read(timeout)` gives None while the server is silent, too; `state` says whether it is the end.
    An end that came too early raises `SourceError` after the last frame.
    """

    def __init__(self, source: FileSource):
        self._source = source
        self.name, self.stream = source.name, source.stream
        self._frames: queue.Queue[Frame | BaseException | None] = queue.Queue(AHEAD)
        self._stop = threading.Event()
        self._ended = self._waiting = False
        self._thread = threading.Thread(
            target=self._run, name=f"streamzoo {self.name}", daemon=True
        )
        self._thread.start()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    fps = property(lambda self: self._source.fps)  # type: ignore[assignment]
    size = property(lambda self: self._source.size)  # type: ignore[assignment]
    original_size = property(lambda self: self._source.original_size)  # type: ignore[assignment]
    frame_count = property(lambda self: self._source.frame_count)  # type: ignore[assignment]
    corrupt = property(lambda self: self._source.corrupt)  # type: ignore[assignment]
    warning = property(lambda self: self._source.warning)  # type: ignore[assignment]
    keyframes_only = property(  # type: ignore[assignment]
        lambda self: self._source.keyframes_only,
        lambda self, value: setattr(self._source, "keyframes_only", value),
    )

    @property
    def drops(self) -> Mapping[str, int]:
        return self._source.drops

    @property
    def state(self) -> str:
        """ "live", "stalled" (a read has timed out) or "closed" once nothing more will come."""
        if self._ended or self._stop.is_set():
            return "closed"
        return "stalled" if self._waiting else "live"

    def read(self, timeout: float | None = None) -> Frame | None:
        if self._ended or self._stop.is_set():
            return None
        try:
            item = self._frames.get(timeout=timeout)
        except queue.Empty:
            self._waiting = True
            return None
        self._waiting = False
        if isinstance(item, Frame):
            return item
        self._ended = True
        if item is not None:
            raise item
        return None

    def close(self) -> None:
        """Again without harm. A read that waits for the server is left to its own time limit."""
        self._stop.set()
        while True:  # make room: the thread may wait for it
            try:
                self._frames.get_nowait()
            except queue.Empty:
                break
        self._thread.join(1.0)

    def _run(self) -> None:
        end: BaseException | None = None
        try:
            while not self._stop.is_set() and (frame := self._source.read()) is not None:
                self._frames.put(frame)
        except BaseException as error:
            end = error
        finally:
            self._source.close()
        if not self._stop.is_set():
            self._frames.put(end)
