"""What every frame source shares: the frame, its clock, the resize, the interface.

Sizes are (height, width) throughout, times are seconds.
"""

import re
from dataclasses import dataclass
from typing import Iterator

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

Size = tuple[int, int]


class SourceError(ValueError):
    """A source that cannot be opened or read; the message names it and the remedy."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One decoded picture.

    image: uint8 [h, w, 3] RGB, at the size the source was asked for.
    time: seconds, strictly increasing. Recorded video: the position in the file (pts). Live:
        since the first frame, by the sender's timestamps; an outage counts with its true length.
    index: frames decoded before this one; a live source that drops frames leaves gaps.
    original_size: (height, width) before the resize, as displayed (after rotation).
    received: `time.monotonic()` when the frame left the decoder: subtract it for the latency.
    original: uint8 [H, W, 3] RGB at the original size, if the source was opened with
        `keep_original=True`, else None.
    """

    image: np.ndarray
    time: float
    index: int
    original_size: Size
    received: float
    original: np.ndarray | None = None


class FrameSource:
    """An iterator of `Frame`; close it, or use it as a context manager.

    fps: nominal frames per second, None when the source does not say.
    size: (height, width) of `Frame.image`.
    frame_count: frames the container announces, None when unknown.
    live: True when frames come whether or not anyone reads them.
    corrupt: packets or frames that could not be decoded and were skipped.
    warning: one line about damage that did not stop the reading (a file cut short), else None.
    dropped, reconnects, stalls: always 0 on recorded video, see `LiveSource`.
    """

    name: str
    live: bool = False
    fps: float | None = None
    size: Size = (0, 0)
    original_size: Size = (0, 0)
    frame_count: int | None = None
    corrupt: int = 0
    dropped: int = 0
    reconnects: int = 0
    stalls: int = 0
    warning: str | None = None

    @property
    def state(self) -> str:
        """ "live", or "closed" once nothing more will come."""
        return "live"

    def read(self, timeout: float | None = None) -> Frame | None:
        """The next frame; None at the end, after `close()`, or after `timeout` seconds (live)."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of decoder, threads, file or socket. Calling it again is harmless."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        frame = self.read()
        if frame is None:
            raise StopIteration
        return frame

    def __enter__(self):
        return self

    def __exit__(self, *exc) -> None:
        self.close()


class Resizer:
    """Decoder frame -> uint8 RGB array, in swscale, bilinear.

    The algorithm is pinned: bilinear and area differ in pixels, and a model must see in service
    what it saw in training. The scaling context follows the frame, so a stream may change its
    resolution at any time.
    """

    def __init__(self):
        self._swscale = VideoReformatter()

    def __call__(self, frame: av.VideoFrame, size: Size | None = None) -> np.ndarray:
        # Phones store portrait video lying down; the angle is counter-clockwise, as rot90 counts.
        turns = round(getattr(frame, "rotation", 0) / 90) % 4
        height, width = size or displayed_size(frame)
        if turns % 2:
            height, width = width, height
        unchanged = frame.format.name == "rgb24" and (frame.height, frame.width) == (height, width)
        rgb = self._swscale.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=Interpolation.BILINEAR
        )
        image = rgb.to_ndarray()
        if turns:
            image = np.rot90(image, turns)
        elif unchanged:  # the decoder's own picture, which later frames may be predicted from
            image = image.copy()
        return np.ascontiguousarray(image)


def displayed_size(frame: av.VideoFrame) -> Size:
    """(height, width) of the frame as displayed, i.e. after its rotation mark."""
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return (frame.width, frame.height) if turns % 2 else (frame.height, frame.width)


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


def redact(address: str) -> str:
    """The address without the password in it: `rtsp://user:***@host/path`."""
    return re.sub(r"(://[^/@:]*):[^/]*@", r"\1:***@", address)


def reason(error: BaseException) -> str:
    """FFmpeg's words for an error, without the numbers and the address PyAV puts around them."""
    if type(error).__name__ == "ExitError":  # PyAV's interrupt callback: our own time limit
        return "timed out"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text[0].lower() + text[1:]
