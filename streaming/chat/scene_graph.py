"""Who is where, to whom: objects that keep their ids, and relations that hold between them.

A relation holds once it was seen for a while, and is over once it was not, so that boxes that
tremble do not make a story. Relations are of the picture: what is nearer to the camera nobody says.

Source of the idea: Fei et al., "Video-of-Thought" (arXiv 2501.03230), which reasons on the
scene graph of a film; here it is a state of constant size that a stream carries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

Box = Sequence[float]  # x1, y1, x2, y2 in [0, 1]
RELATIONS = ("on", "holds", "beside", "overlaps")


class Triplet(NamedTuple):
    """subject and object are ids of objects."""

    subject: int
    relation: str
    object: int


class Held(NamedTuple):
    """since: when a relation was first seen, last: when it was last; holds: it was told."""

    since: float
    last: float
    holds: bool


class Graph(NamedTuple):
    """labels: id -> what it is; boxes: id -> where; edges: what was seen between them."""

    labels: Mapping[int, str]
    boxes: Mapping[int, Box]
    edges: Mapping[Triplet, Held]

    def triplets(self) -> list[Triplet]:
        """Relations that hold, in order."""
        return sorted(edge for edge, held in self.edges.items() if held.holds)


class Change(NamedTuple):
    """A relation that began to hold, or is over."""

    triplet: Triplet
    begins: bool
    time: float


def relation(a: Box, b: Box) -> str:
    """What box ``a`` is to box ``b``, "" for nothing.

    ``on``: its lower edge stands in b's upper half, and it is over b. ``holds``: most of b lies
    within it, and b is much smaller. ``overlaps``: they share an eighth of the smaller one.
    ``beside``: as high as each other by half, and a gap of less than half a width.
    """
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    small = max(min(_area(a), _area(b)), 1e-9)
    shared = max(0.0, wide) * max(0.0, high)
    middle = (b[1] + b[3]) / 2
    if wide > 0.5 * (a[2] - a[0]) and a[1] < b[1] and b[1] <= a[3] <= middle:
        return "on"
    if _area(b) < 0.4 * _area(a) and shared > 0.7 * _area(b):
        return "holds"
    if shared > small / 8:
        return "overlaps"
    near = -0.5 * min(a[2] - a[0], b[2] - b[0])
    if high > 0.5 * min(a[3] - a[1], b[3] - b[1]) and near < wide <= 0:
        return "beside" if a[0] <= b[0] else ""  # once for both
    return ""


@dataclass(frozen=True)
class SceneGraph:
    """(graph, objects at a time) -> (graph, changes).

    Attributes:
      steady: seconds that a relation must be seen before it holds.
      patience: seconds after which one that is not seen any more is over.
      most: objects of a graph; of more, the largest.

    Raises:
      ValueError: a negative time, or fewer than two objects.
    """

    steady: float = 1.0
    patience: float = 1.0
    most: int = 12

    def __post_init__(self) -> None:
        if min(self.steady, self.patience) < 0 or self.most < 2:
            raise ValueError(f"{self}: times of at least 0 seconds, and two objects or more")

    def begin(self) -> Graph:
        """Nothing was seen."""
        return Graph({}, {}, {})

    def __call__(
        self, graph: Graph, objects: Mapping[int, tuple[str, Box]], time: float
    ) -> tuple[Graph, list[Change]]:
        """One moment: id -> (label, box)."""
        large = lambda number: (-_area(objects[number][1]), number)
        seen = sorted(objects, key=large)[: self.most]
        boxes = {number: tuple(objects[number][1]) for number in seen}
        now = {
            Triplet(a, word, b)
            for a in seen
            for b in seen
            if a != b and (word := relation(boxes[a], boxes[b]))
        }
        edges, changes = {}, []
        for edge in sorted(now | set(graph.edges)):
            held = graph.edges.get(edge, Held(time, time, False))
            if edge in now:
                held = held._replace(last=time)
                if not held.holds and time - held.since >= self.steady:
                    held = held._replace(holds=True)
                    changes.append(Change(edge, True, time))
            elif time - held.last > self.patience:
                if held.holds:
                    changes.append(Change(edge, False, time))
                continue
            edges[edge] = held
        kept = {n for edge in edges for n in (edge.subject, edge.object)} | set(seen)
        labels = {**graph.labels, **{n: objects[n][0] for n in seen}}
        return Graph({n: labels[n] for n in sorted(kept)}, boxes, edges), changes

    @staticmethod
    def words(graph: Graph, change: Change) -> str:
        """A sentence without its stop: "person 3 is beside car 1"."""
        name = lambda number: f"{graph.labels.get(number, 'something')} {number}"
        subject, word, other = change.triplet
        plain = word in ("holds", "overlaps")
        no = "" if change.begins else "no longer "
        verb = f"{no}{word}" if plain else f"is {no}{word}"
        return f"{name(subject)} {verb} {name(other)}"


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
