"""What is drawn is where it was asked for, and nothing else changes."""

import re
import sys

import numpy as np
import pytest

from streamzoo.layers.install import how_to_install
from streamzoo.streaming.overlay import ScoreHistory, canvas_size, draw

pytest.importorskip("PIL")
GREY = np.full((272, 640, 3), 120, np.uint8)


def changed(image):
    return (image != 120).any(-1)


def test_a_box_is_drawn_at_its_place_and_only_there():
    before = GREY.copy()
    out = draw(before, [[0.25, 0.5, 0.5, 0.75]], ["walking"], [0.8])
    np.testing.assert_array_equal(before, GREY)
    assert out.shape == GREY.shape and out.dtype == np.uint8
    mask = changed(out)
    x0, x1, y0, y1 = 0.25 * 639, 0.5 * 639, 0.5 * 271, 0.75 * 271
    assert mask[round(y0), round(x0) + 5 : round(x1) - 5].all()
    assert mask[round(y0) + 5 : round(y1) - 5, round(x0)].all()
    assert not mask[round(y0) + 8 : round(y1) - 8, round(x0) + 8 : round(x1) - 8].any()
    mask[round(y0) - 30 : round(y1) + 4, round(x0) - 4 : round(x1) + 4] = False
    assert not mask.any()


def test_chips_of_one_person_stack_and_stay_in_the_picture():
    box = [0.9, 0.0, 1.0, 0.5]
    one = changed(draw(GREY, [box], ["standing"], [0.5])).sum()
    two = changed(draw(GREY, [box, box], ["standing", "talking to someone"], [0.5, 0.4])).sum()
    chip = changed(draw(GREY, [box] * 2, ["standing"] * 2, [0.5] * 2)).sum() - one
    assert two > one and chip > 400  # an overdrawn chip would add almost nothing


def test_empty_and_degenerate_boxes():
    np.testing.assert_array_equal(draw(GREY, np.zeros((0, 4)), [], []), GREY)
    bad = [[0.5, 0.5, 0.5, 0.9], [np.nan, 0, 1, 1], [0.9, 0.1, 0.2, 0.3]]
    np.testing.assert_array_equal(draw(GREY, bad, ["a"] * 3, [0.5] * 3), GREY)
    assert changed(draw(GREY, [[-3, -3, 4, 4]], ["big"], [1.0])).any()


@pytest.mark.parametrize("size", [(272, 640), (224, 224), (33, 47), (720, 1280), (8, 8)])
def test_strip_lies_below_and_has_the_announced_size(size):
    history = ScoreHistory()
    image = np.full((*size, 3), 120, np.uint8)
    for i in range(20):
        history.push(i / 10, {"biking": 0.9, "walking": 0.2})
    out = draw(image, [], [], [], history, caption="25 fps")
    assert out.shape[:2] == canvas_size(size) and canvas_size(size, False) == size
    np.testing.assert_array_equal(out[: size[0]], image)


def rows_of(strip, colour):
    """Mean row of the pixels of exactly this colour in the right half (where no legend is)."""
    rows, columns = np.nonzero((strip == colour).all(-1))
    return rows[columns > strip.shape[1] // 2]


def test_strip_shows_scores_at_their_height():
    history = ScoreHistory(seconds=4)
    for i in range(41):
        history.push(i / 10, {"biking": 0.9, "driving": 0.4, "walking": 0.15})
    strip = draw(GREY, [], [], [], history)[272:]
    rows = [rows_of(strip, history.colour(name)) for name in ("biking", "driving", "walking")]
    assert all(len(found) > 200 for found in rows)
    high, middle, low = (found.mean() for found in rows)
    top = np.nonzero((strip == (52, 56, 66)).all(-1).sum(1) > 200)[0].min()  # the line of 1.0
    assert (middle - high) / (low - high) == pytest.approx(0.5 / 0.75, abs=0.04)
    assert (high - top) / (low - high) == pytest.approx(0.1 / 0.75, abs=0.04)


def test_history_forgets_and_ranks():
    history = ScoreHistory(seconds=1.0)
    for i in range(1000):
        history.push(i / 10, {"old": 0.9} if i < 900 else {"new": 0.3, "newer": 0.6, "bad": np.nan})
    assert len(history.samples) == 11 and history.top(2) == ["newer", "new"]
    colours = [history.colour(name) for name in ("newer", "new")]
    assert colours[0] != colours[1] and history.colour("newer") == colours[0]
    assert history.samples[-1][1]["bad"] == 0.0


def test_wrong_arguments_and_missing_pillow(monkeypatch):
    with pytest.raises(ValueError, match="one label"):
        draw(GREY, [[0, 0, 1, 1]], [], [])
    with pytest.raises(ValueError, match="float64"):
        draw(GREY.astype(np.float64), [], [], [])
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=re.escape(how_to_install("demo"))):
        draw(GREY, [], [], [])
