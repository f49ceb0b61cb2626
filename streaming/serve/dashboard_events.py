"""What happened on the streams, as a bounded timeline of moments and spans."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from ...layers.streaming import Json
from .recent import Record

Item = Json
SCORE = 0.5  # of an event, an anomaly or a class, from which on it is told
GAP = 2.0  # seconds: what comes again within them goes on
TEXT = 200  # characters


class Timeline:
    """The newest ``keep`` items; what changes gets a new revision, so that readers ask for little.

    An item: {id, rev, stream, kind, text, start, end, count, peak}, times in Unix seconds.
    Kinds: the ``alarms`` (scores in ``output``, such as a live model's "event" and "anomaly"),
    "mark" (the gate's), "label" (the class that a stream shows), "drop", "error", "refused" and
    "stream" (it comes, goes or changes).
    """

    def __init__(
        self,
        keep: int = 400,
        clock: Callable[[], float] = time.time,
        alarms: tuple[str, ...] = (),
    ):
        self._keep, self._clock, self._alarms = keep, clock, alarms
        self._items: OrderedDict[int, Item] = OrderedDict()  # by id, the last changed one last
        self._open: dict[Hashable, Item] = {}  # the newest span of each key
        self._next = 1
        self.rev = 0

    def note(self, stream: str, kind: str, text: str, peak: float | None = None) -> Item:
        """Something at this moment."""
        now = self._clock()
        item: Item = {
            "id": self._next, "stream": stream, "kind": kind, "text": text[:TEXT],
            "start": now, "end": now, "count": 1, "peak": peak,
        }  # fmt: skip
        self._next += 1
        self._touch(item)
        if len(self._items) > self._keep:
            _, old = self._items.popitem(last=False)
            key = old["stream"], old["kind"], old["text"]
            if self._open.get(key) is old:
                del self._open[key]
        return item

    def span(
        self, stream: str, kind: str, text: str, count: int = 1, peak: float | None = None
    ) -> None:
        """Something that lasts: it goes on where it was last told at most two seconds ago."""
        key = stream, kind, text[:TEXT]
        item = self._open.get(key)
        if item is None or self._clock() > item["end"] + GAP:
            self._open[key] = item = self.note(stream, kind, text, peak)
            item["count"] = count
            return
        item["end"] = self._clock()
        item["count"] += count
        if peak is not None:
            item["peak"] = max(peak, item["peak"] or 0.0)
        self._touch(item)

    def record(self, stream: str, record: Record) -> None:
        """What one answer says, in the plain form of :func:`record_of`."""
        if record.get("event"):
            self.span(stream, "mark", "marked by the sender")
        if record.get("reset"):
            self.note(stream, "error", "its state was lost with a failed step; it began anew")
        if record.get("error"):
            self.span(stream, "error", str(record["error"]))
        output = record.get("output")
        for kind in self._alarms:
            score = output.get(kind) if output else None
            if isinstance(score, float) and score >= SCORE:
                self.span(stream, kind, kind, peak=round(score, 3))
        classes = record.get("classes")
        if classes:
            name, score = next(iter(classes.items()))
            if score is not None and score >= SCORE:
                self.span(stream, "label", name, peak=round(score, 3))

    def after(self, rev: int, most: int = 100) -> list[Item]:
        """Items changed later than ``rev``, the newest ``most``; the last changed one last."""
        found = []
        for item in reversed(self._items.values()):
            if item["rev"] <= rev or len(found) == most:
                break
            found.append(item)
        return found[::-1]

    def _touch(self, item: Item) -> None:
        self.rev += 1
        item["rev"] = self.rev
        self._items[item["id"]] = item
        self._items.move_to_end(item["id"])
