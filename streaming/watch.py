"""Watching a source: answers drawn on the video, written to disk, and a live table."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ..layers.install import how_to_install
from .results import Claim
from .sinks import Sink
from .sources.base import Frame, FrameSource
from .video_writer import JsonLines, VideoWriter
from .views import View, view_of


@dataclasses.dataclass
class Meter:
    """Running figures of a stream, over the last ``window`` frames. Times in milliseconds."""

    window: int = 512
    frames: int = 0

    def __post_init__(self):
        self.model = collections.deque(maxlen=self.window)
        self.latency = collections.deque(maxlen=self.window)
        self.ends = collections.deque(maxlen=self.window)

    def add(self, model_ms: float, latency_ms: float) -> None:
        self.frames += 1
        self.model.append(model_ms)
        self.latency.append(latency_ms)
        self.ends.append(time.monotonic())

    def figures(self) -> dict[str, float]:
        """fps, model_ms (median), latency_p50, latency_p99."""
        if not self.model:
            return dict(fps=0.0, model_ms=0.0, latency_p50=0.0, latency_p99=0.0)
        span = self.ends[-1] - self.ends[0]
        return dict(
            fps=(len(self.ends) - 1) / span if span > 0 else 0.0,
            model_ms=float(np.median(self.model)),
            latency_p50=float(np.percentile(self.latency, 50)),
            latency_p99=float(np.percentile(self.latency, 99)),
        )


@contextmanager
def interrupted() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list instead of dying, so that files end properly.

    A second signal means that the first did not help: it raises KeyboardInterrupt.
    """
    seen: list[int] = []
    old = {}

    def note(number: int, _: Any) -> None:
        seen.append(number)
        if len(seen) > 1:
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ValueError):  # in another thread the caller stops us otherwise
            old[number] = signal.signal(number, note)
    try:
        yield seen
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def fitted(frame: Frame, size: tuple[int, int]) -> np.ndarray:
    """The source's picture at ``size`` (height, width)."""
    image = frame.original if frame.original is not None else frame.image
    if image.shape[:2] != size:  # the stream changed its resolution, the video cannot
        from PIL import Image

        image = np.asarray(Image.fromarray(image).resize((size[1], size[0])))
    return image


class Board:
    """The live table: redrawn in a terminal, one line every two seconds elsewhere."""

    def __init__(self, title: str, out: TextIO | None = None):
        """out: where to write, default stderr. Raises ImportError: a terminal without rich."""
        self.title, self.out = title, out or sys.stderr
        self._live: Any = None
        self._next = 0.0
        if self.out.isatty():
            try:
                from rich.console import Console
                from rich.live import Live
            except ImportError as error:
                raise ImportError(f"the live table needs rich: {how_to_install('demo')}") from error
            self._live = Live(console=Console(file=self.out), refresh_per_second=4)
        else:
            self._next = time.monotonic() + 2.0  # the first frames say nothing about the rate

    def update(self, rows: dict[str, str]) -> None:
        """Shows the rows, unless the last ones are too fresh."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + (0.25 if self._live else 2.0)
            self._show(rows)

    def _show(self, rows: dict[str, str]) -> None:
        if not self._live:
            print("  ".join(f"{k} {v}" for k, v in rows.items()), file=self.out, flush=True)
            return
        from rich.table import Table
        from rich.text import Text

        # Text: a name is no markup. A width that stands still while figures grow and shrink.
        title = Text(self.title, overflow="ellipsis", no_wrap=True)
        table = Table(title=title, show_header=False, min_width=max(32, len(self.title)))
        for name, value in rows.items():
            table.add_row(name, Text(value, justify="right"))
        self._live.start()  # harmless when it runs
        self._live.update(table)

    def close(self, rows: dict[str, str] | None = None) -> None:
        """Leaves the last rows on a terminal, and the cursor as it was."""
        if self._live:
            if rows is not None:
                self._show(rows)
            self._live.stop()


def size_text(count: float) -> str:
    """Bytes for people: 96 B, 220 KiB, 8.4 MiB."""
    for unit, limit in (("B", 1024), ("KiB", 1024**2)):
        if count < limit:
            return f"{count * 1024 / limit:.0f} {unit}"
    return f"{count / 1024**2:.1f} MiB"


def rows_of(
    meter: Meter, session: Any, source: FrameSource, dropped: int = 0, most: int | None = None
) -> dict[str, str]:
    """The live table's rows; ``dropped`` frames that the source dropped before are not counted.
    ``most``: frames after which it ends, if the source does not end before."""
    f = meter.figures()
    ends = [count for count in (source.frame_count, most) if count]
    total = f"/{min(ends)}" if ends else ""
    rows = {
        "frames": f"{meter.frames}{total}",
        "fps": f"{f['fps']:.1f}",
        "model": f"{f['model_ms']:.1f} ms",
        "latency p50": f"{f['latency_p50']:.1f} ms",
        "p99": f"{f['latency_p99']:.1f} ms",
        "carry": size_text(session.carry_bytes),
    }
    if source.delay:
        rows["of it held"] = f"{1e3 * source.delay:.0f} ms (jitter buffer)"
    if source.live:
        rows["dropped"] = str(source.dropped - dropped)
        rows["reconnects"] = str(source.reconnects)
        rows["source"] = source.state
    return rows


def watch(
    session: Any,
    source: FrameSource,
    *,
    view: View[Any] | None = None,
    video: str | Path | Claim | None = None,
    lines: str | Path | Claim | None = None,
    max_frames: int | None = None,
    seconds: float | None = None,
    board: Board | None = None,
    sinks: Sequence[Sink] = (),
) -> dict[str, float]:
    """Runs a session over a source until it ends, a limit is reached, or SIGINT or SIGTERM.

    Args:
      session: a :class:`~streamzoo.streaming.session.Session`, or one whose ``push`` gives what
        ``view`` understands.
      source: opened with the session's ``frame_shape`` and ``keep_original=True``.
      view: what is written and drawn; by default that of the card's task.
      video: annotated MP4 to write; playable at every moment, whatever happens.
      lines: JSON-lines file to write, one line per frame (``view.record``). Both are new files,
        or claims on what may be replaced, ``Claim(path, overwrite=True)``.
      max_frames: stop after so many frames.
      seconds: stop after so many seconds: of the recording, or of the clock if the source is live.
      sinks: get each line with its picture, annotated if there is a ``video``; closed at the end.

    Returns:
      frames, fps, model_ms, latency_p50, latency_p99, carry_bytes, first_ms (first answer),
      dropped and reconnects (of a live source), stopped (number of the signal, or 0), end (time
      of the last frame, in seconds).

    Raises:
      OutputError: a file cannot be written. SourceError: the source broke and stayed broken;
        what was written until then is complete.
    """
    meter, view = Meter(), view or view_of(session.card, source.original_size)
    start, first, moment, end = time.monotonic(), 0.0, 0.0, 0.0
    dropped = source.dropped  # while the model compiled: not the watching's fault
    rows = lambda: rows_of(meter, session, source, dropped, max_frames)
    with ExitStack() as stack:
        stop = stack.enter_context(interrupted())
        if board is not None:
            stack.callback(lambda: board.close(rows()))
        writer, size = None, source.original_size
        if video is not None:
            canvas = view.canvas(size)
            writer = stack.enter_context(VideoWriter(video, source.fps or 25.0, canvas))
        log = stack.enter_context(JsonLines(lines)) if lines is not None else None
        for sink in sinks:
            stack.callback(sink.close)
        line, image = {}, np.zeros((1, 1, 3), np.uint8)
        while not stop and (max_frames is None or meter.frames < max_frames):
            if seconds is not None and source.live and time.monotonic() - start >= seconds:
                break
            frame = source.read(timeout=0.5)
            if frame is None:
                if source.over:
                    break
                if board is not None:  # stalled or reconnecting
                    board.update(rows())
                continue
            if seconds is not None and not source.live and frame.time >= seconds:
                break
            result, end = session.push(frame.image, frame.time), frame.time
            latency = 1e3 * (time.monotonic() - frame.received)
            meter.add(result.milliseconds, latency)
            if meter.frames == 1:
                first = 1e3 * (time.monotonic() - start)
            line = view.record(frame, result, latency)
            if log is not None:
                log.write(line)
            if writer is not None or sinks:
                image = fitted(frame, size)
            if writer is not None:
                caption = f"{meter.figures()['model_ms']:.0f} ms per frame"
                # A damaged file can set frames closer than the video's clock ticks.
                moment = max(frame.time, moment + 1e-4)
                image = view.paint(image, frame.time, result, line, caption)
                writer.write(image, moment)
            for sink in sinks:
                sink.write(line, image)
            if board is not None:
                board.update(rows())
        stopped = stop[0] if stop else 0
        if line and (events := view.finish()):
            for sink in sinks:
                sink.write({"frame": line["frame"], "time": line["time"], "events": events}, image)
    return dict(
        meter.figures(),
        frames=meter.frames,
        carry_bytes=session.carry_bytes,
        first_ms=first,
        dropped=source.dropped - dropped,
        reconnects=source.reconnects,
        stopped=stopped,
        end=end,
    )
