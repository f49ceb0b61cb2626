"""The fastest runtime and precision of this machine that leaves a model what it is."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from ..zoo.registry import Card
from ..zoo.resolve import home
from .bench_runtimes import FRAMES, Entrant
from .precision import FAST, TAKES, RuntimeRefused, processor
from .step import Step

POINTS = 0.5  # of the model's own metric that may be lost
SPREAD = 0.02  # else: root mean square of the difference, in standard deviations of the answers
GAIN = 1.05  # how much faster than exact a narrower one has to be
ROUNDS = 9
EXACT = "jax", "fp32"
Frames = Sequence[Sequence[np.ndarray]]  # of each frame the arrays of its answer


@dataclasses.dataclass(frozen=True)
class Row:
    """One candidate.

    Attributes:
      milliseconds: median of a step; None if it did not run.
      lost: points of the metric, or standard deviations of the answers.
      refused: why it may not be chosen, or "".
    """

    runtime: str
    precision: str
    milliseconds: float | None = None
    lost: float | None = None
    refused: str = ""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was chosen, by what, and what else there was.

    Attributes:
      by: "metric" (points lost), "difference" (on frames of a video) or "difference on noise".
      remembered: it was measured before.
    """

    runtime: str
    precision: str
    by: str
    rows: tuple[Row, ...]
    remembered: bool = False

    def __str__(self) -> str:
        unit = "points" if self.by == "metric" else "std of the answers"
        mine = next(
            r for r in self.rows if (r.runtime, r.precision) == (self.runtime, self.precision)
        )
        told = f"{mine.milliseconds:.1f} ms, {mine.lost:.2g} {unit} lost"
        return f"{self.runtime} {self.precision} ({told}; by {self.by})"


def chosen_step(
    model: Any,
    params: Any,
    card: Card,
    *,
    runtime: str | None = None,
    precision: str | None = None,
    pictures: Iterable[np.ndarray] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Step:
    """The step in this runtime and precision; of precision "auto", as :func:`choose` says."""
    if precision == "auto":
        choice = choose(model, params, card, runtime=runtime, pictures=pictures, say=say)
        say(f"precision auto: {choice}{', as measured before' if choice.remembered else ''}")
        runtime, precision = choice.runtime, choice.precision
    return Step(model, params, card, runtime=runtime or "jax", precision=precision)


def choose(
    model: Any,
    params: Any,
    card: Card,
    *,
    runtime: str | None = None,
    batch: int = 1,
    metric: Callable[[Step], float] | None = None,
    pictures: Iterable[np.ndarray] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Choice:
    """Measures every runtime and precision once, and remembers it for this machine.

    A candidate may lose half a point of ``metric`` against fp32 in JAX; without one, what its
    answers differ by on ``pictures`` is held against their spread. Narrower types are not even
    tried where the processor has no instructions for them: they are no faster there.

    Args:
      runtime: one of ``precision.TAKES``, None for any.
      metric: of a step, in points (0 to 100), more is better.
      pictures: uint8 RGB [h, w, 3] of the card's size; noise stands in for too few.

    Raises:
      RuntimeRefused: nothing can be had.
    """
    if runtime is not None and runtime not in TAKES:
        raise RuntimeRefused(f"runtime {runtime!r}: choose from {', '.join(TAKES)}")
    if "prompts" in model.inputs:
        raise RuntimeRefused(
            f"precision auto: {card.name} follows what it is shown, and no measure of that is at"
            " hand; name a precision"
        )
    place = home() / "choices" / f"{_digest(params, card, runtime, batch)}.json"
    known = _remembered(place)
    if known is not None and (metric is None or known.by == "metric"):
        return known
    shown, by = _frames(card, batch, pictures)
    by = by if metric is None else "metric"
    rows: dict[tuple[str, str], Row] = {}
    ready: dict[tuple[str, str], Entrant] = {}
    answers: dict[tuple[str, str], list[np.ndarray]] = {}
    wanted = [(r, p) for r in TAKES for p in TAKES[r] if runtime in (None, r)]
    for key in dict.fromkeys([EXACT, *wanted]):
        say(f"trying {' '.join(key)}")
        if key[1] in FAST and not FAST[key[1]] & processor():
            lacking = ", ".join(sorted(FAST[key[1]]))
            rows[key] = Row(*key, refused=f"no faster here: this processor has none of {lacking}")
            continue
        try:
            step = Step(model, params, card, runtime=key[0], precision=key[1])
            ready[key] = Entrant(step, batch, shown)
            answers[key] = ready[key].answers()
        except RuntimeRefused as error:
            ready.pop(key, None)
            rows[key] = Row(*key, refused=str(error))
    for number in range(ROUNDS):
        for entrant in ready.values():
            entrant.tick(number)
    best = None if metric is None else metric(ready[EXACT].step)
    for key, entrant in ready.items():
        if best is None or metric is None:
            lost, most = spread(answers[EXACT], answers[key]), SPREAD
        else:
            lost, most = best - metric(entrant.step), POINTS
        why = "" if lost <= most else f"loses {lost:.2g}, more than {most:g}"
        rows[key] = Row(*key, 1e3 * float(np.median(entrant.times)), lost, why)
    choice = _fastest(tuple(rows.values()), by, wanted)
    place.parent.mkdir(parents=True, exist_ok=True)
    told = {"model": card.name, "batch": batch, "processor": _features(), **_versions()}
    place.write_text(json.dumps({**told, **dataclasses.asdict(choice)}, indent=1) + "\n")
    return choice


def spread(exact: list[np.ndarray], other: list[np.ndarray]) -> float:
    """The largest root mean square of a difference, in standard deviations of what is exact; of
    frames [...] in turn, so many arrays each."""
    count = len(exact) // FRAMES
    frames = lambda found: [found[k : k + count] for k in range(0, count * FRAMES, count)]
    return spread_of(frames(exact), frames(other))


def spread_of(exact: Frames, other: Frames) -> float:
    """The same of the arrays of each frame."""
    worst = 0.0
    for mine, its in zip(zip(*exact, strict=True), zip(*other, strict=True), strict=True):
        a, b = (np.stack(found).astype(np.float64) for found in (mine, its))
        there = np.isfinite(a)
        if not np.array_equal(there, np.isfinite(b)):
            return float("inf")
        a, b = a[there], b[there]
        gap = float(np.sqrt(np.mean((a - b) ** 2))) if a.size else 0.0
        worst = max(worst, gap / (float(a.std()) or 1.0))
    return worst


def _fastest(rows: tuple[Row, ...], by: str, wanted: list[tuple[str, str]]) -> Choice:
    able = [r for r in rows if (r.runtime, r.precision) in wanted and not r.refused]
    if not able:
        raise RuntimeRefused("; ".join(f"{r.runtime} {r.precision}: {r.refused}" for r in rows))
    cost = lambda r: (r.milliseconds or 0.0) * (GAIN if r.precision != "fp32" else 1.0)
    best = min(able, key=cost)
    return Choice(best.runtime, best.precision, by, rows)


def _frames(card: Card, batch: int, pictures: Iterable[np.ndarray]) -> tuple[list[np.ndarray], str]:
    """Frames [batch, 1, h, w, 3], and what they are."""
    found = [p for p, _ in zip(pictures, range(FRAMES), strict=False)]
    shape = (batch, 1, *card.input_size, 3)
    if len(found) == FRAMES:
        return [np.broadcast_to(p, shape) for p in found], "difference"
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, shape, np.uint8) for _ in range(FRAMES)], "difference on noise"


def _features() -> list[str]:
    return sorted(set().union(*FAST.values()) & processor())


def _versions() -> dict[str, str]:
    found = {}
    for name in ("streamzoo", "jax", "onnxruntime", "openvino"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def _digest(params: Any, card: Card, runtime: str | None, batch: int) -> str:
    """Of all that a measurement depends on: another processor, runtime or weights are measured
    anew."""
    facts = [card.name, card.overrides, card.input_size, runtime, batch, TAKES]
    digest = hashlib.sha256(repr([*facts, sorted(processor()), _versions()]).encode())
    for a in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(np.asarray(a)).tobytes())
    return digest.hexdigest()[:32]


def _remembered(place: Any) -> Choice | None:
    try:
        told = json.loads(place.read_text(encoding="utf-8"))
        rows = tuple(Row(**row) for row in told["rows"])
        return Choice(told["runtime"], told["precision"], told["by"], rows, remembered=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None
