"""AP of given boxes, top-1 and detection delay against loops that say what is meant."""

from __future__ import annotations

import math

import numpy as np
import pytest

from streamzoo.train.metrics import (
    Event,
    average_precision,
    detection_delay,
    top1,
    voc_average_precision,
)


def obvious_ap(scores, labels) -> float:
    """Each distinct score as a threshold: gained recall times precision."""
    if not labels.any():
        return math.nan
    area, before = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        said = scores >= threshold
        recall = (said & labels).sum() / labels.sum()
        area += (recall - before) * (said & labels).sum() / said.sum()
        before = recall
    return area


@pytest.mark.parametrize("levels", [3, 10, 10**6])
def test_average_precision_is_the_sum_over_thresholds(levels):
    rng = np.random.default_rng(levels)
    scores = rng.integers(0, levels, (60, 5)) / levels
    labels = rng.random((60, 5)) < [0.1, 0.5, 0.9, 0.3, 0.0]
    result = average_precision(scores, labels)
    slow = [obvious_ap(scores[:, c], labels[:, c]) for c in range(5)]
    np.testing.assert_allclose(result.per_class, slow, rtol=0, atol=1e-12)
    assert math.isnan(result.per_class[4]) and result.positives[4] == 0
    assert result.mean == pytest.approx(np.mean(slow[:4]), abs=1e-12)


def test_average_precision_has_scikit_learns_worked_example_and_ignores_order():
    scores, labels = np.array([[0.1], [0.4], [0.35], [0.8]]), np.array([[0], [0], [1], [1]])
    assert average_precision(scores, labels).mean == pytest.approx(5 / 6)
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 3, (40, 2)), rng.integers(0, 2, (40, 2))
    shuffle = rng.permutation(40)
    first, again = (
        average_precision(s, x) for s, x in ((scores, labels), (scores[shuffle], labels[shuffle]))
    )
    np.testing.assert_array_equal(first.per_class, again.per_class)


def test_rows_that_do_not_count_are_left_out():
    scores, labels = np.array([[0.9, 0.1], [0.2, 0.8], [np.nan, 1.0]]), np.eye(3, 2)
    valid = np.array([True, True, False])
    assert average_precision(scores, labels, valid).mean == 1.0
    assert top1(scores, labels, valid) == 1.0
    for measure in (average_precision, top1):
        with pytest.raises(ValueError, match=r"score \[2, 0\] is not finite"):
            measure(scores, labels)
        with pytest.raises(ValueError, match="must be the same"):
            measure(scores, np.zeros((3, 4)))
        with pytest.raises(ValueError, match="0 or 1"):
            measure(scores[:2], labels[:2] * 2)
        with pytest.raises(ValueError, match=r"valid \(2,\)"):
            measure(scores, labels, valid[:2])


def test_top1_of_numbers_and_of_several_labels():
    rng = np.random.default_rng(1)
    scores, labels = rng.random((50, 4)), rng.integers(0, 4, 50)
    wanted = np.mean([row.argmax() == label for row, label in zip(scores, labels, strict=True)])
    assert top1(scores, labels) == pytest.approx(wanted)
    several = rng.random((50, 4)) < 0.3
    rows = [(s, x) for s, x in zip(scores, several, strict=True) if x.any()]
    assert 0 < len(rows) < 50
    assert top1(scores, several) == pytest.approx(np.mean([x[s.argmax()] for s, x in rows]))
    assert math.isnan(top1(np.zeros((0, 4)), np.zeros(0, int)))
    with pytest.raises(ValueError, match="0 to 3"):
        top1(scores, labels + 1)


def test_voc_average_precision_is_the_area_under_the_envelope():
    rng = np.random.default_rng(2)
    for _ in range(20):
        hits = rng.random(rng.integers(0, 30)) < 0.4
        positives = int(hits.sum() + rng.integers(1, 4))
        found = np.cumsum(hits)
        area = 0.0
        for k in range(1, positives + 1):
            after = [found[n] / (n + 1) for n in range(len(hits)) if found[n] >= k]
            area += max(after, default=0.0) / positives
        assert voc_average_precision(hits, positives) == pytest.approx(area, abs=1e-12)
    assert math.isnan(voc_average_precision(np.ones(3, bool), 0))


def obvious_delay(scores, event, rate, latency, threshold, tolerance) -> float | None:
    slot, label, start, end = event
    for t in range(start, len(scores)):
        if t >= end and (t - end + 1) / rate > tolerance:
            return None
        own, others = scores[t, slot, label], np.delete(scores[t, slot], label)
        if (own > threshold) if threshold is not None else all(own > x for x in others):
            return (t + latency - start) / rate
    return None


@pytest.mark.parametrize("threshold", [None, 0.8])
@pytest.mark.parametrize(("latency", "tolerance"), [(0, 0.0), (3, 0.5)])
def test_delay_is_the_wait_for_the_first_correct_output(threshold, latency, tolerance):
    rng = np.random.default_rng(3)
    scores = rng.random((60, 3, 4))
    events = []
    for _ in range(40):
        start = int(rng.integers(0, 59))
        end = start + int(rng.integers(1, 7))
        events.append(Event(int(rng.integers(3)), int(rng.integers(4)), start, end))
    result = detection_delay(
        scores, events, 8.0, latency=latency, threshold=threshold, tolerance=tolerance
    )
    slow = [obvious_delay(scores, e, 8.0, latency, threshold, tolerance) for e in events]
    found = [d for d in slow if d is not None]
    assert 0 < len(found) < len(events)
    np.testing.assert_allclose(result.seconds, [math.nan if d is None else d for d in slow])
    assert result.detected == pytest.approx(len(found) / len(events))
    assert result.median == pytest.approx(np.median(found))
    assert result.mean == pytest.approx(np.mean(found))


def test_delay_by_hand():
    scores = np.zeros((10, 1, 2))
    scores[5, 0, 1] = 1.0
    assert detection_delay(scores, [(0, 1, 2, 8)], 10).seconds == pytest.approx([0.3])
    look = detection_delay(scores, [(0, 1, 2, 8)], 10, latency=4)
    assert look.mean == pytest.approx(0.7)  # the look-ahead is waited for
    early = detection_delay(scores, [(0, 1, 2, 5)], 10)
    assert early.detected == 0 and math.isnan(early.median) and math.isnan(early.mean)
    late = detection_delay(scores, [(0, 1, 2, 3)], 10, tolerance=0.3)  # 0.3 * 10 rounds below 3
    assert late.median == pytest.approx(0.3)
    assert detection_delay(scores, [(0, 1, 2, 3)], 10, tolerance=0.2).detected == 0
    ties = detection_delay(scores, [(0, 0, 0, 5)], 10)
    assert ties.detected == 0  # nothing said is not the first class
    scores[5, 0, 0] = np.nan
    assert detection_delay(scores, [(0, 1, 2, 8)], 10).detected == 0
    assert math.isnan(detection_delay(scores, [], 10).detected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"events": [(0, 2, 1, 3)]}, r"event 0 \(slot 0, label 2"),
        ({"events": [(0, 1, 3, 3)]}, "frames 3 to 3"),
        ({"events": [(0, 1, 0, 3), (0, 1, 10, 12)]}, "event 1 starts at frame 10 of 10"),
        ({"frame_rate": 0}, "frame_rate 0 must be above 0"),
        ({"latency": -1}, "latency -1"),
        ({"scores": np.zeros((10, 2))}, r"must be \[T, K, C\]"),
        ({"scores": np.zeros((10, 1, 1)), "events": []}, "give a threshold"),
    ],
)
def test_wrong_delay_input_is_named(change, words):
    given = {"scores": np.zeros((10, 1, 2)), "events": [(0, 1, 0, 3)], "frame_rate": 10} | change
    with pytest.raises(ValueError, match=words):
        detection_delay(**given)
