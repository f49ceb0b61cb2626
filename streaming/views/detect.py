"""Objects in single frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..overlay import draw
from .base import Answered, Line, View

if TYPE_CHECKING:
    from ...zoo.detect.outputs import Detections


def objects(found: Any, classes: tuple[str, ...]) -> list[Line]:
    """The objects of one frame: ``label``, ``score`` and ``box`` x1, y1, x2, y2 in [0, 1], in the
    order of the slots. The leaves of ``found`` are without batch and time, [N, ...]."""
    return [
        {
            "label": _name(int(found.labels[k]), classes),
            "score": round(float(found.scores[k]), 4),
            "box": [round(float(v), 4) for v in np.clip(found.boxes[k], 0.0, 1.0)],
        }
        for k in np.flatnonzero(found.valid)
    ]


def persons(objects: list[Line]) -> list[Line]:
    """Those of the objects that are persons, without their label."""
    return [{k: v for k, v in o.items() if k != "label"} for o in objects if o["label"] == "person"]


def _name(label: int, classes: tuple[str, ...]) -> str:
    return classes[label] if label < len(classes) else f"class {label}"


class DetectView(View["Detections"]):
    """Of a JSON line ``objects``, best first."""

    def objects(self, result: Answered[Detections]) -> list[Line]:
        return objects(result.output, result.classes)

    def persons(self, result: Answered[Detections]) -> list[Line]:
        return persons(self.objects(result))

    def fields(self, result: Answered[Detections]) -> Line:
        return {"objects": self.objects(result)}

    def sent(self, result: Answered[Detections]) -> Line:
        """``persons``, and all ``objects`` as ``output``."""
        found = self.objects(result)
        return {"persons": persons(found), "output": {"objects": found}}

    def draw(self, image: np.ndarray, result: Any, line: Line) -> np.ndarray:
        shown = line["objects"]
        boxes = np.asarray([entry["box"] for entry in shown], np.float32).reshape(-1, 4)
        return draw(image, boxes, [self.label(e) for e in shown], [e["score"] for e in shown])

    def label(self, entry: Line) -> str:
        """The text at an object's box."""
        return entry["label"]
