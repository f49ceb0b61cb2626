"""The plots of the stream report as SVG text: no script, no picture files, colours from the page.

One unit of an SVG is about a pixel on a phone; the page scales them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from ..layers.streaming import Json

WIDTH, HEIGHT = 400, 250
LEFT, RIGHT, BOTTOM = 40, 388, 212  # of the area in which data is drawn
LINE = 14  # height of a line of text
PERCENTILES = ("p50", "p95", "p99")


def number(value: float, digits: int = 3) -> str:
    """To three digits that count, without an exponent: 0.123, 12.3, 1234."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(decimals, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def ticks(top: float, most: int = 5) -> list[float]:
    """0 and round steps up to ``top``."""
    step = 10.0 ** math.floor(math.log10(top / most))
    step *= next(k for k in (1, 2, 5, 10, 20) if top / (step * k) <= most)
    return [step * k for k in range(math.floor(top / step + 1e-9) + 1)]


def decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each power of ten from ``low`` to ``high``; where that is crowded, 1 alone."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [m * 10.0**p for p in powers for m in (1, 2, 5)]
    marks = [m for m in marks if low <= m <= high]
    return marks if len(marks) <= 9 else [m for m in marks if math.log10(m) % 1 < 1e-9]


def _svg(title: str, parts: Iterable[str]) -> str:
    name = escape(title)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">'
        f"<title>{name}</title>{''.join(parts)}</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "") -> str:
    look = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{look}>{escape(text)}</text>'


def _line(x0: float, y0: float, x1: float, y1: float, kind: str) -> str:
    return f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" class="{kind}" />'


def _rows(top: float, high: float) -> tuple[Any, list[str]]:
    """(value -> y, grid and labels) of an upward axis from 0 to ``high``, drawn below ``top``."""
    y = lambda v: BOTTOM - (BOTTOM - top) * v / high
    parts = []
    for mark in ticks(high):
        parts.append(_line(LEFT, y(mark), RIGHT, y(mark), "axis" if mark == 0 else "grid"))
        parts.append(_text(LEFT - 5, y(mark) + 4, number(mark), "end", "quiet"))
    return y, parts


def _markers(at: Iterable[tuple[float, str, str]]) -> list[str]:
    """Upright lines (x, label, kind), each with its label in a line of text of its own: from the
    right, as a label stands to the left of its line, where the later ones do not reach up."""
    lines, labels = [], []
    for row, (x, text, kind) in enumerate(sorted(at, reverse=True)):
        y = LINE * (row + 1) - 3
        left = x > LEFT + 8 * len(text)
        labels.append(_text(x + (-4 if left else 4), y, text, "end" if left else "start", kind))
        lines.append(_line(x, y - 9, x, BOTTOM, kind))
    return lines + labels


def histogram(trial: Json, budget: float) -> str:
    """Latencies of a trial's frames on a logarithmic axis, with percentiles and the budget."""
    edges, counts = trial["histogram"]["edges_ms"], trial["histogram"]["counts"]
    low, high = min(edges[0], 0.9 * budget) / 1.1, max(edges[-1], budget) * 1.15
    span = math.log(high / low)
    x = lambda v: LEFT + (RIGHT - LEFT) * math.log(v / low) / span
    y, parts = _rows(5 * LINE, max(counts))
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        if count:
            wide, tall = max(x(right) - x(left) - 1, 0.8), BOTTOM - y(count)
            about = f"{number(left)} to {number(right)} ms: {count} frames"
            parts.append(
                f'<rect x="{x(left) + 0.5:.1f}" y="{y(count):.1f}" width="{wide:.1f}" '
                f'height="{tall:.1f}" class="bar"><title>{about}</title></rect>'
            )
    for mark in decades(low, high):
        parts.append(_line(x(mark), BOTTOM, x(mark), BOTTOM + 4, "axis"))
        parts.append(_text(x(mark), BOTTOM + 17, number(mark), kind="quiet"))
    parts.append(_text((LEFT + RIGHT) / 2, HEIGHT - 4, "ms per frame, end to end", kind="quiet"))
    marks = [
        (x(trial[f"{p}_ms"]), f"{p} {number(trial[f'{p}_ms'])} ms", "mark") for p in PERCENTILES
    ]
    parts += _markers([*marks, (x(budget), f"budget {number(budget)} ms", "budget")])
    return _svg("Histogram of latencies", parts)


def rates(per_stream: Sequence[float], wanted: float) -> str:
    """Frames answered per second of each stream, against those that its camera gave."""
    y, parts = _rows(2 * LINE, max(1.05 * wanted, *per_stream))
    room = (RIGHT - LEFT) / len(per_stream)
    wide = min(0.8 * room, 40.0)
    every = math.ceil(len(per_stream) / 12)
    for k, rate in enumerate(per_stream):
        x = LEFT + (k + 0.5) * room
        parts.append(
            f'<rect x="{x - wide / 2:.1f}" y="{y(rate):.1f}" width="{wide:.1f}" '
            f'height="{BOTTOM - y(rate):.1f}" class="bar">'
            f"<title>stream {k + 1}: {number(rate)} frames/s</title></rect>"
        )
        if k % every == 0:
            parts.append(_text(x, BOTTOM + 17, str(k + 1), kind="quiet"))
    parts.append(_text((LEFT + RIGHT) / 2, HEIGHT - 4, "stream", kind="quiet"))
    parts.append(_line(LEFT, y(wanted), RIGHT, y(wanted), "budget"))
    label = f"given: {number(wanted)} frames/s"
    parts.append(_text(RIGHT, y(wanted) - 5, label, "end", "budget"))
    return _svg("Frames per second of each stream", parts)


def apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Places as near to the wanted ones as keeps them ``gap`` apart, in their order (from the
    largest down)."""
    order = sorted(range(len(wanted)), key=lambda i: -wanted[i])
    placed = [0.0] * len(wanted)
    below = math.inf
    for i in order:
        placed[i] = below = min(wanted[i], below - gap)
    return placed


def scaling(trials: Sequence[Json], budget: float) -> str:
    """Latency against the number of streams; a hollow point is a number that was not held."""
    top = 1.1 * max([budget, *(t["p99_ms"] for t in trials)])
    y, parts = _rows(LINE, top)
    first, last = trials[0]["streams"], trials[-1]["streams"]
    right = RIGHT - 34  # the lines' names stand beside their ends
    x = lambda n: LEFT + 14 + (right - LEFT - 20) * (n - first) / max(last - first, 1)
    shown, free = [], -math.inf
    for n in (t["streams"] for t in trials):
        if x(n) - free >= 24 or n == first:
            shown.append(n)
            free = x(n)
    parts += [_text(x(n), BOTTOM + 17, str(n), kind="quiet") for n in shown]
    parts.append(_text((LEFT + RIGHT) / 2, HEIGHT - 4, "streams", kind="quiet"))
    parts.append(_line(LEFT, y(budget), RIGHT, y(budget), "budget"))
    parts.append(_text(LEFT + 4, y(budget) - 5, f"budget {number(budget)} ms", "start", "budget"))
    ends = apart([y(trials[-1][f"{name}_ms"]) for name in PERCENTILES], 12)
    for name, end in zip(PERCENTILES, ends, strict=True):
        at = [(x(t["streams"]), y(t[f"{name}_ms"]), t) for t in trials]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b, _ in at)
        parts.append(f'<polyline points="{path}" class="curve {name}" />')
        for a, b, t in at:
            told = f"{t['streams']} streams: {name} {number(t[name + '_ms'])} ms"
            state = "held" if t["held"] else "missed"
            parts.append(
                f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" class="{name} {state}">'
                f"<title>{told}</title></circle>"
            )
        parts.append(_text(at[-1][0] + 9, end + 4, name, "start", name))
    return _svg("Latency against the number of streams", parts)
