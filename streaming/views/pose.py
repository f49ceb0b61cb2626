"""Persons with their points."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...zoo.pose.outputs import Pose, bones
from ..overlay import draw, limbs
from .base import Answered, Line, View


class PoseView(View[Pose]):
    """Of a JSON line ``persons``, each with ``score``, ``box`` and ``keypoints``: x, y in [0, 1]
    and score of COCO's 17 points, in their order."""

    def persons(self, result: Answered[Pose]) -> list[Line]:
        found = result.output
        return [
            {
                "score": round(float(found.scores[k]), 4),
                "box": [round(float(v), 4) for v in found.boxes[k]],
                "keypoints": [[round(float(v), 4) for v in p] for p in found.keypoints[k]],
            }
            for k in np.flatnonzero(found.valid)
        ]

    def fields(self, result: Answered[Pose]) -> Line:
        return {"persons": self.persons(result)}

    def sent(self, result: Answered[Pose]) -> Line:
        """``persons``, and the arrays of all slots as ``output``."""
        return {"persons": self.persons(result)} | super().sent(result)

    def draw(self, image: np.ndarray, result: Any, line: Line) -> np.ndarray:
        shown = line["persons"]
        for entry in shown:
            points = np.asarray(entry["keypoints"])
            image = limbs(image, points, bones(len(points)))
        boxes = np.asarray([entry["box"] for entry in shown], np.float32).reshape(-1, 4)
        return draw(image, boxes, [self.name(result)] * len(shown), [e["score"] for e in shown])

    def rows(self, result: Answered[Pose]) -> list[Line]:
        named = [{"label": self.name(result)} | one for one in self.persons(result)]
        return list(self.rows_of(result.index, result.time, {"persons": named}))

    def name(self, result: Answered[Pose] | None) -> str:
        """What has the points: a person, or what the card's class says."""
        return result.classes[0] if result is not None and result.classes else "person"
