"""Frames that somebody pushes: a Python program, or a server on behalf of its clients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from time import monotonic, time

import av
import numpy as np

from ...zoo.video import UPRIGHT, of_exif
from .base import Frame, Size, SourceError
from .buffered import MAX_DELAY, BufferedSource
from .clocks import LiveClock
from .jpeg import MAX_PIXELS, JpegDecoder, check_work, jpeg_size
from .picture import Resizer


@dataclass(frozen=True, slots=True)
class Pushed:
    """A frame as it was pushed; it is decoded in the reader's thread.

    index: number of frames pushed before; captured: Unix seconds; received: monotonic seconds.
    """

    data: np.ndarray | bytes
    index: int
    captured: float
    received: float


class PushSource(BufferedSource[Pushed]):
    """A source into which any thread pushes RGB arrays or JPEG pictures, with their capture times.

        source = PushSource("door", size=(224, 224), fps=15)
        source.push(image)                          # or .push(jpeg_bytes, captured=unix_seconds)
        source.finish()                             # no more will come

    Pictures are given in the order of their capture, decoded and resized by the reader.

    Args:
      stream: name of the stream.
      size: (height, width) of the images; None keeps each at its own.
      fps: nominal frames per second, for admission; nothing enforces it.
      delay: seconds of the jitter buffer; 0 gives the frames at once, and drops what comes behind
        a later one.
      queue: frames held at most, besides the 2 * delay * fps of the jitter buffer.
      lossless: what a full queue does: False drops its oldest frame (`drops["overflow"]`), True
        makes the sender wait.
      max_bytes, max_pixels: of one picture; more is refused.
      keep_original: also give each frame at its original size.

    `refused` counts pushes that were not taken. The books, at all times: frames taken = frames
    read + `corrupt` + `dropped` + `held`.
    """

    def __init__(
        self,
        stream: str = "push",
        *,
        size: Size | None = None,
        fps: float | None = None,
        delay: float = 0.0,
        queue: int = 8,
        lossless: bool = False,
        max_bytes: int = 8 << 20,
        max_pixels: int = MAX_PIXELS,
        keep_original: bool = False,
    ):
        if not (0 <= delay < MAX_DELAY and queue >= 1 and (fps is None or 0 < fps < math.inf)):
            raise SourceError(
                f"{stream}: delay={delay}, queue={queue}, fps={fps}: give a delay of 0 up to "
                f"{MAX_DELAY:g} s, room for at least 1 frame, and a rate above 0"
            )
        super().__init__(delay, queue + math.ceil(2 * delay * (fps or 30.0)))
        self.name = self.stream = stream
        self.fps, self.size = fps, size or (0, 0)
        self.refused = self.taken = 0
        self._requested, self._keep, self._lossless = size, keep_original, lossless
        self._max_bytes, self._max_pixels = max_bytes, max_pixels
        self._resize, self._jpeg = Resizer(), JpegDecoder(max_pixels)
        self._clock = LiveClock(1.0 / fps if fps else 0.04, ahead=10.0)

    @property
    def credits(self) -> int:
        """Pushes that would be taken now without anything being dropped."""
        with self._news:
            return max(0, self._buffer.capacity - len(self._buffer))

    def push(
        self,
        picture: np.ndarray | bytes,
        captured: float | None = None,
        *,
        timeout: float | None = 0.0,
    ) -> bool:
        """Gives a frame; any thread may call it.

        Args:
          picture: uint8 RGB [h, w, 3], which is copied, or a JPEG file's bytes.
          captured: Unix seconds on the sender's clock, default now. The clocks need not agree.
          timeout: seconds a full lossless source may make the caller wait; None: for ever.

        Returns:
          False: no room, or the source is closed; the frame is still the caller's.

        Raises:
          SourceError: not a picture, or beyond the limits; the source goes on.
        """
        try:
            data = self._checked(picture)
            if captured is not None and not math.isfinite(captured):
                raise SourceError(f"{self.name}: capture time {captured}: give Unix seconds")
        except SourceError:
            self._refuse()
            raise
        with self._news:
            room = self._news.wait_for(self._open, timeout) if self._lossless else True
            if not room or self._stop.is_set() or self._ended:
                self.refused += 1
                return False
            now, wall = monotonic(), time()
            stamp = wall if captured is None else float(captured)
            self._put(Pushed(data, self.taken, stamp, now), stamp, now)
            self.taken += 1
        return True

    def finish(self) -> None:
        """No more frames will come: what is held is still given, at once, then the end."""
        self._end()

    def _open(self) -> bool:
        return self._stop.is_set() or self._ended or len(self._buffer) < self._buffer.capacity

    def _refuse(self) -> None:
        with self._news:
            self.refused += 1

    def _checked(self, picture: np.ndarray | bytes) -> np.ndarray | bytes:
        if isinstance(picture, (bytes, bytearray, memoryview)):
            if len(picture) > self._max_bytes:
                raise SourceError(
                    f"{self.name}: a picture of {len(picture)} bytes; up to {self._max_bytes} "
                    "are taken: send it smaller"
                )
            data = bytes(picture)
            try:
                height, width = jpeg_size(data)
                check_work(data, (height, width))
            except ValueError as error:
                raise SourceError(f"{self.name}: {error}; send JPEG, or uint8 RGB") from None
        else:
            data = np.asarray(picture)
            if data.dtype != np.uint8 or data.ndim != 3 or data.shape[2] != 3 or 0 in data.shape:
                raise SourceError(
                    f"{self.name}: a picture {data.dtype} {data.shape}; give uint8 RGB [h, w, 3]"
                )
            height, width = data.shape[:2]
        if height * width > self._max_pixels:
            raise SourceError(
                f"{self.name}: a picture of {width} x {height}; up to {self._max_pixels} pixels "
                "are taken: send it smaller"
            )
        return data if isinstance(data, bytes) else data.copy()

    def _frame(self, item: Pushed) -> Frame | None:
        turned = None
        if isinstance(item.data, bytes):
            picture, turned = self._jpeg(item.data), of_exif(item.data) or UPRIGHT
            if picture is None:
                self.corrupt += 1
                return None
        else:
            picture = av.VideoFrame.from_ndarray(item.data, format="rgb24")
        self.original_size = self._resize.size(picture, turned)
        image = self._resize(picture, self._requested, turned)
        original = self._resize(picture, None, turned) if self._keep else None
        self.size = image.shape[0], image.shape[1]
        stamp = self._clock(item.captured, item.received)
        return Frame(
            image, stamp, item.index, self.original_size, item.received, original,
            item.captured, self.stream, self.fps,
        )  # fmt: skip
