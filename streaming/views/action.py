"""Persons, their actions and a strip of scores over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..overlay import ScoreHistory, canvas_size, draw
from .base import Answered, Line, View, arrays

if TYPE_CHECKING:
    from ...zoo.action.outputs import ActionOutput
    from ..regions import Regions

TOP = 5  # classes of a frame or a person that are written
# what is sent as classes and persons
SENT = ("logits", "boxes", "box_valid", "box_scores", "box_logits", "known", "box_known")
WHOLE = [0.0, 0.0, 1.0, 1.0]  # the box of a model that finds no persons and takes the frame for one


def probabilities(logits: Any, multi_label: bool) -> np.ndarray:
    """Logits [..., C] -> float32 in [0, 1]: sigmoid of each, or softmax over the last axis."""
    logits = np.asarray(logits, np.float32)
    if multi_label:
        return 0.5 * (1 + np.tanh(0.5 * logits))  # the sigmoid, without overflow
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def best(
    scores: np.ndarray,
    classes: tuple[str, ...],
    known: np.ndarray | None = None,
    top: int = TOP,
) -> dict[str, float]:
    """The ``top`` classes by score, best first; unnamed classes are called by number. ``known``:
    which of them may be said, bool [C], None for all."""
    order = np.argsort(-scores, kind="stable")
    order = order[:top] if known is None else order[known[order]][:top]
    return {classes[i] if i < len(classes) else f"class {i}": float(scores[i]) for i in order}


class ActionView(View["ActionOutput"]):
    """Of a JSON line ``classes`` (best first) and ``persons`` with theirs: of a model that decides
    what it knows (``zoo.action.decision``) those that it knows, which may be none."""

    def __init__(self, size: tuple[int, int] | None = None, regions: Regions | None = None):
        super().__init__(size, regions)
        self.history = ScoreHistory()

    def scores(self, result: Answered[ActionOutput]) -> np.ndarray | None:
        logits = result.output.logits
        return None if logits is None else probabilities(logits, result.multi_label)

    def persons(self, result: Answered[ActionOutput]) -> list[Line]:
        """``box``, ``score`` and ``scores``, float32 [C], where the model has a head for them, with
        ``known``, bool [C], where it tells which of them may be said."""
        out = result.output
        if out.boxes is None or out.box_valid is None or out.box_scores is None:
            return []
        found = []
        for k in np.flatnonzero(out.box_valid):
            person = {"box": out.boxes[k].tolist(), "score": float(out.box_scores[k])}
            if out.box_logits is not None:
                person["scores"] = probabilities(out.box_logits[k], result.multi_label)
                if out.box_known is not None:
                    person["known"] = np.asarray(out.box_known[k])
            found.append(person)
        return found

    def known(self, result: Answered[ActionOutput]) -> np.ndarray | None:
        """Which classes of the frame may be said, bool [C]; None of a model that does not tell."""
        known = result.output.known
        return None if known is None else np.asarray(known)

    def alarm_scores(self, output: ActionOutput) -> dict[str, float]:
        """Scores of the frame beside its classes."""
        return {}

    def fields(self, result: Answered[ActionOutput]) -> Line:
        line: Line = {}
        scores = self.scores(result)
        if scores is not None:
            ranked = best(scores, result.classes, self.known(result))
            line["classes"] = {k: round(v, 4) for k, v in ranked.items()}
        line |= {k: round(v, 4) for k, v in self.alarm_scores(result.output).items()}
        line["persons"] = []
        for person in self.persons(result):
            entry = {
                "box": [round(v, 4) for v in person["box"]],
                "score": round(person["score"], 4),
            }
            if "scores" in person:
                ranked = best(person["scores"], result.classes, person.get("known"))
                entry["classes"] = {k: round(v, 4) for k, v in ranked.items()}
            line["persons"].append(entry)
        return line

    def sent(self, result: Answered[ActionOutput]) -> Line:
        """``classes``, ``persons``, and the other small arrays as ``output``."""
        seen: Line = {}
        scores = self.scores(result)
        if scores is not None:
            seen["classes"] = best(scores, result.classes, self.known(result))
        seen["persons"] = self.persons(result)
        for person in seen["persons"]:
            if "scores" in person:
                known = person.pop("known", None)
                person["classes"] = best(person.pop("scores"), result.classes, known)
        output = dict(arrays(result.output, SENT))
        return seen | {"output": output} if output else seen

    def canvas(self, size: tuple[int, int]) -> tuple[int, int]:
        return canvas_size(size)

    def paint(
        self, image: np.ndarray, time: float, result: Any, line: Line, caption: str
    ) -> np.ndarray:
        """The picture with boxes, labels and the strip of scores."""
        del result  # the line says it all
        seen = line.get("classes")
        if seen is None:  # no frame head: the strip shows each class's best score over persons
            seen = {}
            for person in line["persons"]:
                for name, score in person.get("classes", {}).items():
                    seen[name] = max(score, seen.get(name, 0.0))
        alarms = {name: line[name] for name in self.alarms if name in line}
        self.history.push(time, seen | alarms)
        return draw(image, *labelled(line["persons"]), self.history, caption=caption)

    def draw(self, image: np.ndarray, result: Any, line: Line) -> np.ndarray:
        return draw(image, *labelled(line["persons"]))


def labelled(persons: list[Line]) -> tuple[np.ndarray, list[str], list[float]]:
    """Boxes [K, 4], labels and scores to be drawn."""
    boxes, labels, scores = [], [], []
    for person in persons:
        if person.get("classes") == {} and person["box"] == WHOLE:
            continue  # nothing is known, and nobody was found
        # of a person whose action is not known: that there is one
        ranked = list((person.get("classes") or {"person": person["score"]}).items())
        # the best class, and of a multi-label model up to two others that are likely
        for name, score in ranked[:1] + [r for r in ranked[1:3] if r[1] >= 0.5]:
            boxes.append(person["box"])
            labels.append(name)
            scores.append(score)
    return np.asarray(boxes, np.float32).reshape(-1, 4), labels, scores
