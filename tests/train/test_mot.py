"""Metrics of tracking: the numbers of TrackEval, and what they must say of plain cases."""

from pathlib import Path

import numpy as np
import pytest

from streamzoo.train.metrics import followed, tracking

DATA = Path(__file__).parents[1] / "parity" / "data" / "tracks.npz"


def frames(data, clip, case):
    at, ids, boxes = data[f"{clip}/frame"], data[f"{clip}/{case}"], data[f"{clip}/boxes"] / 65535
    rows = [np.flatnonzero((at == t) & (ids > 0)) for t in range(data[f"{clip}/size"][2])]
    return [ids[r] for r in rows], [boxes[r] for r in rows]


@pytest.mark.parametrize("clip", ["vtest", "bikes"])
def test_the_numbers_are_those_of_trackeval(clip):
    data = dict(np.load(DATA))
    got = tracking(*frames(data, clip, "eager"), *frames(data, clip, "tuned"))
    want = data[f"{clip}/metrics"]
    values = (got.hota, got.det_a, got.ass_a, got.mota, got.idf1, got.switches)
    np.testing.assert_allclose(values, want, atol=1e-12)
    assert 0 < want[0] < 1 and got.missed + got.false > 0
    each = followed(*frames(data, clip, "eager"), *frames(data, clip, "tuned")).values()
    assert sum(one.switches for one in each) == got.switches == want[5]
    assert sum(one.frames - one.matched for one in each) == got.missed
    assert len(each) == len(np.unique(np.concatenate(frames(data, clip, "eager")[0])))


def test_each_object_is_followed_by_itself():
    box = np.array([[0, 0, 10, 20], [50, 0, 60, 20]], float)
    truth = [np.array([5, 9])] * 6, [box] * 6
    found = [np.array([1, 2])] * 2 + [np.array([1])] + [np.array([1, 3])] * 3
    got = followed(*truth, found, [box[: len(ids)] for ids in found])
    assert got == {5: (6, 6, 0), 9: (6, 5, 1)}


def straight(ids):
    """One object moves on a line; ids: of its track in each frame, 0 for missed."""
    ids = np.asarray(ids)
    boxes = [np.array([[t, 0, t + 10, 20]], float) for t in range(len(ids))]
    truth = [np.array([7])] * len(ids), boxes
    return tracking(
        *truth,
        [i[None][i[None] > 0] for i in ids],
        [b[: int(i > 0)] for i, b in zip(ids, boxes, strict=False)],
    )


def test_a_perfect_answer_is_1():
    got = straight([3] * 20)
    assert (got.hota, got.mota, got.idf1, got.switches) == (pytest.approx(1), 1, 1, 0)


def test_a_switch_costs_identity_and_not_detection():
    got = straight([3] * 10 + [4] * 10)
    assert got.switches == 1 and got.mota == pytest.approx(1 - 1 / 20)
    assert got.idf1 == pytest.approx(0.5) and got.det_a == pytest.approx(1)
    assert got.ass_a == pytest.approx(0.5) and got.hota == pytest.approx(0.5**0.5)


def test_a_gap_is_missed_and_no_switch():
    got = straight([3] * 8 + [0] * 4 + [3] * 8)
    assert (got.switches, got.missed, got.false) == (0, 4, 0) and got.mota == pytest.approx(0.8)


def test_nothing_found_and_nothing_there():
    nothing = [np.zeros(0, int)], [np.zeros((0, 4))]
    one = [np.array([1])], [np.array([[0, 0, 1, 1.0]])]
    assert tracking(*one, *nothing)[:5] == (0, 0, 0, 0, 0)
    assert tracking(*nothing, *one).false == 1 and tracking(*nothing, *nothing).objects == 0


def test_bad_input_is_refused():
    box = np.zeros((2, 4))
    with pytest.raises(ValueError, match="twice in"):
        tracking([np.array([1, 1])], [box], [np.array([1, 2])], [box])
    with pytest.raises(ValueError, match="1 ids for boxes"):
        tracking([np.array([1])], [box], [np.array([1, 2])], [box])
    with pytest.raises(ValueError, match="as many"):
        tracking([np.array([1, 2])], [box], [], [])
