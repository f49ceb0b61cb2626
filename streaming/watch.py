"""Watching a source: answers drawn on the video, written to disk, and a live table."""

from __future__ import annotations

import collections
import dataclasses
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from .overlay import ScoreHistory, canvas_size, draw
from .session import Result, Session
from .source_base import Frame, FrameSource
from .video_writer import JsonLines, VideoWriter


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
    """Collects SIGINT and SIGTERM in a list instead of dying, so that files end properly."""
    seen: list[int] = []
    old = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            old[number] = signal.signal(number, lambda n, _: seen.append(n))
        except ValueError:  # not the main thread: the caller stops us another way
            pass
    try:
        yield seen
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def record(frame: Frame, result: Result, latency_ms: float, top: int = 5) -> dict[str, Any]:
    """One JSON line: what was seen in a frame. Boxes are x1, y1, x2, y2 in [0, 1]."""
    line: dict[str, Any] = {
        "frame": frame.index,
        "time": round(frame.time, 4),
        "model_ms": round(result.milliseconds, 2),
        "latency_ms": round(latency_ms, 2),
    }
    scores = result.scores()
    if scores is not None:
        line["classes"] = {k: round(v, 4) for k, v in best(scores, result.classes, top).items()}
    line["persons"] = []
    for person in result.persons():
        entry = {"box": [round(v, 4) for v in person["box"]], "score": round(person["score"], 4)}
        if "scores" in person:
            ranked = best(person["scores"], result.classes, top)
            entry["classes"] = {k: round(v, 4) for k, v in ranked.items()}
        line["persons"].append(entry)
    return line


def best(scores: np.ndarray, classes: tuple[str, ...], top: int) -> dict[str, float]:
    """The ``top`` classes by score, best first; unnamed classes are called by number."""
    order = np.argsort(-scores, kind="stable")[:top]
    return {classes[i] if i < len(classes) else f"class {i}": float(scores[i]) for i in order}


def paint(
    frame: Frame,
    line: dict[str, Any],
    history: ScoreHistory,
    caption: str,
    size: tuple[int, int],
) -> np.ndarray:
    """The frame at ``size`` (height, width) with boxes, labels and the strip of scores."""
    image = frame.original if frame.original is not None else frame.image
    if image.shape[:2] != size:  # the stream changed its resolution, the video cannot
        from PIL import Image

        image = np.asarray(Image.fromarray(image).resize(size[::-1]))
    labels, scores = [], []
    for person in line["persons"]:
        name, score = next(iter(person.get("classes", {}).items()), ("person", person["score"]))
        labels.append(name)
        scores.append(score)
    boxes = [p["box"] for p in line["persons"]]
    seen = line.get("classes")
    if seen is None:  # no frame head: the strip shows the best score of each class over persons
        seen = {}
        for person in line["persons"]:
            for name, score in person.get("classes", {}).items():
                seen[name] = max(score, seen.get(name, 0.0))
    history.push(frame.time, seen)
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    return draw(image, boxes, labels, scores, history, caption=caption)


class Board:
    """The live table: redrawn in a terminal, one line every two seconds elsewhere."""

    def __init__(self, title: str, out: TextIO | None = None):
        self.title, self.out = title, out or sys.stderr
        self._next = 0.0
        self._live: Any = None
        if self.out.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(file=self.out), refresh_per_second=4)
            self._live.start()

    def update(self, rows: dict[str, str], force: bool = False) -> None:
        now = time.monotonic()
        if now < self._next and not force:
            return
        self._next = now + (0.25 if self._live else 2.0)
        if self._live:
            from rich.table import Table

            table = Table(title=self.title, show_header=False)
            for name, value in rows.items():
                table.add_row(name, value)
            self._live.update(table)
        else:
            print("  ".join(f"{k} {v}" for k, v in rows.items()), file=self.out, flush=True)

    def close(self) -> None:
        if self._live:
            self._live.stop()


def rows_of(meter: Meter, session: Session, source: FrameSource) -> dict[str, str]:
    """The live table's rows."""
    f = meter.figures()
    total = f"/{source.frame_count}" if source.frame_count else ""
    rows = {
        "frames": f"{meter.frames}{total}",
        "fps": f"{f['fps']:.1f}",
        "model": f"{f['model_ms']:.1f} ms",
        "latency p50": f"{f['latency_p50']:.1f} ms",
        "p99": f"{f['latency_p99']:.1f} ms",
        "carry": f"{session.carry_bytes / 1024:.0f} KiB",
    }
    if source.live:
        rows["dropped"] = str(source.dropped)
        rows["reconnects"] = str(source.reconnects)
    return rows


def watch(
    session: Session,
    source: FrameSource,
    *,
    video: str | Path | None = None,
    lines: str | Path | None = None,
    max_frames: int | None = None,
    seconds: float | None = None,
    board: Board | None = None,
) -> dict[str, float]:
    """Runs a session over a source until it ends, a limit is reached, or Ctrl-C.

    Args:
      source: opened with the session's ``frame_shape`` and ``keep_original=True``.
      video: annotated MP4 to write; playable at every moment, whatever happens.
      lines: JSON-lines file to write, one line per frame (see :func:`record`).

    Returns:
      frames, fps, model_ms, latency_p50, latency_p99, carry_bytes, first_ms (first answer).

    Raises:
      OutputError: a file cannot be written. SourceError: the source broke and stayed broken;
        what was written until then is complete.
    """
    meter, history = Meter(), ScoreHistory()
    start, first = time.monotonic(), 0.0
    with ExitStack() as stack:
        stop = stack.enter_context(interrupted())
        writer, size = None, source.original_size
        if video is not None:
            canvas = canvas_size(size)
            writer = stack.enter_context(VideoWriter(video, source.fps or 25.0, canvas))
        log = stack.enter_context(JsonLines(lines)) if lines is not None else None
        if board is not None:
            stack.callback(board.close)
        while not stop and (max_frames is None or meter.frames < max_frames):
            if seconds is not None and time.monotonic() - start >= seconds:
                break
            frame = source.read(timeout=0.5)
            if frame is None:
                if source.live and source.state != "closed":
                    continue  # stalled or reconnecting; look at the limits and Ctrl-C again
                break
            result = session.push(frame.image, frame.time)
            latency = 1e3 * (time.monotonic() - frame.received)
            meter.add(result.milliseconds, latency)
            if meter.frames == 1:
                first = 1e3 * (time.monotonic() - start)
            line = record(frame, result, latency)
            if log is not None:
                log.write(line)
            if writer is not None:
                caption = f"{meter.figures()['model_ms']:.0f} ms per frame"
                writer.write(paint(frame, line, history, caption, size), frame.time)
            if board is not None:
                board.update(rows_of(meter, session, source))
        if board is not None:
            board.update(rows_of(meter, session, source), force=True)
    figures = meter.figures()
    return dict(figures, frames=meter.frames, carry_bytes=session.carry_bytes, first_ms=first)
