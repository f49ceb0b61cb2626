"""Figures of streams: against counting, numpy and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamzoo.train.live import metrics as live
from streamzoo.train.metrics import (
    auc,
    detection_map,
    f1_score,
    latency_summary,
    most_that_hold,
)


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=60))
def test_a_latency_summary_counts_every_frame_and_has_numpys_percentiles(milliseconds):
    got = latency_summary(np.asarray(milliseconds))
    assert sum(got.counts) == len(milliseconds) and got.counts[0] and got.counts[-1]
    for low, high, count in zip(got.edges, got.edges[1:], got.counts, strict=False):
        assert count == sum(low <= one < high for one in milliseconds)
    assert len(got.edges) == len(got.counts) + 1
    for q in (50, 95, 99):
        assert getattr(got, f"p{q}") == np.percentile(milliseconds, q)
    assert got.mean == pytest.approx(sum(milliseconds) / len(milliseconds))
    assert got.worst == max(milliseconds)


def test_histograms_share_their_grid():
    """So that two can be laid over each other; 10 and 100 ms are edges."""
    a, b = latency_summary(np.asarray([7.0, 300.0])), latency_summary(np.asarray([9.0, 90.0]))
    inside = [e for e in a.edges if b.edges[0] <= e <= b.edges[-1]]
    np.testing.assert_allclose(inside, b.edges)
    assert np.isclose(a.edges, 10).any() and np.isclose(a.edges, 100).any()


@pytest.mark.parametrize("wrong", [[], [0.0], [-1.0], [math.nan], [math.inf]])
def test_no_latency_or_an_impossible_one_is_refused(wrong):
    with pytest.raises(ValueError, match="at least one, all of them above 0"):
        latency_summary(np.asarray(wrong))


SCORES = st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2, max_size=30)


@given(SCORES)
def test_f1_and_auc_are_those_of_counting(examples):
    scores = np.asarray([s for s, _ in examples]) / 10
    truth = np.asarray([t for _, t in examples])
    for limit in np.unique(scores):
        found = scores > limit
        both = sum(1 for f, t in zip(found, truth, strict=True) if f and t)
        wrong = sum(1 for f, t in zip(found, truth, strict=True) if f != t)
        want = 2 * both / (2 * both + wrong) if both + wrong else math.nan
        assert f1_score(found, truth) == pytest.approx(want, nan_ok=True)
    if truth.all() or not truth.any():
        assert math.isnan(auc(scores, truth))
        return
    good, bad = scores[truth], scores[~truth]
    pairs = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(good, bad)]
    assert auc(scores, truth) == pytest.approx(np.mean(pairs))
    limits = [math.inf, *sorted(set(scores.tolist()), reverse=True)]  # and the curve's own area
    x, y = ([float((kind >= limit).mean()) for limit in limits] for kind in (bad, good))
    assert auc(scores, truth) == pytest.approx(np.trapezoid(y, x))
    assert live.auc is auc and live.f1_score is f1_score


@given(st.integers(0, 200), st.integers(1, 130))
def test_the_most_streams_that_are_held(most, limit):
    asked = []

    def holds(streams):
        asked.append(streams)
        return streams <= most

    assert most_that_hold(holds, limit) == max(n for n in range(limit + 1) if n <= most)
    assert len(asked) == len(set(asked)) and min(asked) >= 1 and max(asked) <= limit
    assert len(asked) <= 2 * math.log2(limit) + 2


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_an_answer_among_noisy_trials_was_held_and_its_successor_was_not(held):
    got = most_that_hold(lambda n: held[n - 1], len(held))
    assert got == 0 or held[got - 1]
    assert got == len(held) or not held[got]
    with pytest.raises(ValueError, match="at least 1 stream"):
        most_that_hold(lambda n: True, 0)


def brute_map(boxes, valid, scores, true_boxes, labels):
    """One class after the other, one box after the other; scores are all different."""

    def iou(a, b):
        w, h = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
        both = max(w, 0) * max(h, 0)
        size = lambda z: (z[2] - z[0]) * (z[3] - z[1])
        return both / (size(a) + size(b) - both)

    each = []
    for c in range(labels.shape[-1]):
        wanted = {(n, j) for n, j in np.argwhere(labels[..., c] > 0).tolist()}
        if not wanted:
            continue
        claimed, hits = set(), []
        for n, k in sorted(np.argwhere(valid).tolist(), key=lambda at: -scores[(*at, c)]):
            here = [(iou(boxes[n, k], true_boxes[n, j]), j) for m, j in wanted if m == n]
            best, j = max(here, default=(0.0, 0), key=lambda one: one[0])
            hits.append(best >= 0.5 and (n, j) not in claimed)
            if hits[-1]:
                claimed.add((n, j))
        found = np.cumsum(hits) if hits else np.zeros(0)
        precision = found / np.arange(1, len(hits) + 1)
        area = sum(precision[i:].max() / len(wanted) for i in range(len(hits)) if hits[i])
        each.append(area)
    return float(np.mean(each))


@pytest.mark.parametrize("seed", range(8))
def test_detection_map_is_that_of_brute_force(seed):
    rng = np.random.default_rng(seed)
    n, k, j, c = 25, 4, 2, 3
    low = rng.uniform(0, 0.4, (n, j, 2))
    true_boxes = np.concatenate([low, low + rng.uniform(0.3, 0.6, low.shape)], -1)
    labels = (rng.random((n, j, c)) < 0.3).astype(np.float32)
    source = np.concatenate([true_boxes, rng.permutation(true_boxes)], axis=1)
    boxes = np.clip(source + rng.normal(0, 0.04, source.shape), 0, 1)
    valid = rng.random((n, k)) < 0.8
    scores = rng.permutation(n * k * c).reshape(n, k, c) / (n * k * c)
    got = detection_map(boxes, valid, scores, true_boxes, labels)
    assert got == pytest.approx(brute_map(boxes, valid, scores, true_boxes, labels))
    assert 0.05 < got < 0.95


def test_detection_map_at_its_ends():
    boxes = np.tile([0.1, 0.1, 0.6, 0.7], (4, 1, 1))
    labels = np.eye(4, 2)[:, None]  # two frames with a box each, two empty ones
    valid = np.asarray(labels.any(-1))
    assert detection_map(boxes, valid, labels, boxes, labels) == 1.0
    assert math.isnan(detection_map(boxes, valid, labels, boxes, np.zeros_like(labels)))
    assert detection_map(boxes, valid & False, labels, boxes, labels) == 0.0
    # the same box in both empty frames, surer than the right one: one of three is right
    everywhere = np.ones((4, 1), bool)
    sure = np.where(valid[..., None], 0.5 * labels, 0.9)
    assert detection_map(boxes, everywhere, sure, boxes, labels) == pytest.approx(1 / 3)
