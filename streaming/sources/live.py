"""Live sources: a background thread that decodes, keeps the latest frames, and reconnects.

To FFmpeg a killed RTSP server looks like a normal end of stream, and a silent one like a long
wait. Here both are faults: the connection is made again, with growing pauses, and the timestamps
go on. Only `close()`, or too many failed attempts in a row, ends a live source.
"""

import math
import threading
from collections import Counter, deque
from collections.abc import Mapping
from statistics import median
from time import monotonic, time
from typing import Any

import av
from av.error import FFmpegError, InvalidDataError

from .base import KEYFRAMES, Frame, Size, SourceError, reason, redact
from .buffered import BufferedSource
from .clocks import Clock, SenderClock
from .picture import PacketDecoder, Resizer, displayed_size, packets

BACKOFF_FIRST, BACKOFF_CAP = 0.1, 2.0  # seconds: 0.1, 0.2, 0.4, ... 2, 2, ...


def connect(
    address: str,
    format: str | None,
    options: dict[str, str] | None,
    timeout: tuple[float, float],
) -> Any:
    """Open an address with the options that suit live video; timeout = (open, read) seconds."""
    defaults: dict[str, str] = {}
    if address.lower().startswith(("rtsp://", "rtsps://")):
        # TCP: over UDP lost packets damage pictures without any sign of it. The rest starts a
        # stream sooner: no demuxer buffer, and no more probing than H.264/H.265 need.
        defaults = {
            "rtsp_transport": "tcp",
            "timeout": str(int(sum(timeout) * 1e6)),  # a safety net: the limits above come first
            "fflags": "nobuffer",
            "flags": "low_delay",
            "probesize": "200000",
            "analyzeduration": "500000",
        }
    merged = {**defaults, **(options or {})}
    started = monotonic()
    try:
        return av.open(address, format=format, options=merged, timeout=timeout)
    except (FFmpegError, OSError) as error:
        if monotonic() - started < 0.95 * timeout[0]:
            raise
        # Interrupted in mid-handshake FFmpeg speaks of invalid data; the truth is silence.
        raise TimeoutError(f"no answer in {timeout[0]:g} s") from error


class _Fault(Exception):
    """Why a connection is given up; `stall` if it was silence."""

    def __init__(self, text: str, stall: bool = False):
        super().__init__(text)
        self.stall = stall


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
        size: Size | None = None,
        keep_original: bool = False,
        stream: str | None = None,
        queue: int = 2,
        delay: float = 0.0,
        open_timeout: float = 5.0,
        read_timeout: float = 2.0,
        connect_retries: int = 3,
        max_retries: int | None = None,
        options: dict[str, str] | None = None,
        format: str | None = None,
        paced: bool = False,
        container: Any = None,
    ):
        """paced: give frames at the speed of their timestamps (HLS delivers whole segments at
        once); container: an already opened one to start with."""
        super().__init__(delay, queue)
        self.name = redact(address.removeprefix("file:"))
        self.stream = self.name if stream is None else stream
        self.epoch = 0.0
        self.last_fault: str | None = None
        self._address, self._format, self._options = address, format, options
        self._timeout = (open_timeout, read_timeout)
        self._retries, self._max_retries = connect_retries, max_retries
        self._requested, self._keep, self._paced = size, keep_original, paced
        self._resize, self._clock, self._sender = Resizer(), Clock(0.04), SenderClock()
        self._room = queue
        self._decoded = self._skipped = 0
        self._last: tuple[float, float, int] | None = None  # picture, see `_miss`
        self._gaps: deque[float] = deque(maxlen=31)
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
        return "stalled" if monotonic() - self._last_packet > self._timeout[1] else "live"

    @property
    def drops(self) -> Mapping[str, int]:
        drops = Counter(super().drops)
        if self._skipped:
            drops[KEYFRAMES] = self._skipped
        return drops

    def _frame(self, item: Frame) -> Frame:
        return item

    def close(self) -> None:
        super().close()
        if self._thread is not threading.current_thread():
            # A blocked FFmpeg call cannot be interrupted from here, but ends by its own time limit.
            self._thread.join(2 * sum(self._timeout) + 1)

    # The rest runs in the background thread.

    def _run(self, container: Any) -> None:
        failures = 0
        while not self._stop.is_set():
            decoded_before, self._began = self._decoded, monotonic()
            try:
                if container is None:
                    container = connect(self._address, self._format, self._options, self._timeout)
                self._receive(container)
            except (_Fault, FFmpegError, OSError, ValueError) as error:
                stall = getattr(error, "stall", type(error).__name__ == "ExitError")
                # Silence after connecting is a stall; silence instead of an answer is not.
                self.stalls += bool(stall and container is not None)
                self.last_fault = str(error) if isinstance(error, _Fault) else reason(error)
            except BaseException as error:  # a defect here must not leave the reader waiting
                self._end(SourceError(f"{self.name}: reading failed: {error!r}"))
                raise
            finally:
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
                        "check the address and that the sender is running"
                    )
                )
                return
            self._stop.wait(min(BACKOFF_CAP, BACKOFF_FIRST * 2 ** min(failures - 1, 10)))

    def _receive(self, container: Any) -> None:
        """Decode until close(), or until the connection fails: that raises, at its end too."""
        if not container.streams.video:
            raise _Fault("it has no video track")
        video = container.streams.video[0]
        video.codec_context.thread_count = 1  # frame threads would hold pictures back
        rate = video.average_rate or video.guessed_rate
        if rate:
            self.fps = float(rate)
            self._clock.interval = 1.0 / self.fps
        with self._news:
            self._buffer.capacity = self._room + math.ceil(
                2 * self._buffer.delay * (self.fps or 30.0)
            )
        self._clock.restart()
        decoder, first, anchor, base = PacketDecoder(video), True, 0.0, 0.0
        opened = shown = self._last_packet = monotonic()
        # All tracks, not only the video: else a stream whose sound goes on would hide a picture
        # that has stopped, because the wait for a packet would never time out.
        for packet in packets(container):
            if self._stop.is_set():
                return
            pictures: list[Any] = []
            if packet.stream is video or packet.stream.index == video.index:
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
                stamp = self._clock(picture.time, now)
                if self._paced:
                    if first or now - anchor > stamp - base:  # late: never hurry to catch up
                        anchor, base = now, stamp
                    self._last_packet = anchor + stamp - base
                    if self._stop.wait(self._last_packet - now):
                        return
                self._deliver(picture, stamp, reconnected=first and self._decoded > 0)
                first, shown = False, monotonic()
            now = monotonic()
            if now - self._last_packet > self._timeout[1]:
                raise _Fault(f"no picture came for {self._timeout[1]:g} s", stall=True)
            if now - shown > 2 * sum(self._timeout):  # cameras send few key frames
                raise _Fault(f"data comes, but no picture in {now - shown:.0f} s")
        raise _Fault("the stream ended")

    def _deliver(self, picture: Any, stamp: float, reconnected: bool) -> None:
        received = monotonic()
        local = self._sender(stamp, received)
        captured = local + time() - monotonic()
        original_size = displayed_size(picture)
        original = self._resize(picture) if self._keep else None
        image = self._resize(picture, self._requested)
        frame = Frame(
            image, stamp, self._decoded + self._skipped, original_size, received, original,
            captured, self.stream, self.fps,
        )  # fmt: skip
        self._miss(stamp, local, reconnected)
        with self._news:
            self.epoch = captured - stamp
            self.original_size = original_size
            self.size = self._requested or original_size
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
        if self._last is not None and self.fps:
            before, shown, skipped = self._last
            gap, skipped = stamp - before, self._skipped - skipped
            if reconnected:
                self.missed += max(0, round((self._began - shown) * self.fps))
            elif not skipped:
                due = round(gap / (median(self._gaps) if self._gaps else 1 / self.fps))
                self.missed += due - 1 if due >= 3 else 0
                self._gaps.append(gap)
        self._last = stamp, captured, self._skipped
