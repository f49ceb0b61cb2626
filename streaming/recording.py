"""Clips around events: the seconds before, the event, and the seconds after."""

from __future__ import annotations

import collections
import io
from pathlib import Path
from typing import Any

import numpy as np

from ..layers.install import how_to_install
from ..layers.streaming import Json
from .video_writer import VideoWriter

QUALITY = 90  # of the JPEG pictures that wait; raw ones would be ten times as large


class EventRecorder:
    """Writes ``NAME-0001.mp4``, ... whenever a frame's line has ``events``.

    Events that overlap, with their seconds before and after, are in one clip. Memory is that of
    the JPEG pictures of the last ``before`` seconds.

    Args:
      folder, name: where, and how the files begin.
      fps: of the stream.
      before, after: seconds kept before the first and after the last moment of events.
      longest: seconds of a clip at most; an event that lasts longer goes on in the next one.
      overwrite: replace clips of an earlier run.

    Raises:
      ImportError: Pillow is not installed. OutputError: when a clip cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        name: str,
        fps: float,
        *,
        before: float = 3.0,
        after: float = 3.0,
        longest: float = 60.0,
        overwrite: bool = False,
    ):
        try:
            from PIL import Image
        except ImportError as error:
            raise ImportError(
                f"recording around events needs Pillow: {how_to_install('demo')}"
            ) from error
        self._image: Any = Image
        self.folder, self.name, self.fps = Path(folder), name, fps
        self.before, self.after, self.longest = before, after, longest
        self.overwrite = overwrite
        self.clips: list[Path] = []
        self._waiting: collections.deque[tuple[float, bytes]] = collections.deque()
        self._under_way: set[tuple[str, int]] = set()
        self._writer: VideoWriter | None = None
        self._began = self._until = 0.0
        self._last = -1.0

    def write(self, line: Json, image: np.ndarray) -> None:
        """Takes the next frame: its line, with ``time`` and maybe ``events``, and its picture,
        uint8 [h, w, 3]."""
        time, events = line["time"], line.get("events", ())
        for event in events:
            key = event["region"], event["id"]
            if event["state"] == "start":
                self._under_way.add(key)
            else:
                self._under_way.discard(key)
        if events or self._under_way:
            self._until = time + self.after
            if self._writer is None:
                self._open(time, image.shape[:2])
        if self._writer is None:
            return self._keep(time, image)
        if image.shape[:2] != self._writer.size:  # the source changed its resolution
            rows, cols = self._writer.size
            image = np.asarray(self._image.fromarray(image).resize((cols, rows)))
        self._writer.write(image, time)
        # A hair early: times are sums of fractions.
        if time >= self._until - 1e-6 or time - self._began >= self.longest - 1e-6:
            self._end()

    def close(self) -> None:
        """Finishes the clip in hand. Calling it again is harmless."""
        self._end()
        self._waiting.clear()

    def _keep(self, time: float, image: np.ndarray) -> None:
        data = io.BytesIO()
        self._image.fromarray(image).save(data, "JPEG", quality=QUALITY)
        self._waiting.append((time, data.getvalue()))
        while self._waiting and self._waiting[0][0] < time - self.before:
            self._waiting.popleft()

    def _open(self, time: float, size: tuple[int, int]) -> None:
        path = self.folder / f"{self.name}-{len(self.clips) + 1:04d}.mp4"
        self._writer, self._began = (
            VideoWriter(path, self.fps, (size[0], size[1]), overwrite=self.overwrite),
            time,
        )
        self.clips.append(path)
        for at, data in self._waiting:
            if at < time - self.before:
                continue
            image = np.asarray(self._image.open(io.BytesIO(data)))
            if image.shape[:2] == self._writer.size:
                self._writer.write(image, at)
        self._waiting.clear()

    def _end(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
