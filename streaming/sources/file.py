"""Recorded video, decoded inline, every frame of it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from time import monotonic
from typing import Any

import av
from av.error import FFmpegError

from .base import KEYFRAMES, Frame, FrameSource, Size, SourceError, reason
from .clocks import Clock
from .picture import PacketDecoder, Resizer, displayed_size, packets


class FileSource(FrameSource):
    """Recorded video, decoded inline and without loss.

    Damage inside is skipped and counted in `corrupt`; a file that ends before its announced end
    gives all the frames it has and then says so in `warning`. `epoch` is the recording's date in
    Unix seconds, 0 if it has none.
    """

    def __init__(
        self,
        address: str,
        *,
        name: str | None = None,
        stream: str | None = None,
        size: Size | None = None,
        keep_original: bool = False,
        options: dict[str, str] | None = None,
        container: Any = None,
    ):
        self.name = name or address
        self.stream = self.name if stream is None else stream
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
        self._video = self._container.streams.video[0]
        self._video.thread_type = "AUTO"
        self._decoder = PacketDecoder(self._video)
        self.epoch = recording_date(self._container)
        rate = self._video.average_rate or self._video.guessed_rate
        self.fps = float(rate) if rate else None
        self.frame_count = self._video.frames or None
        # Players count from the container's start, not from the first picture.
        start = self._container.start_time
        interval = 1.0 / self.fps if self.fps else 0.04
        self._clock = Clock(interval, None if start is None else start / av.time_base)
        self._resize, self._keep = Resizer(), keep_original
        self._requested, self._given, self._end = size, 0, 0.0
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
        source = packets(self._container, self._video)
        while True:
            try:
                packet = next(source, None)
            except (FFmpegError, OSError) as error:
                self._cut = error
                packet = None
            if packet is None:
                break
            try:
                yield from self._decoder(packet, self.keyframes_only)
            except (FFmpegError, OSError):
                self.corrupt += 1
        if self._cut is not None:  # the demuxer did not flush the decoder
            yield from self._decoder.drain()

    @property
    def drops(self) -> Mapping[str, int]:
        return Counter({KEYFRAMES: self._decoder.skipped} if self._decoder.skipped else {})

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
        time = self._clock(picture.time)
        index = self._given + self._decoder.skipped
        self._given, self._end = self._given + 1, time
        return Frame(
            image, time, index, original_size, monotonic(), original,
            self.epoch + time, self.stream, self.fps,
        )  # fmt: skip

    def _judge_end(self) -> None:
        """Say in `warning` whether the file announced more than it had."""
        stream, frames = self._video, self._given + self._decoder.skipped
        announced = float(stream.duration * stream.time_base) if stream.duration else 0.0
        short = self.frame_count is not None and frames < self.frame_count
        if not self.frame_count and announced:
            short = self._end < announced - 1.0
        if self._cut is not None or self.corrupt or short:
            of = f" of {self.frame_count}" if self.frame_count else ""
            why = f" ({reason(self._cut)})" if self._cut is not None else ""
            self.warning = (
                f"{self.name}: truncated or damaged{why}: {self._given}{of} frames decoded, "
                f"{self.corrupt} packets skipped; copy the file again for the rest"
            )

    def close(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            self._decoded = iter(())
            container.close()


def recording_date(container: Any) -> float:
    """Unix seconds of a container's `creation_time`; 0 if there is none."""
    try:
        return datetime.fromisoformat(container.metadata["creation_time"]).timestamp()
    except (KeyError, ValueError):
        return 0.0
