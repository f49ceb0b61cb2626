"""A browser or another WebRTC peer as a source; aiortc, extra `webrtc`, in a process of its own.

A process per peer: what a peer sends is decoded where it can hurt nobody else. If the process is
killed, the source fails with the reason; only the peer can connect again.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import select
import signal
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic, time

import av
import numpy as np

from ...layers.install import how_to_install
from ...layers.streaming import Json
from ...zoo.registry import InputSize
from .base import Frame, Size, SourceError
from .buffered import MAX_DELAY, BufferedSource
from .clocks import LiveClock, SenderClock
from .jitter import OVERFLOW
from .picture import Resizer

PROGRAM = Path(__file__).with_name("webrtc_peer.py")


def answer_offer(
    sdp: str,
    *,
    stream: str = "webrtc",
    size: Size | None = None,
    keep_original: bool = False,
    queue: int = 2,
    delay: float = 0.0,
    ice_servers: Sequence[str] = (),
    host: str | None = None,
    timeout: float = 20.0,
    silence: float = 30.0,
) -> tuple[str, WebRtcSource]:
    """Answers a peer that offers video; blocks for about a second, so call it in a thread.

    Args:
      sdp: the offer, with its ICE candidates gathered.
      stream, size, keep_original, queue, delay: as for `open_source`.
      ice_servers: addresses such as "stun:stun.example.org:3478"; none on a local network.
      host: the only address to be reached at; None: every address of the machine but loopback.
      timeout: seconds until the answer must be there.
      silence: seconds without a picture after which the source fails.

    Returns:
      (SDP answer, source). Frames come once the peer has taken the answer; until then the
      source's `original_size` is (0, 0). Its `fps` is measured, and None for the first ten frames.

    Raises:
      SourceError: aiortc is not installed, or the offer cannot be answered, with the reason.
    """
    if importlib.util.find_spec("aiortc") is None:
        raise SourceError(f"{stream}: WebRTC needs aiortc: {how_to_install('webrtc')}")
    if not (0 <= delay < MAX_DELAY and queue >= 1):
        raise SourceError(f"{stream}: delay={delay}, queue={queue}: 0 up to {MAX_DELAY:g}, above 0")
    rule = None  # a picture that the peer's process cannot make
    if isinstance(size, InputSize) and (size.card.filter or size.card.fit != "stretch"):
        size, rule = None, size
    request = dict(
        sdp=sdp, size=size, keep_original=keep_original, ice_servers=list(ice_servers), host=host
    )
    source = WebRtcSource(request, stream, queue, delay, silence, rule)
    try:
        return source.answer(timeout), source
    except BaseException:
        source.close()
        raise


class WebRtcSource(BufferedSource[Frame]):
    """Made by `answer_offer`. It ends when the peer does; `warning` says how.

    `stalls` counts times that no picture came for two seconds.
    """

    STALL = 2.0  # seconds

    def __init__(
        self,
        request: Json,
        stream: str,
        queue: int,
        delay: float,
        silence: float,
        rule: InputSize | None = None,
    ):
        super().__init__(delay, queue + math.ceil(2 * delay * 30))
        self.name = self.stream = stream
        self.size = tuple(request["size"] or (0, 0))  # type: ignore[assignment]
        self._rule, self._resize = rule, Resizer()
        self._clock, self._sender, self._silence = LiveClock(1 / 30), SenderClock(), silence
        self._answer: str | None = None
        self._elsewhere = 0  # frames the other process dropped
        self._last = monotonic()
        self._recent: deque[tuple[int, float]] = deque(maxlen=30)  # (index, time)
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM)],  # -P: its folder is not for its imports
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self._pipe = self._process.stdin, self._process.stdout
        self._thread = threading.Thread(
            target=self._receive, name=f"streamzoo {stream}", daemon=True
        )
        self._thread.start()
        try:
            self._input.write(json.dumps(request).encode() + b"\n")
            self._input.flush()
        except BrokenPipeError:
            pass  # its end is noticed by the thread

    def answer(self, timeout: float) -> str:
        """The SDP answer. Raises SourceError."""
        with self._news:
            self._news.wait_for(lambda: self._answer or self._ended, timeout)
            if self._answer is not None:
                return self._answer
            raise self._error or SourceError(f"{self.name}: no answer in {timeout:g} s")

    @property
    def drops(self) -> Mapping[str, int]:
        drops = Counter(super().drops)
        if self._elsewhere:
            drops[OVERFLOW] += self._elsewhere
        return drops

    @property
    def state(self) -> str:
        """ "live", "stalled" (no picture for two seconds) or "closed"."""
        state = super().state
        return "stalled" if state == "live" and monotonic() - self._last > self.STALL else state

    def _frame(self, item: Frame) -> Frame:
        return item

    def close(self) -> None:
        super().close()
        with contextlib.suppress(BrokenPipeError):
            self._input.close()  # the process ends with it
        try:
            self._process.wait(2.5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join()

    # The rest runs in the background thread.

    def _receive(self) -> None:
        error: SourceError | None = None
        try:
            end = self._messages()
            if end["failed"]:
                error = SourceError(f"{self.name}: {end['end']}; connect again")
            else:
                self.warning = end["end"]
        except Exception as fault:
            error = SourceError(f"{self.name}: {fault}; connect again")
        if error is not None:
            self._process.kill()
        self._process.wait()
        self._pipe.close()
        self._end(None if self._stop.is_set() else error)

    def _messages(self) -> Json:
        """Takes messages until the last one, which is returned."""
        for header, pictures in self._parse():
            if "answer" in header:
                with self._news:
                    self._answer = header["answer"]
                    self._last = monotonic()
                    self._news.notify_all()
            elif "end" in header:
                return header
            else:
                self._deliver(header, pictures)
        code = self._process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        raise RuntimeError(f"the process of this WebRTC peer {how}")

    def _parse(self) -> Iterator[tuple[Json, list[bytearray]]]:
        while (head := self._exactly(4)) is not None:
            header = json.loads(self._exactly(int.from_bytes(head, "big")) or b"{}")
            pictures = [self._exactly(count) for count in header.get("bytes", ())]
            if None in pictures or not header:
                return  # killed in the middle of a message
            yield header, [p for p in pictures if p is not None]

    def _exactly(self, count: int) -> bytearray | None:
        """The next bytes; None: the pipe has ended. Raises TimeoutError."""
        data, quiet, poll = bytearray(), False, select.poll()
        poll.register(self._pipe, select.POLLIN)
        while len(data) < count:
            ready = poll.poll(200)  # milliseconds
            silent = 0.0 if self._answer is None else monotonic() - self._last
            if ready:
                part = os.read(self._pipe.fileno(), count - len(data))
                if not part:
                    return None
                data += part
            elif silent > self.STALL and not quiet:
                self.stalls, quiet = self.stalls + 1, True
            if silent > self._silence:
                raise TimeoutError(f"no picture for {self._silence:g} s")
        return data

    def _deliver(self, header: Json, pictures: list[bytearray]) -> None:
        received = header["received"]  # one monotonic clock for all processes
        self._last = monotonic()
        stamp = self._clock(header["time"], received)
        self._recent.append((header["index"], stamp))
        if len(self._recent) >= 10:  # WebRTC does not say its rate
            (first, start), (last, end) = self._recent[0], self._recent[-1]
            self.fps = (last - first) / (end - start)
        captured = self._sender(stamp, received) + time() - monotonic()
        sizes = [tuple(header["size"]), tuple(header["original_size"])]
        images = [
            np.frombuffer(p, np.uint8).reshape(*s, 3) for p, s in zip(pictures, sizes, strict=False)
        ]
        if self._rule is not None:
            images[0] = self._resize(av.VideoFrame.from_ndarray(images[0]), self._rule)
            sizes[0] = images[0].shape[:2]
        frame = Frame(
            images[0], stamp, header["index"], sizes[1], received,
            images[1] if len(images) > 1 else None, captured, self.stream, self.fps,
        )  # fmt: skip
        with self._news:
            self._elsewhere = header["dropped"]
            self.size, self.original_size = sizes
            self._put(frame, stamp, self._last)
