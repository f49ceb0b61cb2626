"""Detections that agree: the authors' consensus, all choices there are, and objects that last."""

import itertools

import numpy as np
import pytest

from streamzoo.zoo.segment.deva.consensus import (
    Segments,
    chosen,
    consensus,
    drawn,
    merged,
    overlap,
    support,
)
from streamzoo.zoo.segment.deva.detect import DetectPropagate
from tests.zoo import golden_memories as golden

from .test_memories import known, small


def segments_of(numbers, kind=0):
    """A map of numbers [H, W] -> its segments, in their order."""
    those = [i for i in np.unique(numbers) if i]
    masks = np.asarray([numbers == i for i in those]).reshape(-1, *numbers.shape)
    return Segments(masks, np.full(len(those), kind))


def worth(iou, some):
    return (2 * iou.sum(0) - 1)[some].sum()


def test_the_choice_is_the_best_of_all_choices():
    rng = np.random.default_rng(0)
    for count in range(1, 10):
        iou = np.triu(rng.uniform(0.5, 1, (count, count)) * (rng.random((count, count)) < 0.4), 1)
        iou += iou.T
        value = -np.inf
        for some in itertools.product((False, True), repeat=count):
            x = np.asarray(some)
            if (iou[x][:, x] > 0).any():
                continue
            value = max(value, worth(iou, x))
        ours = chosen(iou)
        assert worth(iou, ours) == pytest.approx(value) and not (iou[ours][:, ours] > 0).any()
    assert chosen(np.zeros((0, 0))).shape == (0,)


def test_what_frames_agree_on_is_what_the_authors_find():
    """Row 50: eight clips of three frames. Of two that support each other alone either will do."""
    counts = set()
    for seed, found in enumerate(known("deva")["agreed"]):
        frames = [segments_of(n) for n in golden.votes(seed)]
        iou, agreed = support(frames), consensus(frames)
        theirs = np.isin(1 + np.arange(len(iou)), found)
        assert worth(iou, chosen(iou)) == pytest.approx(worth(iou, theirs))
        stands = {i: members for members in agreed.members for i in members}
        for i in np.flatnonzero(theirs):
            assert {i, *np.flatnonzero(iou[i])} == {*stands[i]}
        assert not (agreed.masks.sum(0) > 1).any()
        counts.add(int(theirs.sum()))
    assert len(counts) > 1 and max(counts) < 6


def test_only_segments_of_a_kind_and_of_other_frames_support_each_other():
    square = np.zeros((1, 8, 8), bool)
    square[:, 2:6, 2:6] = True
    frames = [Segments(square, np.asarray([kind])) for kind in (0, 1, 0)]
    np.testing.assert_array_equal(support(frames) > 0, [[0, 0, 1], [0, 0, 0], [1, 0, 0]])
    assert not chosen(support(frames[:2])).any()


def test_an_object_and_its_detection_become_one_and_small_ones_lie_on_top():
    tracked = np.zeros((2, 10, 12), bool)
    tracked[0, 1:7, 1:7] = tracked[1, 8:, 9:] = True
    told = np.zeros((2, 10, 12), bool)
    told[0, 2:8, 1:7] = told[1, 0:3, 4:8] = True
    got = merged(tracked, np.zeros(2, int), Segments(told, np.zeros(2, int)))
    assert got.found.tolist() == [True, False] and got.new == [1]
    np.testing.assert_array_equal(got.masks[0], (tracked[0] | told[0]) & ~told[1])
    np.testing.assert_array_equal(got.masks[1:], [tracked[1], told[1]])
    alone = merged(tracked, np.zeros(2, int), Segments(told, np.zeros(2, int)), union=False)
    np.testing.assert_array_equal(alone.masks[0], told[0] & ~told[1])
    other = merged(tracked, np.zeros(2, int), Segments(told, np.ones(2, int)))
    assert not other.found.any() and other.new == [0, 1]
    assert overlap(told[:1] & False, told)[0].tolist() == [0, 0]
    np.testing.assert_array_equal(drawn(told)[1], told[1])


@pytest.mark.slow
def test_masks_are_laid_onto_another_frame_as_the_authors_do():
    model, variables = small("deva")
    seen, told = golden.frames(), np.zeros((1, golden.OBJECTS, *golden.SIZE), np.float32)
    told[0, :2] = np.stack([*golden.masks()[0].values()])
    there = np.asarray([[True, True, False]])
    got = model.apply(variables, seen[:1], told, there, seen[7:8], method="align")
    got = np.asarray(got)[0, :3, :: golden.EVERY, :: golden.EVERY]
    np.testing.assert_allclose(got, known("deva")["aligned"], atol=2e-4)


def seen_by_chance(t):
    """Two squares that move; a third is seen once."""
    numbers = np.zeros(golden.SIZE, int)
    numbers[4 + t : 24 + t, 4:24] = 1
    numbers[20:40, 30 + t : 50 + t] = 2
    if t == 4:
        numbers[2:14, 44:60] = 3
    return segments_of(numbers)


@pytest.mark.slow
def test_the_detector_is_asked_now_and_then_and_objects_stay():
    model, variables = small("deva")
    asked, told = [], iter(range(100))

    def detect(frame):
        asked.append(next(told))
        return seen_by_chance(2)

    follow = DetectPropagate(model, variables, detect, period=4, votes=2)
    ids = [follow(golden.frames()[t]).ids.tolist() for t in range(9)]
    assert len(asked) == 1 + 2 + 2 and ids[-1][:2] == [0, 1]
    with pytest.raises(ValueError, match="1 to 3 frames vote"):
        DetectPropagate(model, variables, detect, period=3, votes=4)
