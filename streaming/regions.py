"""Zones and lines in the picture: who is inside, who crossed, and events with a start and an end.

    regions = Regions((Zone("door", ((0.1, 0.5), (0.4, 0.5), (0.4, 1.0), (0.1, 1.0))),))
    for line in lines:                                   # what `watch` writes for a frame
        events = regions.update(line["time"], line["objects"])
        line |= regions.counts()

An object counts by the point where it stands: the middle of its box's lower edge.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from ..layers.streaming import Json

Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Zone:
    """A polygon.

    Attributes:
      name: as it stands in counts and events.
      corners: three or more (x, y), fractions of the picture's width and height.

    Raises:
      ValueError: fewer than three corners.
    """

    name: str
    corners: tuple[Point, ...]

    def __post_init__(self) -> None:
        if len(self.corners) < 3:
            raise ValueError(f"zone {self.name}: {len(self.corners)} corners; give three or more")

    def holds(self, point: Point) -> bool:
        """True for a point inside; of a polygon that crosses itself, by the even-odd rule."""
        x, y = point
        inside = False
        for (x0, y0), (x1, y1) in zip(
            self.corners, self.corners[1:] + self.corners[:1], strict=False
        ):
            if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
                inside = not inside
        return inside


@dataclasses.dataclass(frozen=True)
class Line:
    """A segment from ``start`` to ``end``, (x, y) as fractions.

    Seen along it, who goes from the right to the left of it goes "in", the other way is "out":
    across a line drawn from left to right, upwards is in.

    Raises:
      ValueError: both ends are one point.
    """

    name: str
    start: Point
    end: Point

    def __post_init__(self) -> None:
        if self.start == self.end:
            raise ValueError(f"line {self.name}: it starts where it ends, at {self.start}")

    def side(self, point: Point) -> float:
        """The distance from the line, endless in both directions: above 0 on the side that is
        "in", below 0 on the other."""
        length = ((self.end[0] - self.start[0]) ** 2 + (self.end[1] - self.start[1]) ** 2) ** 0.5
        return -_turn(self.start, self.end, point) / length

    def between(self, a: Point, b: Point) -> bool:
        """True where the way from ``a`` to ``b`` crosses the segment."""
        one, other = _turn(a, b, self.start), _turn(a, b, self.end)
        return (self.side(a) > 0) != (self.side(b) > 0) and (one > 0) != (other > 0)


def _turn(a: Point, b: Point, c: Point) -> float:
    """Twice the area of the triangle, above 0 where c is clockwise of a -> b in the picture."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


@dataclasses.dataclass(frozen=True)
class Event:
    """What happened to one object. Times in seconds of the stream.

    Attributes:
      kind: "zone", "line".
      state: "start", "end", or "once" for a line.
      region: name of the zone or line.
      id, label: of the object.
      start: when it went in, or crossed.
      end: when it was last inside; None while it is.
      direction: "in" or "out" across a line.
    """

    kind: str
    state: str
    region: str
    id: int
    label: str
    start: float
    end: float | None = None
    direction: str | None = None

    def to_dict(self) -> Json:
        """For JSON, without what does not apply."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


@dataclasses.dataclass
class _Visit:
    """One object in one zone."""

    since: float
    last: float
    label: str
    told: bool = False  # its start was


class Regions:
    """Zones and lines with their counts. Memory grows with the objects in sight alone.

    Args:
      zones, lines: their names must differ.
      labels: classes that count; () for all.
      settle: seconds that an object must be inside, without a break, before a visit starts.
      linger: seconds that it must be outside or out of sight before the visit has ended, and for
        which its side of a line is remembered.
      margin: as a fraction of the picture; nearer to a line an object is still on the side where
        it was, so that one who stands there is not counted over and over.

    Raises:
      ValueError: two regions of one name.
    """

    def __init__(
        self,
        zones: Sequence[Zone] = (),
        lines: Sequence[Line] = (),
        *,
        labels: Sequence[str] = (),
        settle: float = 0.0,
        linger: float = 1.0,
        margin: float = 0.01,
    ):
        names = [r.name for r in (*zones, *lines)]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"two regions are called {twice[0]}; give each a name of its own")
        self.zones, self.lines = tuple(zones), tuple(lines)
        self.labels, self.settle = frozenset(labels), settle
        self.linger, self.margin = linger, margin
        self.visitors = {z.name: 0 for z in zones}  # visits that have started, all in all
        self.crossings = {line.name: {"in": 0, "out": 0} for line in lines}
        self._visits: dict[tuple[str, int], _Visit] = {}
        self._stood: dict[tuple[str, int], tuple[Point, float]] = {}

    def update(self, time: float, objects: Iterable[Json]) -> list[Event]:
        """What happened in a frame, in the order in which it began.

        Args:
          time: seconds, not decreasing.
          objects: with ``id``, ``label`` and ``box``, x1, y1, x2, y2 as fractions; those without
            an id are passed over.
        """
        events: list[Event] = []
        for one in objects:
            if one.get("id") and (not self.labels or one["label"] in self.labels):
                x0, _, x1, y1 = one["box"]
                feet = ((x0 + x1) / 2, y1)
                for zone in self.zones:
                    events += self._visit(zone, time, one["id"], one["label"], feet)
                for line in self.lines:
                    events += self._cross(line, time, one["id"], one["label"], feet)
        events += self._leave(time, self.linger)
        gone = [k for k, (_, at) in self._stood.items() if time - at > self.linger]
        for key in gone:
            del self._stood[key]
        return sorted(events, key=lambda e: e.start)

    def close(self) -> list[Event]:
        """The ends of all visits under way, when the stream is over."""
        return self._leave(float("inf"), 0.0)

    def counts(self) -> Json:
        """``zones``: name -> objects inside now, and visits so far; ``lines``: name -> in, out."""
        inside = [zone for (zone, _), visit in self._visits.items() if visit.told]
        zones = {
            name: {"inside": inside.count(name), "visits": total}
            for name, total in self.visitors.items()
        }
        lines = {name: dict(count) for name, count in self.crossings.items()}
        return ({"zones": zones} if zones else {}) | ({"lines": lines} if lines else {})

    def _visit(self, zone: Zone, time: float, who: int, label: str, feet: Point) -> list[Event]:
        key = (zone.name, who)
        visit = self._visits.get(key)
        if not zone.holds(feet):
            if visit is not None and not visit.told:
                del self._visits[key]  # it was inside for less than ``settle``
            return []
        if visit is None:
            visit = self._visits[key] = _Visit(time, time, label)
        visit.last, visit.label = time, label
        if visit.told or time - visit.since < self.settle:
            return []
        visit.told = True
        self.visitors[zone.name] += 1
        return [Event("zone", "start", zone.name, who, label, visit.since)]

    def _leave(self, time: float, linger: float) -> list[Event]:
        over = {k: v for k, v in self._visits.items() if time - v.last > linger}
        for key in over:
            del self._visits[key]
        return [
            Event("zone", "end", zone, who, visit.label, visit.since, visit.last)
            for (zone, who), visit in over.items()
            if visit.told
        ]

    def _cross(self, line: Line, time: float, who: int, label: str, feet: Point) -> list[Event]:
        key = (line.name, who)
        before = self._stood.get(key)
        if abs(line.side(feet)) <= self.margin:
            if before is not None:
                self._stood[key] = (before[0], time)
            return []
        self._stood[key] = (feet, time)
        if before is None or not line.between(before[0], feet):
            return []
        direction = "in" if line.side(feet) > 0 else "out"
        self.crossings[line.name][direction] += 1
        return [Event("line", "once", line.name, who, label, time, None, direction)]


def read_regions(
    zones: Iterable[str], lines: Iterable[str], size: tuple[int, int], **options: Any
) -> Regions | None:
    """Regions as typed: ``[NAME=]X,Y,X,Y,X,Y...`` in pixels of a picture of ``size`` (height,
    width); None where there are none.

    Raises:
      ValueError: a text that is not of this form, or a point outside the picture.
    """
    parts: dict[str, list[Any]] = {"zone": [], "line": []}
    for kind, texts in (("zone", zones), ("line", lines)):
        for number, text in enumerate(texts, 1):
            name, _, rest = text.rpartition("=")
            try:
                values = [float(v) for v in rest.split(",")]
            except ValueError:
                values = []
            least = 6 if kind == "zone" else 4
            if len(values) < least or len(values) % 2 or (kind == "line" and len(values) > 4):
                form = "X,Y,X,Y,X,Y..." if kind == "zone" else "X,Y,X,Y"
                raise ValueError(f"--{kind} {text}: write it as [NAME=]{form}, in pixels")
            points = tuple(zip(values[::2], values[1::2], strict=False))
            for x, y in points:
                if not (0 <= x <= size[1] and 0 <= y <= size[0]):
                    raise ValueError(
                        f"--{kind} {text}: ({x:g}, {y:g}) is outside the picture, which is "
                        f"{size[1]} wide and {size[0]} high"
                    )
            scaled = tuple((x / size[1], y / size[0]) for x, y in points)
            name = name or f"{kind} {number}"
            parts[kind].append(Zone(name, scaled) if kind == "zone" else Line(name, *scaled))
    if not parts["zone"] and not parts["line"]:
        return None
    return Regions(parts["zone"], parts["line"], **options)
