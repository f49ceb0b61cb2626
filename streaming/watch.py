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
from typing import Any, Protocol, TextIO

import numpy as np

from .overlay import ScoreHistory, canvas_size, draw
from .session import Result
from .sources.base import Frame, FrameSource
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
        try:
            old[number] = signal.signal(number, note)
        except ValueError:  # not the main thread: the caller stops us another way
            pass
    try:
        yield seen
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


ALARMS = ("event", "anomaly")  # scores that live models give a frame beside its classes


def record(frame: Frame, result: Result, latency_ms: float, top: int = 5) -> dict[str, Any]:
    """One JSON line: what was seen in a frame. Boxes are x1, y1, x2, y2 in [0, 1].

    ``event`` and ``anomaly``, in [0, 1], stand there where the model gives them.
    """
    line: dict[str, Any] = {
        "frame": frame.index,
        "time": round(frame.time, 4),
        "model_ms": round(result.milliseconds, 2),
        "latency_ms": round(latency_ms, 2),
    }
    scores = result.scores()
    if scores is not None:
        line["classes"] = {k: round(v, 4) for k, v in best(scores, result.classes, top).items()}
    for name in ALARMS:
        if (score := getattr(result.output, name, None)) is not None:
            line[name] = round(float(score), 4)
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


def fitted(frame: Frame, size: tuple[int, int]) -> np.ndarray:
    """The source's picture at ``size`` (height, width)."""
    image = frame.original if frame.original is not None else frame.image
    if image.shape[:2] != size:  # the stream changed its resolution, the video cannot
        from PIL import Image

        image = np.asarray(Image.fromarray(image).resize((size[1], size[0])))
    return image


class View(Protocol):
    """What is written and drawn of a session's results."""

    def canvas(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the drawn pictures for a source of ``size``."""
        ...

    def record(self, frame: Frame, result: Any, latency_ms: float) -> dict[str, Any]:
        """The JSON line of a frame."""
        ...

    def paint(
        self, image: np.ndarray, time: float, result: Any, line: dict[str, Any], caption: str
    ) -> np.ndarray:
        """The picture, uint8 [h, w, 3], with what was found; ``time`` in seconds."""
        ...


class ActionView:
    """Persons, their actions and a strip of scores over time."""

    def __init__(self):
        self.history = ScoreHistory()

    def canvas(self, size: tuple[int, int]) -> tuple[int, int]:
        return canvas_size(size)

    def record(self, frame: Frame, result: Result, latency_ms: float) -> dict[str, Any]:
        return record(frame, result, latency_ms)

    def paint(
        self, image: np.ndarray, time: float, result: Result, line: dict[str, Any], caption: str
    ) -> np.ndarray:
        del result  # the line says it all
        return paint(image, time, line, self.history, caption)


def paint(
    image: np.ndarray, time: float, line: dict[str, Any], history: ScoreHistory, caption: str
) -> np.ndarray:
    """The picture with boxes, labels and the strip of scores."""
    boxes, labels, scores = [], [], []
    for person in line["persons"]:
        ranked = list(person.get("classes", {"person": person["score"]}).items())
        # the best class, and of a multi-label model up to two others that are likely
        for name, score in ranked[:1] + [r for r in ranked[1:3] if r[1] >= 0.5]:
            boxes.append(person["box"])
            labels.append(name)
            scores.append(score)
    seen = line.get("classes")
    if seen is None:  # no frame head: the strip shows the best score of each class over persons
        seen = {}
        for person in line["persons"]:
            for name, score in person.get("classes", {}).items():
                seen[name] = max(score, seen.get(name, 0.0))
    history.push(time, seen | {name: line[name] for name in ALARMS if name in line})
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    return draw(image, boxes, labels, scores, history, caption=caption)


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
                raise ImportError(
                    'the live table needs rich: pip install "streamzoo[demo]"'
                ) from error
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


def rows_of(meter: Meter, session: Any, source: FrameSource, dropped: int = 0) -> dict[str, str]:
    """The live table's rows; ``dropped`` frames that the source dropped before are not counted."""
    f = meter.figures()
    total = f"/{source.frame_count}" if source.frame_count else ""
    rows = {
        "frames": f"{meter.frames}{total}",
        "fps": f"{f['fps']:.1f}",
        "model": f"{f['model_ms']:.1f} ms",
        "latency p50": f"{f['latency_p50']:.1f} ms",
        "p99": f"{f['latency_p99']:.1f} ms",
        "carry": size_text(session.carry_bytes),
    }
    if source.live:
        rows["dropped"] = str(source.dropped - dropped)
        rows["reconnects"] = str(source.reconnects)
        rows["source"] = source.state
    return rows


def watch(
    session: Any,
    source: FrameSource,
    *,
    view: View | None = None,
    video: str | Path | None = None,
    lines: str | Path | None = None,
    max_frames: int | None = None,
    seconds: float | None = None,
    board: Board | None = None,
) -> dict[str, float]:
    """Runs a session over a source until it ends, a limit is reached, or SIGINT or SIGTERM.

    Args:
      session: a :class:`~streamzoo.streaming.session.Session`, or one whose ``push`` gives what
        ``view`` understands.
      source: opened with the session's ``frame_shape`` and ``keep_original=True``.
      view: what is written and drawn; default :class:`ActionView`.
      video: annotated MP4 to write; playable at every moment, whatever happens.
      lines: JSON-lines file to write, one line per frame (see :func:`record`).
      max_frames: stop after so many frames.
      seconds: stop after so many seconds: of the recording, or of the clock if the source is live.

    Returns:
      frames, fps, model_ms, latency_p50, latency_p99, carry_bytes, first_ms (first answer),
      dropped and reconnects (of a live source), stopped (number of the signal, or 0).

    Raises:
      OutputError: a file cannot be written. SourceError: the source broke and stayed broken;
        what was written until then is complete.
    """
    meter, view = Meter(), view or ActionView()
    start, first, moment = time.monotonic(), 0.0, 0.0
    dropped = source.dropped  # while the model compiled: not the watching's fault
    with ExitStack() as stack:
        stop = stack.enter_context(interrupted())
        if board is not None:
            stack.callback(lambda: board.close(rows_of(meter, session, source, dropped)))
        writer, size = None, source.original_size
        if video is not None:
            canvas = view.canvas(size)
            writer = stack.enter_context(VideoWriter(video, source.fps or 25.0, canvas))
        log = stack.enter_context(JsonLines(lines)) if lines is not None else None
        while not stop and (max_frames is None or meter.frames < max_frames):
            if seconds is not None and source.live and time.monotonic() - start >= seconds:
                break
            frame = source.read(timeout=0.5)
            if frame is None:
                if not source.live or source.state == "closed":
                    break
                if board is not None:  # stalled or reconnecting
                    board.update(rows_of(meter, session, source, dropped))
                continue
            if seconds is not None and not source.live and frame.time >= seconds:
                break
            result = session.push(frame.image, frame.time)
            latency = 1e3 * (time.monotonic() - frame.received)
            meter.add(result.milliseconds, latency)
            if meter.frames == 1:
                first = 1e3 * (time.monotonic() - start)
            line = view.record(frame, result, latency)
            if log is not None:
                log.write(line)
            if writer is not None:
                caption = f"{meter.figures()['model_ms']:.0f} ms per frame"
                # A damaged file can set frames closer than the video's clock ticks.
                moment = max(frame.time, moment + 1e-4)
                image = fitted(frame, size)
                writer.write(view.paint(image, frame.time, result, line, caption), moment)
            if board is not None:
                board.update(rows_of(meter, session, source, dropped))
        stopped = stop[0] if stop else 0
    return dict(
        meter.figures(),
        frames=meter.frames,
        carry_bytes=session.carry_bytes,
        first_ms=first,
        dropped=source.dropped - dropped,
        reconnects=source.reconnects,
        stopped=stopped,
    )
