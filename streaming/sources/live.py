"""Live sources: a background thread that decodes, keeps the latest frames, and reconnects.

To FFmpeg a killed RTSP server looks like a normal end of stream, and a silent one like a long
wait. Here both are faults: the connection is made again, with growing pauses, and the timestamps
go on. Only `close()`, or too many failed attempts in a row, ends a live source.
"""

import hashlib
import math
import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from time import monotonic, time
from typing import Any

from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError

from ...zoo.video import best_video, pixel_aspect
from .arrivals import Arrivals
from .base import KEYFRAMES, Frame, SourceError, Wanted, reason
from .buffered import BufferedSource
from .clocks import BestEffort, LiveClock, SenderClock, UsualGap, stamps_of
from .connecting import (
    LIVE_SECONDS,
    RECORDING_SECONDS,
    Patience,
    connect,
    is_end,
    is_recording,
    is_stamped,
    name_of,
    remedy,
)
from .jitter import OVERFLOW
from .picture import PacketDecoder, Resizer, packets
from .redaction import scrub

BACKOFF_FIRST, BACKOFF_CAP = 0.1, 2.0  # seconds: 0.1, 0.2, 0.4, ... 2, 2, ...
HICCUP = 0.2  # seconds that a reader may lag behind the delay before frames are dropped


class _Fault(Exception):
    """Why a connection is given up; `stall` if it was silence, `end` if its sender ended it."""

    def __init__(self, text: str, stall: bool = False, end: bool = False):
        super().__init__(text)
        self.stall, self.end = stall, end


class LiveSource(BufferedSource[Frame]):
    """A camera or stream that never ends by itself; see `open_source` for the arguments.

    A bounded buffer, latest wins: when it is full the oldest frame is dropped and counted.
    Counters: `drops` of frames by reason, `reconnects` (connections after the first that gave a
    frame), `stalls` (connections given up because no picture came for the read timeout),
    `corrupt` frames, `missed` (by its frame rate and timestamps, an estimate: frames that outages
    and damage have cost, which nobody saw). `epoch` is the wall-clock time (Unix seconds) of
    `Frame.time` 0, corrected all the time. `last_fault` says why the last connection was given up.
    """

    def __init__(
        self,
        address: str,
        *,
        size: Wanted = None,
        keep_original: bool = False,
        stream: str | None = None,
        queue: int = 2,
        delay: float = 0.0,
        open_timeout: float = 5.0,
        read_timeout: float = LIVE_SECONDS,
        connect_retries: int = 3,
        max_retries: int | None = None,
        options: dict[str, str] | None = None,
        format: str | None = None,
        paced: bool = False,
        once: bool = False,
        container: InputContainer | None = None,
        patience: Patience | None = None,
    ):
        """paced: give frames at the speed of their timestamps (HLS delivers whole segments at
        once); once: it may turn out to be a recording, which begins again as before when it is
        opened again: that is its end; container: an already opened one to start with, which
        `patience` belongs to."""
        super().__init__(delay, queue)
        self.name = name_of(address)
        self.stream = self.name if stream is None else stream
        self.epoch = 0.0
        self.last_fault: str | None = None
        self._address, self._format, self._options = address, format, options
        self._timeout, self._silence = (open_timeout, read_timeout), read_timeout
        self._retries, self._max_retries = connect_retries, max_retries
        self._requested, self._keep, self._paced = size, keep_original, paced
        self._resize, self._clock, self._sender = Resizer(), LiveClock(0.04), SenderClock()
        self._room, self._once = queue, once
        self._patience, self._stamped = patience or Patience(read_timeout), True
        self._beginning, self._orderly = b"", False  # of a connection, see `_begins_again`
        self._arrivals: Arrivals | None = None
        self._overflow = 0  # packets that were not decoded, because newer ones had come
        self._came: deque[float] = deque(maxlen=31)  # arrivals, where they are all there is
        self._decoded = self._skipped = 0
        self._last: tuple[float, float, int] | None = None  # picture, see `_miss`
        self._usual = UsualGap()
        self._began = monotonic()  # when the connection was asked for
        self._last_packet = monotonic()
        self._thread = threading.Thread(
            target=self._run, args=(container,), name=f"streamzoo {self.name}", daemon=True
        )
        self._thread.start()
        try:
            with self._news:
                self._news.wait_for(lambda: self._decoded or self._error)
            if self._error is not None and not self._decoded:
                raise self._error
        except BaseException:  # Ctrl-C while connecting included
            self.close()
            raise

    @property
    def state(self) -> str:
        """ "live", "stalled" (no picture for the read timeout, or reconnecting) or "closed"."""
        if self._stop.is_set() or self._error is not None:
            return "closed"
        if self._ended:
            return super().state
        return "stalled" if monotonic() - self._last_packet > self._silence else "live"

    @property
    def drops(self) -> Mapping[str, int]:
        drops = Counter(super().drops)
        if self._skipped:
            drops[KEYFRAMES] = self._skipped
        reader = self._arrivals
        if overflow := self._overflow + (0 if reader is None else reader.dropped):
            drops[OVERFLOW] += overflow
        return drops

    def _frame(self, item: Frame) -> Frame:
        return item

    def close(self) -> None:
        super().close()
        if (reader := self._arrivals) is not None:
            reader.stop()
        if self._thread is not threading.current_thread():
            # A blocked FFmpeg call cannot be interrupted from here, but ends by its own time limit;
            # nobody waits longer for it than a live stream's.
            self._thread.join(2 * sum(self._timeout) + 1)

    # The rest runs in the background thread.

    def _run(self, container: Any) -> None:
        failures, error = 0, None
        while not self._stop.is_set():
            decoded_before, self._began = self._decoded, monotonic()
            try:
                if container is None:
                    self._patience = Patience(self._timeout[1])
                    limits = (self._timeout[0], self._patience)
                    container = connect(self._address, self._format, self._options, limits)
                if self._receive(container):
                    return self._end(self._broken)
            except (_Fault, FFmpegError, OSError, ValueError) as fault:
                error = fault
                if container is not None and is_end(fault, container):
                    error = _Fault("the stream ended", end=True)
                self._orderly = isinstance(error, _Fault) and error.end
                stall = getattr(error, "stall", type(error).__name__ == "ExitError")
                # Silence after connecting is a stall; silence instead of an answer is not.
                self.stalls += bool(stall and container is not None)
                said = str(error) if isinstance(error, _Fault) else reason(error)
                self.last_fault = scrub(said, self._address)
            except BaseException as defect:  # it must not leave the reader waiting
                self._end(SourceError(f"{self.name}: reading failed: {defect!r}"))
                raise
            finally:
                if (reader := self._arrivals) is not None:
                    reader.close()
                    self._overflow, self._arrivals = self._overflow + reader.dropped, None
                if container is not None:
                    container.close()
                container = None
            failures = 1 if self._decoded > decoded_before else failures + 1
            allowed = self._max_retries if self._decoded else self._retries
            if allowed is not None and failures > allowed:
                attempts = f"{failures} attempt{'s' if failures > 1 else ''}"
                self._end(
                    SourceError(
                        f"{self.name}: no video after {attempts} ({self.last_fault}); "
                        + remedy(self._address, error, self._options)
                    )
                )
                return
            self._stop.wait(min(BACKOFF_CAP, BACKOFF_FIRST * 2 ** min(failures - 1, 10)))

    def _open_video(self, container: InputContainer) -> Any:
        """The video stream; sets what depends on the connection. Raises _Fault."""
        video = best_video(container)
        if video is None:
            raise _Fault("it has no video track")
        video.codec_context.thread_count = 1  # frame threads would hold pictures back
        self._resize.aspect = pixel_aspect(video)
        ends = self._paced and is_recording(container)
        self._stamped = is_stamped(container) or ends
        self._silence = self._timeout[1]
        if ends and "://" in self._address:  # its server may pause: that is not a camera's fault
            self._silence = max(self._silence, RECORDING_SECONDS)
        self._patience.seconds = self._silence
        rate = video.average_rate or video.guessed_rate
        if rate and self._stamped:
            self.fps = float(rate)
            self._clock.interval = 1.0 / self.fps
        self._clock.witness = not (self._paced and self._stamped)
        self._clock.restart()
        if not self._stamped or (self._paced and not ends):
            name = video.codec_context.name
            self._arrivals = Arrivals(container, alone=not self._stamped and name == "mjpeg")
        with self._news:
            fps = self.fps or 30.0
            self._buffer.room = max(self._room, math.ceil(HICCUP * fps))
            self._buffer.capacity = self._room + math.ceil(2 * self._buffer.delay * fps)
        return video

    def _receive(self, container: InputContainer) -> bool:
        """Decode until close(), or until the connection fails: that raises, at its end too.

        Returns whether nothing more will come.
        """
        video = self._open_video(container)
        format = getattr(container, "format", None)
        guess = BestEffort(decoding_only=getattr(format, "name", "") == "avi")
        paced = self._paced and self._stamped
        decoder, first, anchor, base = PacketDecoder(video), True, 0.0, 0.0
        opened = shown = self._last_packet = monotonic()
        # All tracks, not only the video: else a stream whose sound goes on would hide a picture
        # that has stopped, because the wait for a packet would never time out.
        reader = self._arrivals
        source: Iterable[tuple[Any, float]] = reader or (
            (p, monotonic()) for p in packets(container)
        )
        for packet, arrived in source:
            if self._stop.is_set():
                return False
            pictures: list[Any] = []
            if packet.stream is video or packet.stream.index == video.index:
                if first and self._once and self._begins_again(packet):
                    return True
                before = decoder.skipped
                try:
                    pictures = decoder(packet, self.keyframes_only)
                except InvalidDataError:
                    self.corrupt += 1
                if packet.size:
                    self._last_packet = monotonic()
                if decoder.skipped > before:
                    self._skipped += 1
                    shown = self._last_packet
            for picture in pictures:
                now = monotonic()
                if picture.is_corrupt:
                    self.corrupt += 1
                    if first and now - opened < self._timeout[1]:  # joined between key frames
                        self.missed += self._decoded > 0
                        continue
                stamps = stamps_of(picture) if self._stamped else (None, None)
                guess.look(stamps)
                stamp = self._clock(guess(stamps), now if paced else arrived)
                if not self._stamped:
                    self._measure_rate(arrived)
                if paced:
                    if first or now - anchor > stamp - base:  # late: never hurry to catch up
                        anchor, base = now, stamp
                    self._last_packet = anchor + stamp - base
                    if self._stop.wait(self._last_packet - now):
                        return False
                turned, at = decoder.orientation, None if reader is None else arrived
                self._deliver(picture, stamp, at, turned, first and self._decoded > 0)
                first, shown = False, monotonic()
            now = monotonic()
            if now - self._last_packet > self._silence:
                raise _Fault(f"no picture came for {self._silence:g} s", stall=True)
            if now - shown > 2 * (self._timeout[0] + self._silence):  # cameras send few key frames
                raise _Fault(f"data comes, but no picture in {now - shown:.0f} s")
        raise _Fault("the stream ended", end=True)

    @property
    def _broken(self) -> SourceError | None:
        """The error of a recording that ended before its end."""
        if self._orderly:
            return None
        return SourceError(
            f"{self.name}: a recording that broke off ({self.last_fault}) after {self._decoded} "
            "frames; its server cannot send the rest alone: run it again"
        )

    def _begins_again(self, packet: Any) -> bool:
        """Whether a connection begins with the very packet that the last one began with: then it
        was a recording, whose server did not say how long it is."""
        if not packet.size or not self._stamped:
            return False
        before, what = self._beginning, f"{packet.pts} {packet.dts}".encode() + bytes(packet)
        self._beginning = hashlib.sha256(what).digest()
        return self._beginning == before

    def _measure_rate(self, arrived: float) -> None:
        """Frames per second, of a stream that does not say."""
        self._came.append(arrived)
        if len(self._came) >= 10 and self._came[-1] > self._came[0]:
            self.fps = (len(self._came) - 1) / (self._came[-1] - self._came[0])
            self._clock.interval = 1.0 / self.fps

    def _deliver(
        self, picture: Any, stamp: float, came: float | None, turned: Any, reconnected: bool
    ) -> None:
        received = monotonic()
        local = self._sender(stamp, received if came is None else came)
        captured = local + time() - monotonic()
        original_size = self._resize.size(picture, turned)
        original = self._resize(picture, None, turned) if self._keep else None
        image = self._resize(picture, self._requested, turned)
        frame = Frame(
            image, stamp, self._decoded + self._skipped, original_size, received, original,
            captured, self.stream, self.fps,
        )  # fmt: skip
        self._miss(stamp, local, reconnected)
        with self._news:
            self.epoch = captured - stamp
            self.original_size = original_size
            self.size = image.shape[0], image.shape[1]
            self._decoded += 1
            self.reconnects += reconnected
            self._put(frame, stamp, received)

    def _miss(self, stamp: float, captured: float, reconnected: bool) -> None:
        """Counts what should have come since the last picture, if there was a fault between.

        In a connection a gap of three frames and more is one, by the sender's timestamps and its
        usual rate, which need not be the nominal one. Between two connections it is the time from
        the last picture's capture, which may be well before its arrival, to the new connection,
        whose first pictures wait until FFmpeg knows what they are.
        """
        if self._last is not None and self.fps and (self._stamped or reconnected):
            before, shown, skipped = self._last
            gap, skipped = stamp - before, self._skipped - skipped
            if reconnected:
                self.missed += max(0, round((self._began - shown) * self.fps))
            elif not skipped:
                self.missed += self._usual.missing(gap, 1 / self.fps)
        self._last = stamp, captured, self._skipped
