"""Recorded video, decoded inline, every frame of it."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from datetime import datetime
from time import monotonic
from typing import Any, NamedTuple

import av
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError

from ...zoo.video import Orientation, best_video, is_cover, pixel_aspect
from .base import KEYFRAMES, Frame, FrameSource, SourceError, Wanted, reason, sized
from .clocks import RecordedClock, Stamps, stamps_of
from .connecting import is_end, size_of
from .ending import cut_short, fragments
from .picture import PacketDecoder, Resizer, is_animated_webp, packets

TS_DISCONT = 0x0200  # AVFMT_TS_DISCONT
# Formats whose header says how long all of the tracks are together, and not how long each is.
TOGETHER = {"matroska", "webm", "flv"}


class Decoded(NamedTuple):
    """A picture, its time, how many were skipped before it, and how it lies if its packet said."""

    picture: av.VideoFrame
    time: float
    skipped: int
    turned: Orientation | None


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
        size: Wanted = None,
        keep_original: bool = False,
        options: dict[str, str] | None = None,
        container: InputContainer | None = None,
        remote: bool = False,
    ):
        """container: an already opened one; remote: it comes over a network."""
        self.name = name or address
        self.stream = self.name if stream is None else stream
        self._container: Any = None
        self._remote = remote
        self._path = "" if remote else address.removeprefix("file:")
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

    def _start(self, size: Wanted, keep_original: bool) -> None:
        self._video = best_video(self._container)
        if self._video is None:
            cover = any(is_cover(s) for s in self._container.streams.video)
            but = ", only a cover picture" if cover else ""
            raise SourceError(
                f"{self.name}: has no video track{but}; give a file with pictures in it"
            )
        self._video.thread_type = "AUTO"
        self._decoder = PacketDecoder(self._video)
        self.epoch = recording_date(self._container)
        rate = self._video.average_rate or self._video.guessed_rate
        self.fps = float(rate) if rate else None
        self.frame_count = self._video.frames or None
        # Players count from the container's start, not from the first picture.
        length, base = self._video.duration, self._video.time_base
        start, format = self._container.start_time, self._container.format
        self._format = format.name
        self._announced = float(length * base) if length and base else None
        if format.name == "avi" and self.frame_count and self.fps:
            # of a file that is cut FFmpeg scales the length down, and not the count
            self._announced = self.frame_count / self.fps
        whole, self._others, self._torn = self._container.duration, 0.0, False
        self._together = bool(whole and TOGETHER & {*format.name.split(",")})
        self._together &= self._announced is None
        if self._together:
            self._announced = (whole - max(0, start or 0)) / av.time_base
        elif (parts := fragments(self._path, format.name)) is not None:
            self.frame_count = None  # FFmpeg counts those of the head, and adds up what is there
            self._announced, self._together = parts.seconds, parts.seconds is not None
        self._clock = RecordedClock(
            1.0 / self.fps if self.fps else 0.04,
            None if start is None else start / av.time_base,
            restarts=may_restart(format),
            decoding_only=format.name == "avi",
        )
        self._resize, self._keep = Resizer(pixel_aspect(self._video)), keep_original
        self._requested, self._given, self._end = size, 0, 0.0
        first = self._video.start_time
        known = first is not None and base and not self._together
        self._begins = float(first * base) - (start or 0) / av.time_base if known else 0.0
        self._cut: BaseException | None = None
        self._animated = False
        self._bytes = size_of(self._container) if self._remote else None
        self._coming: deque[tuple[av.Packet, Stamps]] = deque()
        self._decoded = self._decode()
        self._first = next(self._decoded, None)
        if self._first is None and self._animated:
            raise SourceError(
                f"{self.name}: an animated WebP, which FFmpeg cannot decode; make a GIF of it, in "
                '256 colours a picture, and give that: python -c "from PIL import Image; '
                "Image.open('it.webp').save('it.gif', save_all=True)\""
            )
        if self._first is None:
            raise SourceError(
                f"{self.name}: not one frame can be decoded; the file is cut off or damaged: "
                "copy it again"
            )
        if format.name == "avi":  # B-frames delay all the pictures alike
            self._begins = self._first.time
        self.original_size = self._resize.size(self._first.picture, self._first.turned)
        self.size = sized(size, self.original_size)

    def _packets(self) -> Iterator[av.Packet]:
        """Of the video; a few are read ahead, for the clock."""
        # the other tracks too, where only their common end is known
        source, more = packets(self._container, *() if self._together else (self._video,)), True
        while True:
            while more and len(self._coming) <= self._clock.AHEAD:
                try:
                    packet = next(source, None)
                except (FFmpegError, OSError) as error:
                    self._cut, packet = None if self._is_end(error) else error, None
                more = packet is not None
                if packet is not None and packet.stream.index != self._video.index:
                    self._hear(packet)
                elif packet is not None:
                    self._torn = packet.is_corrupt or (self._torn and not packet.size)
                    shown = bool(packet.size) and not packet.is_discard
                    self._coming.append((packet, stamps_of(packet) if shown else (None, None)))
            if not self._coming:
                return
            yield self._coming.popleft()[0]

    def _hear(self, packet: av.Packet) -> None:
        """Takes note of where another track is."""
        if packet.pts is not None and packet.time_base:
            start = (self._container.start_time or 0) / av.time_base
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base) - start
            self._others = max(self._others, end)

    def _is_end(self, error: BaseException) -> bool:
        return self._remote and is_end(error, self._container)

    def _decode(self) -> Iterator[Decoded]:
        decoder = self._decoder
        for packet in self._packets():
            if "webp" in self._format:
                self._animated |= is_animated_webp(bytes(packet))
            try:
                pictures = decoder(packet, self.keyframes_only)
            except (FFmpegError, OSError):
                self.corrupt += 1
                continue
            yield from map(self._timed, pictures)
        if self._cut is not None:  # the demuxer did not flush the decoder
            yield from map(self._timed, decoder.drain())

    def _timed(self, picture: av.VideoFrame) -> Decoded:
        time = self._clock(stamps_of(picture), (stamps for _, stamps in self._coming))
        return Decoded(picture, time, self._decoder.skipped, self._decoder.orientation)

    @property
    def drops(self) -> Mapping[str, int]:
        return Counter({KEYFRAMES: self._decoder.skipped} if self._decoder.skipped else {})

    def read(self, timeout: float | None = None) -> Frame | None:
        if self._container is None:
            return None
        found, self._first = self._first or next(self._decoded, None), None
        if found is None:
            try:
                self._judge_end()
            finally:
                self.close()
            return None
        picture, time, skipped, turned = found
        original_size = self._resize.size(picture, turned)
        image = self._resize(picture, self._requested, turned)
        original = self._resize(picture, None, turned) if self._keep else None
        index = self._given + skipped
        self._given, self._end = self._given + 1, time
        return Frame(
            image, time, index, original_size, monotonic(), original,
            self.epoch + time, self.stream, self.fps,
        )  # fmt: skip

    @property
    def state(self) -> str:
        """ "live", or "closed" once nothing more will come."""
        return "live" if self._container is not None else "closed"

    def _judge_end(self) -> None:
        """Say in `warning` whether the file announced more than it had.

        Raises SourceError: it broke off on its way here, and the rest is still there.
        """
        short = self._is_short()
        more = (
            self.frame_count and self.frame_count != self._given
        )  # some counts are of what is left
        of = f" of {self.frame_count}" if more else ""
        cut = reason(self._cut) if self._cut else cut_short(self._path, self._format)
        why = f" ({cut})" if cut else ""
        if self._remote:
            lost = self._cut is not None and not isinstance(self._cut, InvalidDataError)
            if lost or (short and self._bytes is None):
                raise SourceError(
                    f"{self.name}: the connection broke off{why} after {self._given}{of} frames, "
                    f"{self._end:.1f} s; check the server and the network, and run it again"
                )
        if cut or self.corrupt or short or self._torn:
            self.warning = (
                f"{self.name}: truncated or damaged{why}: {self._given}{of} frames decoded, "
                f"{self.corrupt} packets skipped; copy the file again for the rest"
            )

    def _is_short(self) -> bool:
        """Whether it ended before its announced end, by the count of its index and by its time.

        A count alone says little: an edit list leaves pictures out, fields are counted as frames.
        """
        frames = self._given + self._decoder.skipped
        announced, begins = self._announced, self._begins
        if announced is None:
            return self.frame_count is not None and frames < self.frame_count
        missing = begins + announced - max(self._end + 1.0 / (self.fps or 25.0), self._others)
        if self.frame_count is None:
            return missing > 1.0
        return frames < self.frame_count and missing > 0.5 / (self.fps or 25.0)

    def close(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            self._decoded = iter(())
            container.close()


def may_restart(format: Any) -> bool:
    """Whether FFmpeg says of a container format that its clock may start anew in mid-file."""
    return bool(int(format.flags) & TS_DISCONT)


def recording_date(container: InputContainer) -> float:
    """Unix seconds of a container's `creation_time`; 0 if there is none."""
    try:
        return datetime.fromisoformat(container.metadata["creation_time"]).timestamp()
    except (KeyError, ValueError):
        return 0.0
