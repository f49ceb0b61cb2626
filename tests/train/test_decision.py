"""Fitting what a model knows: temperatures, curves and rules against plain counting."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from streamzoo.train.data.base import DataError
from streamzoo.train.decision import (
    Answered,
    Decision,
    Wanted,
    calibration_error,
    figures,
    fit,
    fit_domain,
    fit_temperature,
    known,
    risk_coverage,
)


@pytest.mark.parametrize("several", [True, False])
def test_the_temperature_is_the_one_that_answers_were_drawn_with(several):
    """Truth drawn from logits / 2.5; torch's loss around the optimum has no lower value."""
    rng = np.random.default_rng(0)
    z = rng.normal(0, 4, (6000, 5))
    scores = torch.tensor(z)
    if several:
        truth = rng.uniform(size=z.shape) < torch.sigmoid(scores / 2.5).numpy()
        target = torch.tensor(truth, dtype=torch.float64)
        loss = lambda t: torch.nn.functional.binary_cross_entropy_with_logits(scores / t, target)
    else:
        p = torch.softmax(scores / 2.5, -1).numpy()
        truth = (p.cumsum(axis=1) > rng.uniform(size=(len(z), 1))).argmax(axis=1)
        loss = lambda t: torch.nn.functional.cross_entropy(scores / t, torch.tensor(truth))
    found = fit_temperature(z, truth, several)
    assert found == pytest.approx(2.5, rel=0.06)
    assert loss(found) <= min(loss(found * 0.97), loss(found * 1.03))
    with pytest.raises(DataError, match="there are none"):
        fit_temperature(z[:0], truth[:0], several)


def test_curves_are_those_of_counting():
    rng = np.random.default_rng(1)
    score, right = rng.uniform(size=60), rng.uniform(size=60) < 0.6
    coverage, risk = risk_coverage(score, right)
    for share, wrong in zip(coverage, risk, strict=True):
        kept = np.sort(score)[-round(share * 60) :]
        assert wrong == pytest.approx(1 - right[np.isin(score, kept)].mean())
    sure = np.full(400, 0.8)
    assert calibration_error(sure, np.arange(400) % 5 > 0) == pytest.approx(0, abs=1e-9)
    assert calibration_error(sure, np.arange(400) % 2 > 0) == pytest.approx(0.3)


def video(rows, truth=(), rate=1.0):
    return Answered(np.asarray(rows, np.float32), rate, frozenset(truth))


def test_alarms_coverage_and_rightness_are_counted():
    rule = Decision(on=0.6, off=0.3, hold=2, several=False)
    high, held, low = [0.7, 0], [0.4, 0], [0, 0]
    found = [
        # known from the second to the fourth frame, again from the seventh on: two alarms
        video([high, high, held, held, low, high, high, high], rate=2.0),
        video([high, low, high, low]),  # never two in a row
        video([high, high, low, low], truth={0}),
        video([[0, 0.7], [0, 0.7], high, high], truth={0}),  # wrong, then right
    ]
    said = known(rule, found)
    assert said[0][:, 0].tolist() == [False, True, True, True, False, False, True, True]
    assert not said[1].any()
    f = figures(said, found)
    assert (f.videos, f.alarms) == (4, 3)
    assert f.minutes == pytest.approx((4 + 4 + 4 + 4) / 60)
    assert f.alarms_per_minute == pytest.approx(3 / f.minutes)
    # five frames of the first, and the second one of the last
    assert f.false_time == pytest.approx((5 + 1) / 20)
    assert f.coverage == 1.0 and f.right == 0.5
    assert f.covered_time == pytest.approx((1 + 2) / 8)


def noisy(rng, peak, truth, count, frames=40):
    """Videos whose best class has about this logit."""
    made = []
    for _ in range(count):
        rows = rng.normal(0, 1, (frames, 3))
        best = int(rng.integers(3))
        rows[:, best] += peak
        scores = np.asarray(PLAIN.scores(jnp.asarray(rows), jnp.zeros((frames, 1))))
        made.append(video(scores, {best} if truth else (), rate=10.0))
    return made


PLAIN = Decision(several=False)


def test_the_rule_found_is_quiet_where_it_must_be_and_speaks_where_it_can():
    rng = np.random.default_rng(2)
    inside, outside = noisy(rng, 6, True, 20), noisy(rng, 2, False, 20)
    rule, on_known, on_unknown = fit(PLAIN, inside, outside, Wanted(alarms=0.8))
    assert on_unknown.alarms_per_minute <= 0.8
    assert on_known.coverage == 1.0 and on_known.right > 0.9
    assert figures(known(rule, inside), inside) == on_known
    # other videos of the same kinds
    assert figures(known(rule, more := noisy(rng, 2, False, 40)), more).alarms_per_minute < 3
    # what cannot be told apart is not spoken of
    wanted = Wanted(alarms=0.0, holds=(4, 8))
    _, deaf, quiet = fit(PLAIN, noisy(rng, 2, True, 20), outside, wanted)
    assert quiet.alarms == 0 and deaf.coverage < 0.5
    with pytest.raises(DataError, match="videos of others"):
        fit(PLAIN, inside, [])


def test_the_domain_is_told_by_features_and_silences_what_is_outside():
    """sklearn's logistic regression is not here; torch's optimiser on the same loss is."""
    rng = np.random.default_rng(3)
    inside, outside = rng.normal(1, 2, (300, 4)), rng.normal(-1, 1, (90, 4))
    *weights, constant = found = fit_domain(inside, outside)
    x = np.concatenate([inside, outside])
    mean, spread = x.mean(0), x.std(0) + 1e-6
    z = torch.tensor((x - mean) / spread)
    sign = torch.tensor([1.0] * 300 + [-1.0] * 90, dtype=torch.float64)
    share = torch.tensor([0.5 / 300] * 300 + [0.5 / 90] * 90, dtype=torch.float64)
    w = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.LBFGS([w], max_iter=200, tolerance_grad=1e-10)

    def closure():
        adam.zero_grad()
        margin = sign * (z @ w[:4] + w[4])
        loss = share @ torch.nn.functional.softplus(-margin) + 1e-2 * w[:4] @ w[:4]
        loss.backward()
        return loss

    adam.step(closure)
    want = w.detach().numpy()
    np.testing.assert_allclose(np.asarray(weights) * spread, want[:4], atol=1e-3)
    assert constant + np.dot(weights, mean) == pytest.approx(want[4], abs=1e-3)
    rule = Decision(domain=found, several=False)
    logits = np.full((390, 2), (5.0, 0.0))
    scores = np.asarray(rule.scores(jnp.asarray(logits), jnp.asarray(x)))
    assert (scores[:300, 0] > 0.5).mean() > 0.8 and (scores[300:, 0] > 0.5).mean() < 0.2
    with pytest.raises(ValueError, match="fitted to another model"):
        rule.scores(jnp.asarray(logits), jnp.asarray(x[:, :3]))
