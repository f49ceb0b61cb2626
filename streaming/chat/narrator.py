"""What a perception model finds, in words: who is there, who appeared and left, who moves where."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .scene_graph import Graph, SceneGraph

SIDES = ("on the left", "in the middle", "on the right")


@dataclass(frozen=True)
class Round:
    """What is told of a moment.

    Attributes:
      time: seconds in the stream.
      text: a sentence or a few.
      events: what is new since the round before; "" of these there is nothing new.
      score: how much changed: the number of events.
    """

    time: float
    text: str
    events: tuple[str, ...]

    @property
    def score(self) -> float:
        return float(len(self.events))


@dataclass
class _Track:
    label: str
    first: float
    box: Sequence[float]
    last: float
    past: list[tuple[float, float, float]] = field(default_factory=list)  # (time, x, size)
    told: bool = False
    moving: str = ""


@dataclass
class Narrator:
    """Results of a model with objects that keep their ids (or persons, or actions) -> words.

    Attributes:
      steady: seconds that an object must be seen before it is told of; shorter ones are mistakes
        more often than guests.
      patience: seconds after which an object that is not seen any more has left.
      span: seconds over which a movement is measured.
      sure: least probability of an action that is told of.
      relations: tells what objects are to each other, too; None: not.
    """

    steady: float = 1.0
    patience: float = 2.0
    span: float = 2.0
    sure: float = 0.5
    relations: SceneGraph | None = None

    def __post_init__(self) -> None:
        self._tracks: dict[int, _Track] = {}
        self._events: list[str] = []
        self._action = ""
        self._counted: Counter[str] = Counter()
        self.graph: Graph | None = None if self.relations is None else self.relations.begin()

    def push(self, result: Any) -> None:
        """Takes the result of a frame: a :class:`~streamzoo.streaming.session.Result`."""
        found = result.objects() or [{"label": "person", **p} for p in result.persons()]
        now = result.time
        for entry in found:
            if entry.get("seen", True) and entry.get("box") and "id" in entry:
                self._seen(int(entry["id"]), entry, now)
        self._left(now)
        tracked = Counter(t.label for t in self._tracks.values() if t.told)
        plain = Counter(e["label"] for e in found if "id" not in e)
        self._counted = tracked + plain
        self._acts(result)
        if self.relations is not None and self.graph is not None:
            there = {n: (t.label, t.box) for n, t in self._tracks.items() if t.told}
            self.graph, changes = self.relations(self.graph, there, now)
            for change in changes:
                self._tell(self.relations.words(self.graph, change).capitalize())

    def round(self, time: float) -> Round:
        """What there is to tell; the events are told once."""
        events, self._events = tuple(self._events), []
        counts = [_many(n, label) for label, n in sorted(self._counted.items())]
        there = f"In view: {_list(counts)}." if counts else "Nobody is in view."
        doing = f" Action: {self._action}." if self._action else ""
        happened = "".join(f" {event}." for event in events)
        return Round(time, f"[{clock(time)}] {there}{doing}{happened}", events)

    def _seen(self, number: int, entry: Any, now: float) -> None:
        box = entry["box"]
        track = self._tracks.setdefault(number, _Track(entry["label"], now, box, now))
        track.box, track.last = box, now
        x, size = (box[0] + box[2]) / 2, math.sqrt(max(0.0, (box[2] - box[0]) * (box[3] - box[1])))
        track.past = [p for p in track.past if now - p[0] <= self.span] + [(now, x, size)]
        if not track.told and now - track.first >= self.steady:
            track.told = True
            self._tell(f"{_name(track, number)} appeared {side(track.past[0][1])}")
        if track.told and now - track.past[0][0] >= 0.9 * self.span:
            self._moves(track, number)

    def _moves(self, track: _Track, number: int) -> None:
        (_, x0, s0), (_, x1, s1) = track.past[0], track.past[-1]
        # a fifth of the picture in the span is a walk across; half the size again is an approach
        moving = ""
        if abs(x1 - x0) > 0.1:
            moving = f"moves to the {'right' if x1 > x0 else 'left'}"
        elif s1 > 1.4 * s0:
            moving = "comes closer"
        elif s0 > 1.4 * s1:
            moving = "goes away"
        if moving and moving != track.moving:
            self._tell(f"{_name(track, number)} {moving}")
        if moving:
            track.moving = moving

    def _left(self, now: float) -> None:
        for number, track in list(self._tracks.items()):
            if now - track.last > self.patience:
                del self._tracks[number]
                if track.told:
                    x = (track.box[0] + track.box[2]) / 2
                    stayed = max(1, round(track.last - track.first))
                    self._tell(f"{_name(track, number)} left {side(x)} after {stayed} seconds")

    def _acts(self, result: Any) -> None:
        scores = result.scores()
        if scores is None or not len(scores):
            return
        best = int(scores.argmax())
        action = result.classes[best] if scores[best] >= self.sure else ""
        if action and action != self._action:
            self._tell(f"It looks like {action}")
        self._action = action

    def _tell(self, event: str) -> None:
        self._events.append(event)


def side(x: float) -> str:
    """Where a place across the picture is, 0 to 1."""
    return SIDES[min(2, max(0, int(3 * x)))]


def clock(seconds: float) -> str:
    """1:02 of 62 seconds."""
    whole = int(seconds)
    return (
        f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"
        if whole >= 3600
        else (f"{whole // 60}:{whole % 60:02}")
    )


def _name(track: _Track, number: int) -> str:
    return f"{track.label.capitalize()} {number}"


def _many(count: int, label: str) -> str:
    if count == 1:
        return f"1 {label}"
    ending = "es" if label.endswith(("s", "x", "ch", "sh")) else "s"
    return f"{count} {'people' if label == 'person' else label + ending}"


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
