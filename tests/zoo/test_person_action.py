"""What one person does: the crops, the motion of the box, the carry law; the rest is learned."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.contract import Subject, verify_contract
from streamzoo.zoo.action.decision import Decision
from streamzoo.zoo.action.person import Crops, PersonAction, PersonConfig, _moved, crops

CONFIG = PersonConfig(
    actions=("a", "b", "c"), width=6, cell=2,
    decision=Decision(several=False, on=0.34, off=0.3, hold=2, nothing=(0,)),
)  # fmt: skip


def persons(seed, batch, steps):
    """Crops of two channels, and a box that walks and grows."""
    rng = np.random.default_rng(seed)
    cells = [rng.normal(size=(batch, steps, 1, n, 2)) for n in (18, 16)]
    walk = np.cumsum(rng.normal(0, 0.01, (batch, steps, 1, 2)), axis=1) + 0.5
    half = 0.1 * np.exp(np.cumsum(rng.normal(0, 0.03, (batch, steps, 1, 2)), axis=1))
    boxes = np.concatenate([walk - half, walk + 2 * half], axis=-1)
    return Crops(*(jnp.asarray(a, jnp.float32) for a in (*cells, boxes)))


@functools.cache
def built():
    model = PersonAction(CONFIG)
    return model, model.init(jax.random.key(0), model.init_carry(1), persons(0, 1, 2))


@pytest.mark.slow  # tests/layers/test_per_slot.py has the law of what holds it
def test_the_carry_law():
    model, params = built()
    step = lambda carry, x, valid: model.apply(params, carry, x, valid)
    verify_contract(Subject(model.init_carry, step, persons))


def test_where_in_the_picture_he_is_makes_no_difference():
    model, params = built()
    x = persons(2, 1, 6)
    run = jax.jit(lambda x: model.apply(params, model.init_carry(1), x)[1])
    want, there = run(x), run(x._replace(boxes=x.boxes + 0.37))
    np.testing.assert_allclose(there.logits, want.logits, atol=1e-4)
    wider = run(x._replace(boxes=x.boxes * jnp.asarray([2.0, 1, 2, 1])))
    assert np.abs(np.asarray(wider.logits - want.logits)).max() > 1e-3


def test_motion_is_since_he_was_seen_last_in_his_own_heights():
    x = np.asarray(persons(3, 1, 9).boxes)
    valid = np.asarray([[1, 1, 0, 1, 0, 0, 1, 1, 1]], bool)
    zeros = jnp.zeros((1, 1, 4))
    last, begun, got = _moved(zeros, jnp.zeros(1, bool), jnp.asarray(x), jnp.asarray(valid))
    before = None
    for t in np.flatnonzero(valid[0]):
        x1, y1, x2, y2 = x[0, t, 0].astype(np.float64)
        now = (x1 + x2) / 2, (y1 + y2) / 2, np.log(x2 - x1), np.log(y2 - y1)
        want = [now[2] - now[3], 0, 0, 0, 0]
        if before is not None:
            change = np.subtract(now, before)
            want[1:] = np.clip(10 * np.r_[change[:2] / (y2 - y1), change[2:]], -3, 3)
        np.testing.assert_allclose(got[0, t, 0], want, rtol=1e-3, atol=2e-4)
        before = now
    np.testing.assert_array_equal(last, x[:, -1])
    assert begun.all()


def test_the_crops_are_of_the_box_and_of_what_is_beside_it():
    """On maps whose cells say where they are."""
    row, col = np.mgrid[:40, :40] + 0.5
    fine = np.stack([col / 40, row / 40], -1)[None].astype(np.float32)
    coarse = fine[:, ::2, ::2] + 0.5 / 40
    box = np.asarray([[[0.4, 0.3, 0.5, 0.6], [0, 0, 0, 0]]], np.float32)
    there = np.asarray([[True, False]])
    tight, wide = crops((jnp.asarray(fine), jnp.asarray(coarse)), jnp.asarray(box), there)
    want = np.mgrid[0.325:0.6:0.05, 0.4 + 0.1 / 6 : 0.5 : 0.1 / 3].reshape(2, -1)[::-1].T
    np.testing.assert_allclose(tight[0, 0], want, atol=1e-3)
    want = np.mgrid[0.315:0.63:0.09, 0.375:0.55:0.05].reshape(2, -1)[::-1].T
    np.testing.assert_allclose(wide[0, 0], want, atol=1e-3)
    assert not np.asarray(tight)[0, 1].any() and not np.asarray(wide)[0, 1].any()


@pytest.mark.parametrize("hold", [1, 3])
def test_what_is_known_holds_for_some_frames_and_nothing_is_never_said(hold):
    model, params = built()
    rule = Decision(several=False, on=0.36, off=0.3, hold=hold, nothing=(0,), temperature=0.5)
    model = PersonAction(PersonConfig(CONFIG.actions, 6, 2, decision=rule))
    x = persons(7, 3, 30)
    out = jax.jit(lambda x: model.apply(params, model.init_carry(3), x)[1])(x)
    scores, known = np.asarray(out.scores)[:, :, 0], np.asarray(out.known)[:, :, 0]
    want = jax.nn.softmax(out.logits[:, :, 0] / 0.5)
    np.testing.assert_allclose(scores, want, atol=1e-6)
    said = 0
    for b in range(3):
        run, now = np.zeros(3, int), None
        for t in range(30):
            best = int(scores[b, t].argmax())
            run = np.where((np.arange(3) == best) & (scores[b, t] >= 0.36), run + 1, 0)
            if now is not None and scores[b, t, now] < 0.3:
                now = None
            now = best if run[best] >= hold else now
            assert np.flatnonzero(known[b, t]).tolist() == ([now] if now else [])
            said += bool(now)
    assert 0 < said < 90
