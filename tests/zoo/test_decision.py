"""What an action model knows: the rule against a plain loop, and the model that keeps to it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.zoo import create_model
from streamzoo.zoo.action.decision import Decision, decide, nobody

from .drawn import drawn


def overlap(a, b):
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    inter = np.prod(np.maximum(high - low, 0))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inter
    return inter / union if union else 0.0


def plain(decision, scores, boxes, there, valid):
    """One stream, frame by frame and class by class, in plain words."""
    before, answers = [], []
    for s, b, t, here in zip(scores, boxes, there, valid, strict=True):
        said = np.zeros(s.shape, bool)
        if here:
            now = []
            for k in np.flatnonzero(t):
                run, known = [0] * s.shape[1], [False] * s.shape[1]
                if before:
                    near = max(before, key=lambda p: overlap(b[k], p[0]))
                    if overlap(b[k], near[0]) >= 0.3:
                        run, known = near[1], near[2]
                best = range(s.shape[1]) if decision.several else [int(np.argmax(s[k]))]
                run = [
                    min(run[c] + 1, decision.hold) if c in best and s[k, c] >= decision.on else 0
                    for c in range(s.shape[1])
                ]
                new = [n >= decision.hold for n in run]
                known = [known[c] and s[k, c] >= decision.off for c in range(s.shape[1])]
                if decision.several:
                    known = [a or b for a, b in zip(known, new, strict=False)]
                elif any(new):
                    known = new
                now.append((b[k], run, known))
                said[k] = [y and c not in decision.nothing for c, y in enumerate(known)]
            before = now
        answers.append(said)
    return np.stack(answers)


def walk(seed, steps=40, persons=3, classes=4):
    """Persons that move, come and go; scores that rise and fall slowly."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, 0.6, (persons, 2))
    at = start + np.cumsum(rng.normal(0, 0.03, (steps, persons, 2)), axis=0)
    boxes = np.concatenate([at, at + 0.3], axis=-1)
    scores = np.cumsum(rng.normal(0, 0.6, (steps, persons, classes)), axis=0)
    there = rng.uniform(size=(steps, persons)) < 0.9
    order = np.stack([rng.permutation(persons) for _ in range(steps)])  # slots are no identities
    pick = lambda a: np.take_along_axis(a, order.reshape(*order.shape, *[1] * (a.ndim - 2)), 1)
    valid = rng.uniform(size=steps) < 0.85
    return pick(scores), pick(boxes), pick(there), valid


@pytest.mark.parametrize("several", [True, False])
def test_known_is_what_the_rule_says(several):
    rule = Decision(on=0.8, off=0.1, hold=3, several=several, nothing=(2,))
    runs = [walk(seed) for seed in range(8)]
    scores, boxes, there, valid = (jnp.asarray(np.stack(a)) for a in zip(*runs, strict=True))
    scores, boxes = scores.astype(jnp.float32), boxes.astype(jnp.float32)
    state, got = decide(rule, nobody(8, 3, 4), scores, boxes, there, valid)
    want = np.stack([plain(rule, *map(np.asarray, run)) for run in
                     zip(scores, boxes, there, valid, strict=True)])  # fmt: skip
    np.testing.assert_array_equal(got, want)
    assert 50 < want.sum() < want.size / 2 and not want[..., 2].any()
    assert int(state.run.max()) <= rule.hold


def test_a_rule_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="off=2.*at most on=1"):
        Decision(on=1.0, off=2.0)


TINY = dict(
    image_size=(32, 32), dim=16, depth=2, heads_per_block=2, num_classes=3, max_boxes=2, roi_size=3
)
DOMAIN = tuple(np.linspace(-1, 1, 17).tolist())
RULE: dict[str, Any] = dict(temperature=0.7, domain=DOMAIN, on=0.2, off=0.1, hold=2, several=False)


@functools.cache
def students():
    plain_, ruled = (create_model("tsa-s16", **TINY, decision=d) for d in (None, RULE))
    params = drawn("tsa-s16", 0.2, **TINY)
    return plain_, ruled, params


def frames(seed, batch, steps):
    return jax.random.normal(jax.random.key(seed), (batch, steps, 32, 32, 3))


def test_a_model_with_a_rule_has_calibrated_logits_and_tells_what_it_knows():
    free, ruled, params = students()
    assert ruled.config.decision == Decision(**RULE)  # as a card's JSON states it
    x = frames(0, 2, 9)
    _, raw = jax.jit(free.apply)(params, free.init_carry(2), x)
    _, out = jax.jit(ruled.apply)(params, ruled.init_carry(2), x)
    assert raw.known is None and raw.box_known is None
    np.testing.assert_allclose(out.logits, raw.logits / 0.7, rtol=1e-5)
    _, tapped = jax.jit(functools.partial(free.apply, taps=("features",)))(
        params, free.init_carry(2), x
    )
    seen = np.asarray(tapped.taps["features"]).mean(axis=(2, 3))
    inside = 1 / (1 + np.exp(-(seen @ np.asarray(DOMAIN[:-1]) + DOMAIN[-1])))
    scores = np.asarray(jax.nn.softmax(out.logits)) * inside[..., None]
    whole = np.broadcast_to(np.asarray([0, 0, 1, 1.0]), (9, 1, 4))
    for b in range(2):
        want = plain(
            Decision(**RULE), scores[b][:, None], whole, np.ones((9, 1), bool),
            np.ones(9, bool),
        )  # fmt: skip
        np.testing.assert_array_equal(out.known[b], want[:, 0])
    assert 0 < int(out.known.sum()) < out.known.size


@pytest.mark.parametrize(
    "law",
    [
        contract.check_slots,
        contract.check_fixed_point,
        *[
            pytest.param(law, marks=pytest.mark.slow)
            for law in contract.LAWS
            if law not in (contract.check_slots, contract.check_fixed_point)
        ],
    ],
)
def test_carry_law(law):
    _, ruled, params = students()
    law(Subject.of(ruled, params, frames))
