"""What a model does not know is neither written, drawn nor served."""

import numpy as np
import pytest

from streamzoo.streaming.engine import Answer
from streamzoo.streaming.serve.records import record_of
from streamzoo.streaming.session import Result
from streamzoo.streaming.sources.base import Frame
from streamzoo.streaming.views.action import ActionView
from streamzoo.zoo.action.outputs import ActionOutput

CLASSES = ("run", "walk", "fall")
LOGITS = np.asarray([4.0, 3.0, 1.0], np.float32)
HERE = [[0.1, 0.1, 0.5, 0.9], [0.5, 0.1, 0.9, 0.9]]


def result(known, persons, boxes=HERE):
    """A frame with two persons; ``known`` and ``persons``: masks, or None of a model without."""
    output = ActionOutput(
        logits=LOGITS, boxes=np.asarray(boxes, np.float32), box_valid=np.ones(len(boxes), bool),
        box_scores=np.ones(len(boxes), np.float32), box_logits=np.tile(LOGITS, (len(boxes), 1)),
        known=None if known is None else np.asarray(known),
        box_known=None if persons is None else np.asarray(persons),
    )  # fmt: skip
    return Result(0, 0.0, 1.0, output, CLASSES, multi_label=True, task="action")


def answered(found):
    return record_of(Answer("cam", 0, time=0.0, latency=0.0, result=found), 0)


@pytest.mark.parametrize("way", ["watch", "serve"])
def test_what_is_written_is_what_is_known(way):
    frame = Frame(np.zeros((9, 9, 3), np.uint8), 0, 0.0, None, 0.0)

    def line(found):
        return ActionView().record(frame, found, 0.0) if way == "watch" else answered(found)

    some = line(result([False, True, False], [[True, False, True], [False] * 3]))
    assert list(some["classes"]) == ["walk"]
    assert [list(p["classes"]) for p in some["persons"]] == [["run", "fall"], []]
    assert all(set(p) <= {"box", "score", "classes"} for p in some["persons"])
    assert "output" not in some
    free = line(result(None, None))
    assert list(free["classes"]) == ["run", "walk", "fall"]
    assert [list(p["classes"]) for p in free["persons"]] == [["run", "walk", "fall"]] * 2


def drawn(found):
    view, image = ActionView(), np.full((120, 160, 3), 90, np.uint8)
    line = view.record(Frame(image, 0, 0.0, None, 0.0), found, 0.0)
    return view.paint(image, 0.0, found, line, "")[:120]


def test_a_person_is_drawn_by_what_is_known_of_him():
    silent = [[False] * 3] * 2
    nothing = drawn(result([False] * 3, silent))
    assert (nothing != drawn(result([False] * 3, [[True] * 3, [False] * 3]))).any()
    # that there is a person is no action, and is still drawn
    assert (nothing != 90).any()
    # a model that finds nobody takes the frame for a person
    assert (drawn(result([False] * 3, silent[:1], [[0, 0, 1, 1]])) == 90).all()
    assert (drawn(result([False] * 3, [[True] * 3], [[0, 0, 1, 1]])) != 90).any()
