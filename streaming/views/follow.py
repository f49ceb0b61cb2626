"""Objects with ids that last, and the zones and lines that they visit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..overlay import outlines
from .base import Answered, Line
from .detect import DetectView, objects, persons

if TYPE_CHECKING:
    from ..sources.base import Frame


def tracks(found: Any, classes: tuple[str, ...]) -> list[Line]:
    """:func:`~.detect.objects` with their ``id``, oldest first, and ``seen``: False where the
    object is not detected in this frame and its box is a prediction. A person of whom it is known
    what he does has ``actions``, names and scores; ``classes`` names them after the objects."""
    slots = np.flatnonzero(found.valid)
    scores, known = getattr(found, "action_scores", None), getattr(found, "action_known", None)
    entries = objects(found, classes)
    for k, entry in zip(slots, entries, strict=True):
        entry["id"] = int(found.ids[k])
        if not found.seen[k]:
            entry["seen"] = False
        if scores is not None and known is not None and (said := np.flatnonzero(known[k])).size:
            names = classes[-known.shape[-1] :]
            entry["actions"] = {names[c]: round(float(scores[k, c]), 4) for c in said}
    return sorted(entries, key=lambda entry: entry["id"])


class FollowView(DetectView):
    """Of a JSON line ``objects`` with their ``id``, ``persons`` among them, the ``size`` of the
    source, and with regions the counts of ``zones`` and ``lines`` and the frame's ``events``."""

    ids = True

    def objects(self, result: Answered[Any]) -> list[Line]:
        return tracks(result.output, result.classes)

    def fields(self, result: Answered[Any]) -> Line:
        line = super().fields(result)
        line["persons"] = persons(line["objects"])
        if self.size is not None:
            line["size"] = list(self.size)
        return line

    def record(self, frame: Frame, result: Answered[Any], latency_ms: float) -> Line:
        line = super().record(frame, result, latency_ms)
        if self.regions is not None:
            events = self.regions.update(frame.time, line["objects"])
            line |= self.regions.counts()
            line["events"] = [event.to_dict() for event in events]
        return line

    def finish(self) -> list[Line]:
        return [] if self.regions is None else [e.to_dict() for e in self.regions.close()]

    def label(self, entry: Line) -> str:
        who = f"{entry['label']} {entry['id']}"
        return f"{who}: {', '.join(entry['actions'])}" if "actions" in entry else who

    def draw(self, image: np.ndarray, result: Any, line: Line) -> np.ndarray:
        if self.regions is not None:
            texts = {name: f"{name}: {c['inside']}" for name, c in line.get("zones", {}).items()}
            for name, count in line.get("lines", {}).items():
                texts[name] = f"{name}: {count['in']} in, {count['out']} out"
            shapes = [(z.corners, texts[z.name]) for z in self.regions.zones]
            shapes += [((one.start, one.end), texts[one.name]) for one in self.regions.lines]
            image = outlines(image, shapes)
        return super().draw(image, result, line)
