"""What a run writes while it runs: a table, TensorBoard's events, lines with a progress bar; and
at the end a plot. Of several processes only the first writes."""

from __future__ import annotations

import contextlib
import csv
import importlib
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from .metrics import figure

Row = dict[str, float]
_QUIET = ("weight/", "attention/", "rate")  # in the table, not in every line


def read_table(path: str | Path) -> list[Row]:
    """Rows of a table of figures, without those that a crash or a power cut left unreadable."""
    path = Path(path)
    if not path.is_file():
        return []
    lines = list(csv.reader(path.read_text(encoding="utf-8").split("\n")[:-1]))
    rows: list[Row] = []
    for line in lines[1:]:
        with contextlib.suppress(ValueError):
            rows.append({n: float(cell) for n, cell in zip(lines[0], line, strict=True)})
    return [{**row, "step": int(row["step"])} for row in rows if "step" in row]


class Table:
    """A CSV file with a row per step, every figure with all its digits."""

    def __init__(self, path: str | Path, step: int = 0, write: bool = True):
        """Opens the file. Rows after ``step`` are dropped: they are of steps that were lost."""
        self.path, self.write = Path(path), write
        self.rows = [row for row in read_table(self.path) if row["step"] <= step]
        if write:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part = self.path.with_suffix(".part")
            self._write(part, self.rows, "w")
            part.replace(self.path)

    def add(self, rows: list[Row]) -> None:
        """Appends rows; each has "step", and all have the same names."""
        new = not self.rows
        if not new and rows and list(rows[0]) != list(self.rows[0]):  # a resumed run's new figures
            self.rows = [{name: row.get(name, math.nan) for name in rows[0]} for row in self.rows]
            new = True
        self.rows += rows
        if self.write:
            self._write(self.path, self.rows if new else rows, "w" if new else "a")

    def _write(self, path: Path, rows: list[Row], mode: str) -> None:
        with path.open(mode, newline="", encoding="utf-8") as file:
            out = csv.writer(file, lineterminator="\n")
            if mode == "w" and rows:
                out.writerow(rows[0])
            out.writerows([[repr(value) for value in row.values()] for row in rows])


class Log:
    """All of a run's output, in ``folder``; a context that ends the progress bar."""

    def __init__(
        self,
        folder: str | Path,
        step: int,
        steps: int,
        *,
        write: Callable[[str], None] | None = None,
        tensorboard: bool = True,
    ):
        self.first = jax.process_index() == 0
        self.table = Table(Path(folder) / "log.csv", step, self.first)
        self.steps = steps
        self._print = write or (lambda text: print(text, flush=True))
        self._clock, self._bar, self._events = time.perf_counter(), None, None
        if self.first and tensorboard:
            self._events = _events(Path(folder) / "tensorboard", step)
        if self.first and write is None and sys.stdout.isatty():
            self._bar = _bar()
        if self._bar is not None:
            self._print = self._bar.console.print
            self._task = self._bar.add_task("", total=steps, completed=step)

    @property
    def rows(self) -> list[Row]:
        return self.table.rows

    def __enter__(self) -> Log:
        if self._bar is not None:
            self._bar.start()
        self._clock = time.perf_counter()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._events is not None:
            self._events.close()

    def advance(self, step: int) -> None:
        """Moves the progress bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def line(self, text: str) -> None:
        """A line for whoever watches."""
        if self.first:
            self._print(text)

    def figures(self, rows: list[Row]) -> None:
        """Figures of the steps since the last call."""
        self.table.add(rows)
        if not self.first or not rows:
            return
        now = time.perf_counter()
        pace, self._clock = (now - self._clock) / len(rows), now
        last = int(rows[-1]["step"])
        names = [name for name in rows[0] if name != "step"]
        means = {name: math.fsum(row[name] for row in rows) / len(rows) for name in names}
        told = {n: v for n, v in means.items() if not n.startswith(_QUIET)}
        self.line(f"step {last}/{self.steps}  {pace:.3g} s/step  {_text(told)}")
        self._add(last, {**means, "seconds_per_step": pace})

    def scores(self, step: int, scores: Mapping[str, float]) -> None:
        """The figures of an evaluation; it does not count as time of the steps."""
        self.line(f"step {step}/{self.steps}  evaluation  {_text(scores)}")
        self._add(step, {f"evaluation/{name}": value for name, value in scores.items()})
        self._clock = time.perf_counter()

    def _add(self, step: int, figures: Mapping[str, float]) -> None:
        if self._events is not None:
            for name, value in figures.items():
                self._events.add_scalar(name, value, step)


def _text(figures: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {figure(value)}" for name, value in figures.items())


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:  # the log needs nothing of the extra `train`
        return None


def _events(folder: Path, step: int) -> Any:
    if not step:
        shutil.rmtree(folder, ignore_errors=True)
    board = _optional("tensorboardX")
    # purge_step: events after the checkpoint are of steps that were lost
    return board and board.SummaryWriter(str(folder), purge_step=step + 1 if step else None)


def _bar() -> Any:
    rich = _optional("rich.progress")
    return rich and rich.Progress(
        rich.BarColumn(), rich.MofNCompleteColumn(), rich.TimeElapsedColumn(),
        rich.TextColumn("left"), rich.TimeRemainingColumn(speed_estimate_period=300),
    )  # fmt: skip


def smooth(values: list[float], window: int) -> list[float]:
    """Means over the last ``window`` values (fewer at the start)."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    return [(sums[i] - sums[max(0, i - window)]) / min(i, window) for i in range(1, len(sums))]


def plot(rows: list[Row], path: str | Path) -> Path | None:
    """Curves of every figure over the steps, and the learned weights per layer, as a PNG.

    Weights are the figures ``weight/<term>`` and ``weight/<term>/<layer>``; other figures
    ``<name>/<number>`` share one panel. None without matplotlib or rows.
    """
    if not rows or _optional("matplotlib") is None:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[str, list[str]] = {}
    for name in rows[-1]:
        head, _, tail = name.rpartition("/")
        group = head if tail.isdigit() else "weight" if head == "weight" else name
        if name not in ("step", "rate"):
            panels.setdefault(group, []).append(name)
    layers = [group for group in panels if group.startswith("weight/")]
    columns = 3
    lines = math.ceil((len(panels) + bool(layers)) / columns)
    figure = Figure(figsize=(4.2 * columns, 2.8 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    steps = [row["step"] for row in rows]
    window = max(1, len(rows) // 50)
    for place, (group, names) in enumerate(panels.items()):
        axes = figure.add_subplot(lines, columns, place + 1)
        for name in names:
            values = [row.get(name, math.nan) for row in rows]
            axes.plot(steps, smooth(values, window), lw=1, label=name.rpartition("/")[2])
        axes.set_title(group, fontsize=9)
        if len(names) > 1:
            axes.legend(fontsize=6, ncols=2)
    if layers:
        axes = figure.add_subplot(lines, columns, len(panels) + 1)
        for group in layers:
            axes.plot([rows[-1][name] for name in panels[group]], "o-", label=group[7:])
        axes.set_title(f"learned weight per layer, step {steps[-1]}", fontsize=9)
        axes.set_xlabel("layer")
        axes.legend(fontsize=6)
    path = Path(path)
    figure.savefig(path, dpi=110)
    return path
