"""Nearest neighbours and the linear probe, against loops and Newton's method."""

from __future__ import annotations

import numpy as np
import pytest

from streamzoo.train.metrics.probe import knn, linear_probe


def clouds(seed, count, classes=3, dim=5, noise=1.5):
    centres = np.random.default_rng(0).normal(size=(classes, dim))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    return centres[labels] + noise * rng.normal(size=(count, dim)), labels


def knn_by_loops(train, labels, test, k, temperature):
    answers = []
    for x in test:
        near = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in train]
        votes = {}
        for i in sorted(range(len(train)), key=lambda i: -near[i])[:k]:
            votes[labels[i]] = votes.get(labels[i], 0.0) + np.exp(near[i] / temperature)
        answers.append(max(sorted(votes), key=lambda c: votes[c]))
    return answers


@pytest.mark.parametrize("k, temperature", [(20, 0.07), (1, 0.07), (7, 10.0)])
def test_neighbours_vote_as_the_loops_do(k, temperature):
    train, labels = clouds(1, 80)
    test, _ = clouds(2, 40)
    want = knn_by_loops(train, labels, test, k, temperature)
    np.testing.assert_array_equal(knn(train, labels, test, k=k, temperature=temperature), want)


def test_votes_are_weighed_by_likeness_and_not_counted():
    train = np.asarray([[1.0, 0.0], [0.5, 1.0], [0.5, 1.1]])
    assert knn(train, np.asarray([0, 1, 1]), np.asarray([[1.0, 0.05]]), k=3) == [0]
    assert knn(train, np.asarray([0, 1, 1]), np.asarray([[1.0, 0.05]]), k=3, temperature=9.0) == [1]
    # length does not matter, and fewer than k neighbours are all there are
    assert knn(10 * train, np.asarray([0, 1, 1]), np.asarray([[9.0, 0.5]]), k=20) == [0]


def newton(x, labels, decay):
    """Weights and bias of the same objective, by Newton's method in float64."""
    n, d = x.shape
    c = labels.max() + 1
    x1 = np.concatenate([x, np.ones((n, 1))], axis=1)
    w, target = np.zeros((d + 1, c)), np.eye(c)[labels]
    ridge = decay * np.repeat([1.0] * d + [0.0], c)
    for _ in range(30):
        logits = x1 @ w
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        slope = (x1.T @ (p - target) / n).reshape(-1) + ridge * w.reshape(-1)
        curve = np.zeros((d + 1, c, d + 1, c))
        for a in range(c):
            for b in range(c):
                weight = p[:, a] * ((a == b) - p[:, b])
                curve[:, a, :, b] = x1.T @ (weight[:, None] * x1) / n
        curve = curve.reshape((d + 1) * c, -1) + np.diag(ridge)
        w -= np.linalg.lstsq(curve, slope, rcond=None)[0].reshape(d + 1, c)
    return w


def test_probe_is_at_the_optimum():
    train, labels = clouds(3, 120)
    train = train * [1, 30, 0.1, 1, 1] + [5, 0, 0, -2, 0]
    probe = linear_probe(train, labels, decay=1e-2)
    mean, std = train.mean(axis=0), train.std(axis=0)
    want = newton((train - mean) / std, labels, 1e-2)
    np.testing.assert_allclose(probe.weight * std[:, None], want[:-1], atol=2e-3)
    test, truth = clouds(4, 60)
    test = test * [1, 30, 0.1, 1, 1] + [5, 0, 0, -2, 0]
    x1 = np.concatenate([(test - mean) / std, np.ones((60, 1))], axis=1)
    np.testing.assert_array_equal(probe(test), (x1 @ want).argmax(axis=1))
    assert (probe(test) == truth).mean() > 0.5


def test_a_constant_channel_does_no_harm():
    train, labels = clouds(5, 60)
    wide = np.concatenate([train, np.full((60, 1), 7.0)], axis=1)
    probe = linear_probe(wide, labels)
    assert np.isfinite(probe.weight).all() and not probe.weight[-1].any()
    assert (probe(wide) == labels).mean() > 0.5


@pytest.mark.parametrize(
    "train, labels, test",
    [
        (np.zeros((3, 2)), np.zeros(3, int), np.zeros((3, 4))),
        (np.zeros((3, 2)), np.zeros(4, int), np.zeros((3, 2))),
        (np.zeros((3, 2)), np.zeros(3), np.zeros((3, 2))),
        (np.zeros((0, 2)), np.zeros(0, int), np.zeros((3, 2))),
    ],
)
def test_shapes_that_do_not_fit_are_named(train, labels, test):
    with pytest.raises(ValueError, match="features|labels"):
        knn(train, labels, test)
    with pytest.raises(ValueError, match="k=0"):
        knn(np.ones((3, 2)), np.zeros(3, int), np.ones((3, 2)), k=0)
