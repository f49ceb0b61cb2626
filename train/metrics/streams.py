"""Figures of models that watch for long: needles, events, drift, who is who, closed loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .live import time_differences


def needle_recall(right: Sequence[bool], age: Sequence[float]) -> dict[float, float]:
    """Share of needles that were found, by how many frames back they lay: age -> share."""
    right_, age_ = np.asarray(right, float), np.asarray(age)
    return {float(a): float(right_[age_ == a].mean()) for a in np.unique(age_)}


def needle_ages(first: int = 100, last: int = 100_000, each: int = 4) -> np.ndarray:
    """Ages [N] in frames from ``first`` to ``last``, ``each`` at every power of ten and its
    triple."""
    steps = np.unique([s for k in range(12) for s in (10**k, 3 * 10**k) if first <= s <= last])
    return np.repeat(steps, each)


class EventFigures(NamedTuple):
    """precision, recall, f1 of what was told within reach; delay: median seconds from an event to
    what was told of it, negative where it came early; false_per_hour: told of nothing."""

    precision: float
    recall: float
    f1: float
    delay: float
    false_per_hour: float


def event_figures(
    told: Sequence[float], true: Sequence[float], duration: float, reach: float = 5.0
) -> EventFigures:
    """Rare events of a long stream.

    Args:
      told: seconds at which something was told.
      true: seconds at which events happened.
      duration: seconds of the stream.
      reach: at most so many seconds apart.

    Raises:
      ValueError: a stream of no length.
    """
    if duration <= 0:
        raise ValueError(f"a stream of {duration} s")
    off, precision, recall = time_differences(told, true, reach)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    late = signed_delays(told, true, reach)
    wrong = len(told) - len(off)
    delay = float(np.median(late)) if len(late) else float("nan")
    return EventFigures(precision, recall, f1, delay, 3600 * wrong / duration)


def signed_delays(told: Sequence[float], true: Sequence[float], reach: float) -> np.ndarray:
    """told - true of the matched pairs."""
    pairs = sorted((abs(s - t), i, j) for i, s in enumerate(told) for j, t in enumerate(true))
    used, found, late = set[int](), set[int](), []
    for gap, i, j in pairs:
        if gap <= reach and i not in used and j not in found:
            used.add(i)
            found.add(j)
            late.append(told[i] - true[j])
    return np.asarray(late)


class Grounding(NamedTuple):
    """switches: times that an object was called by another name than when it was last named;
    stability: share of namings that kept the name; reused: names that went to another object."""

    switches: int
    stability: float
    reused: int


def grounding(named: Sequence[dict[Any, Any]]) -> Grounding:
    """Whether words go on meaning the same thing: of each moment, object -> the name it is given
    (a track's number, "the man in red"); an object that is not named is left out."""
    last: dict[Any, Any] = {}
    owner: dict[Any, Any] = {}
    switches = reused = kept = 0
    for moment in named:
        for thing, name in moment.items():
            if thing in last:
                kept += last[thing] == name
                switches += last[thing] != name
            if name in owner and owner[name] != thing:
                reused += 1
            last[thing], owner[name] = name, thing
    total = kept + switches
    return Grounding(switches, kept / total if total else 1.0, reused)


def drift(values: Sequence[float], parts: int = 10) -> tuple[np.ndarray, float]:
    """A figure along a stream: (its means over ``parts`` equal parts, the last over the first).

    Raises:
      ValueError: fewer values than parts.
    """
    if len(values) < parts:
        raise ValueError(f"{len(values)} values in {parts} parts")
    means = np.asarray([np.mean(p) for p in np.array_split(np.asarray(values, float), parts)])
    return means, float(means[-1] / means[0]) if means[0] else float("inf")


class Loop(NamedTuple):
    """error: mean distance from the target; intervened: share of steps at which a person had to;
    staleness: mean age in steps of what was acted on."""

    error: float
    intervened: float
    staleness: float


def closed_loop(
    act: Callable[[float], float], steps: int, latency: int, limit: float = 3.0, seed: int = 0
) -> Loop:
    """What a late answer costs where it changes what comes next: a target drifts, a policy follows
    it by what it saw ``latency`` steps ago, and a person puts it back where it is too far off.

    Args:
      act: (what was seen: target minus place) -> movement.
      steps, latency: of the loop.
      limit: distance at which a person intervenes.
      seed: of the drift.
    """
    rng = np.random.default_rng(seed)
    place = target = 0.0
    seen: list[float] = []
    errors, intervened = [], 0
    for step in range(steps):
        target += rng.normal(0, 0.2)
        seen.append(target - place)
        if step >= latency:
            place += act(seen[step - latency])
        if abs(target - place) > limit:
            place, intervened = target, intervened + 1
        errors.append(abs(target - place))
    return Loop(float(np.mean(errors)), intervened / steps, float(latency))


def erasure(texts: Sequence[Sequence[str]]) -> float:
    """How much a text that is written anew flickers: words that are taken back, per word at the end
    (Arivazhagan et al., "Re-translation Strategies for Long Form, Simultaneous, Spoken Language
    Translation", arXiv 1912.03393). texts: each as words."""
    taken = 0
    for before, after in zip(texts, texts[1:], strict=False):
        same = 0
        while same < min(len(before), len(after)) and before[same] == after[same]:
            same += 1
        taken += len(before) - same
    return taken / max(1, len(texts[-1]) if texts else 1)


def wait_k(words: int, sources: int, k: int) -> list[int]:
    """How many of ``sources`` words are read before each of ``words`` is said, waiting for ``k``
    first (Ma et al., "STACL", arXiv 1810.08398)."""
    return [min(sources, k + i) for i in range(words)]
