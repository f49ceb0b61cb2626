"""Frame sources: files, cameras, RTSP and HLS addresses, through PyAV.

    with open_source("street.mp4", size=(224, 224)) as source:
        for frame in source:
            ...

Recorded video is decoded inline, every frame of it. A live source (`LiveSource`) is decoded in a
background thread, reconnects after faults, and gives the latest frame when the reader is slow.
"""

import re
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Iterator

import av
from av.error import FFmpegError

from .live_source import BACKOFF_CAP, BACKOFF_FIRST, LiveSource, connect
from .source_base import (
    Clock,
    Frame,
    FrameSource,
    Resizer,
    Size,
    SourceError,
    displayed_size,
    reason,
    redact,
)

__all__ = ["FileSource", "Frame", "FrameSource", "LiveSource", "SourceError", "open_source"]

LIVE_SCHEMES = {"rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "udp", "tcp"}


def open_source(
    address: str | int | Path,
    *,
    size: Size | None = None,
    live: bool | None = None,
    keep_original: bool = False,
    queue: int = 2,
    open_timeout: float = 5.0,
    read_timeout: float = 2.0,
    connect_retries: int = 3,
    max_retries: int | None = None,
    options: dict[str, str] | None = None,
) -> FrameSource:
    """Open a video file, a camera (0, "0" or "/dev/video0") or an address, and prove it readable.

    size: (height, width) of the images, resized in swscale; None keeps the source's own.
    live: None decides by the address (cameras, RTSP and its like, HLS without an end are live).
        True on a file plays it at its own speed, over and over, like a camera.
    keep_original: also give each frame at its original size, for drawing on.
    queue: frames a live source holds for a slow reader; beyond it the oldest is dropped.
    open_timeout, read_timeout: seconds to wait for a connection, and for the next picture.
    connect_retries: attempts after the first one until the first frame of an address has come.
    max_retries: attempts in a row after an outage of a live source; None never gives up.
    options: more FFmpeg options for the demuxer, e.g. {"framerate": "30"} for a camera.

    Returns once the first frame is decoded. Raises `SourceError` for a missing or non-video file,
    one without a decodable frame, and for an address that cannot be reached.
    """
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise SourceError(f"size={size}: give (height, width), both at least 1")
    if queue < 1:
        raise SourceError(f"queue={queue}: a live source needs room for at least 1 frame")
    text = str(address)
    if text.isdecimal() and (isinstance(address, int) or not Path(text).exists()):
        text = f"/dev/video{int(text)}"
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    scheme = match[1].lower() if match else ""
    if scheme == "file":
        text, scheme = text[len("file://") :], ""

    common: dict[str, Any] = dict(size=size, keep_original=keep_original)
    live_options: dict[str, Any] = dict(
        queue=queue, open_timeout=open_timeout, read_timeout=read_timeout,
        connect_retries=connect_retries, max_retries=max_retries, options=options, **common,
    )  # fmt: skip
    if text.startswith("/dev/video"):
        _check_camera(text)
        return LiveSource(text, format="v4l2", **live_options)
    if not scheme:
        _check_file(text)
        if live:
            return LiveSource(f"file:{text}", paced=True, **live_options)
        return FileSource(f"file:{text}", name=text, options=options, **common)
    if live or (live is None and scheme in LIVE_SCHEMES):
        return LiveSource(text, paced=scheme not in LIVE_SCHEMES, **live_options)

    # http(s) and the rest: a recording has a duration, a live playlist has none.
    container = _connect_with_retries(text, options, (open_timeout, read_timeout), connect_retries)
    if live is None and container.duration is None:
        return LiveSource(text, paced=True, container=container, **live_options)
    return FileSource(text, name=redact(text), container=container, **common)


def _check_file(path: str) -> None:
    if not Path(path).exists():
        raise SourceError(f"{path}: no such file; check the path")
    if Path(path).is_dir():
        raise SourceError(f"{path}: is a folder; give a video file inside it")
    if Path(path).is_file() and Path(path).stat().st_size == 0:
        raise SourceError(f"{path}: is empty (0 bytes); copy or download it again")


def _check_camera(path: str) -> None:
    if not Path(path).exists():
        found = ", ".join(sorted(str(p) for p in Path("/dev").glob("video*"))) or "none"
        raise SourceError(f"{path}: no such camera; cameras found: {found}")


def _connect_with_retries(
    address: str, options: dict[str, str] | None, timeout: tuple[float, float], retries: int
) -> Any:
    for attempt in range(retries + 1):
        try:
            return connect(address, None, options, timeout)
        except (FFmpegError, OSError) as error:
            if attempt == retries:
                raise SourceError(
                    f"{redact(address)}: cannot be opened after {attempt + 1} attempts "
                    f"({reason(error)}); check the address and that the server is running"
                ) from error
        sleep(min(BACKOFF_CAP, BACKOFF_FIRST * 2**attempt))


class FileSource(FrameSource):
    """Recorded video, decoded inline and without loss.

    Damage inside is skipped and counted in `corrupt`; a file that ends before its announced end
    gives all the frames it has and then says so in `warning`.
    """

    def __init__(
        self,
        address: str,
        *,
        name: str | None = None,
        size: Size | None = None,
        keep_original: bool = False,
        options: dict[str, str] | None = None,
        container: Any = None,
    ):
        self.name = name or address
        self._container: Any = None
        try:
            self._container = av.open(address, options=options) if container is None else container
        except (FFmpegError, OSError) as error:
            raise SourceError(
                f"{self.name}: cannot be read as video ({reason(error)}); it is not a video file, "
                "or was cut off before its index: check it, or copy it again"
            ) from error
        try:
            self._start(size, keep_original)
        except BaseException:
            self.close()
            raise

    def _start(self, size: Size | None, keep_original: bool) -> None:
        if not self._container.streams.video:
            raise SourceError(f"{self.name}: has no video track; give a file with pictures in it")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = float(rate) if rate else None
        self.frame_count = self._stream.frames or None
        # Players count from the container's start, not from the first picture.
        start = self._container.start_time
        interval = 1.0 / self.fps if self.fps else 0.04
        self._clock = Clock(interval, None if start is None else start / av.time_base)
        self._resize, self._keep = Resizer(), keep_original
        self._requested, self._next, self._end = size, 0, 0.0
        self._cut: BaseException | None = None
        self._decoded = self._decode()
        self._first = next(self._decoded, None)
        if self._first is None:
            raise SourceError(
                f"{self.name}: not one frame can be decoded; the file is cut off or damaged: "
                "copy it again"
            )
        self.original_size = displayed_size(self._first)
        self.size = size or self.original_size

    def _decode(self) -> Iterator[av.VideoFrame]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except (FFmpegError, OSError) as error:
                self._cut = error
                packet = None
            if packet is None:
                break
            try:
                yield from packet.decode()
            except (FFmpegError, OSError):
                self.corrupt += 1
        if self._cut is not None:
            try:  # the demuxer did not flush the decoder: fetch what it still holds
                yield from self._stream.decode(None)
            except (FFmpegError, OSError, ValueError):
                pass

    def read(self, timeout: float | None = None) -> Frame | None:
        if self._container is None:
            return None
        picture, self._first = self._first or next(self._decoded, None), None
        if picture is None:
            self._judge_end()
            self.close()
            return None
        original_size = displayed_size(picture)
        image = self._resize(picture, self._requested)
        original = self._resize(picture) if self._keep else None
        frame = Frame(
            image, self._clock(picture.time), self._next, original_size, monotonic(), original
        )
        self._next, self._end = self._next + 1, frame.time
        return frame

    def _judge_end(self) -> None:
        """Say in `warning` whether the file announced more than it had."""
        stream = self._stream
        announced = float(stream.duration * stream.time_base) if stream.duration else 0.0
        short = self.frame_count is not None and self._next < self.frame_count
        if not self.frame_count and announced:
            short = self._end < announced - 1.0
        if self._cut is not None or self.corrupt or short:
            of = f" of {self.frame_count}" if self.frame_count else ""
            why = f" ({reason(self._cut)})" if self._cut is not None else ""
            self.warning = (
                f"{self.name}: truncated or damaged{why}: {self._next}{of} frames decoded, "
                f"{self.corrupt} packets skipped; copy the file again for the rest"
            )

    def close(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            self._decoded = iter(())
            container.close()
