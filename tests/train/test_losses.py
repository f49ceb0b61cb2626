"""The losses of distillation: nothing to learn where both agree, and the known optima."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from streamzoo.train import losses


def draw(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def rows_of(logits):
    return jax.nn.softmax(logits, axis=-1)


# name -> loss of what a student puts out, [..., n], against a teacher's
AGREE = {
    "soft_multi_label": losses.soft_multi_label,
    "soft_multi_label at T=3": lambda s, t: losses.soft_multi_label(s, t, 3.0),
    "soft_class": losses.soft_class,
    "soft_class at T=3": lambda s, t: losses.soft_class(s, t, 3.0),
    # attention lives on the simplex: its parameters are the logits of the softmax
    "attention_divergence": lambda s, t: losses.attention_divergence(rows_of(s), rows_of(t)),
    "feature_distance": losses.feature_distance,
}


@pytest.mark.parametrize("name", AGREE)
def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient(name):
    loss = AGREE[name]
    same, other = draw(0, 3, 5, 7), draw(1, 3, 5, 7)
    value, grad = jax.value_and_grad(lambda s: loss(s, same).sum())(same)
    np.testing.assert_allclose(loss(same, same), 0.0, atol=1e-6)
    assert abs(float(value)) < 1e-5
    np.testing.assert_allclose(grad, 0.0, atol=1e-6)
    # every single comparison of things that differ costs something, and can be lowered
    value, grad = jax.value_and_grad(lambda s: loss(s, same).sum())(other)
    assert (np.asarray(loss(other, same)) > 1e-3).all()
    lower = other - 0.05 * grad / jnp.linalg.norm(grad)
    assert loss(lower, same).sum() < value - 1e-3


def test_losses_stay_finite_for_sure_teachers_and_sure_students():
    sure = jnp.asarray([[200.0, -200.0, 0.0]])
    for name, loss in AGREE.items():
        for s, t in ((sure, -sure), (-sure, sure), (sure, 0 * sure), (0 * sure, sure)):
            value, grad = jax.value_and_grad(lambda s: loss(s, t).sum())(s)
            assert np.isfinite(value) and np.isfinite(grad).all(), name


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_soft_multi_label_is_the_divergence_of_bernoullis(temperature):
    s, t = draw(2, 4, 6) * 2, draw(3, 4, 6) * 2
    p, q = (1 / (1 + np.exp(-np.float64(z) / temperature)) for z in (t, s))
    each = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    want = temperature**2 * each.mean(axis=-1)
    np.testing.assert_allclose(losses.soft_multi_label(s, t, temperature), want, rtol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_soft_class_is_the_divergence_of_softmaxes(temperature):
    s, t = draw(4, 4, 6) * 2, draw(5, 4, 6) * 2
    p, q = (np.exp(np.float64(z) / temperature) for z in (t, s))
    p, q = (z / z.sum(axis=-1, keepdims=True) for z in (p, q))
    want = temperature**2 * (p * np.log(p / q)).sum(axis=-1)
    np.testing.assert_allclose(losses.soft_class(s, t, temperature), want, rtol=1e-4)


def test_a_temperature_keeps_the_size_of_the_gradient():
    s, t = 0.01 * draw(6, 5), 0.01 * draw(7, 5)  # small logits: both are in their linear part
    for loss in (losses.soft_multi_label, losses.soft_class):
        grads = [jax.grad(lambda s: loss(s, t, k))(s) for k in (1.0, 4.0)]
        np.testing.assert_allclose(*grads, rtol=0.02, atol=1e-6)


def test_attention_divergence_is_a_mean_over_queries_of_divergences():
    s, t = rows_of(draw(8, 2, 3, 4, 4) * 2), rows_of(draw(9, 2, 3, 4, 4) * 2)
    p, q = np.float64(t), np.float64(s)
    want = (p * np.log(p / q)).sum(axis=-1).mean(axis=-1)
    np.testing.assert_allclose(losses.attention_divergence(s, t), want, rtol=1e-4)
    # keys that the teacher never looks at cost nothing by themselves
    none = jnp.asarray([[[1.0, 0.0], [0.5, 0.5]]])
    np.testing.assert_allclose(losses.attention_divergence(none, none), 0.0, atol=1e-7)


def test_feature_distance_sees_directions_and_not_gains():
    a, b = draw(10, 5, 8), draw(11, 5, 8)

    def norm(x):
        x = np.float64(x)
        x = x - x.mean(axis=-1, keepdims=True)
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6)

    want = ((norm(a) - norm(b)) ** 2).mean(axis=-1)
    np.testing.assert_allclose(losses.feature_distance(a, b), want, rtol=1e-4)
    np.testing.assert_allclose(losses.feature_distance(3 * a + 2, b), want, rtol=1e-3)
    np.testing.assert_allclose(losses.feature_distance(a, -a), 4.0, rtol=1e-3)
    grad = jax.grad(lambda x: losses.feature_distance(x, b[0]))(jnp.zeros(8))
    assert np.isfinite(grad).all()  # the empty box slots of a batch are zeros


@pytest.mark.parametrize("back", [0, 1, 2])
def test_current_rows_are_the_frames_own_rows_made_to_sum_to_one(back):
    tokens, times = 4, 3
    attention = np.asarray(rows_of(draw(12, 2, times * tokens, times * tokens) * 3))
    got = losses.current_rows(jnp.asarray(attention), tokens, back)
    want = np.zeros((2, tokens, tokens))
    first = (times - 1 - back) * tokens
    for m in range(2):
        for q in range(tokens):
            part = [float(attention[m, first + q, first + k]) for k in range(tokens)]
            want[m, q] = np.asarray(part) / sum(part)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(got.sum(axis=-1), 1.0, rtol=1e-6)


def test_current_rows_survive_a_teacher_that_never_looks_at_the_frame():
    attention = jnp.zeros((8, 8)).at[:, 0].set(1.0)  # all of it on the oldest token
    assert np.isfinite(losses.current_rows(attention, 4)).all()


# --- weights by uncertainty ------------------------------------------------------------------

TERMS = {"logits": jnp.float32(0.3), "roi": jnp.float32(2.0), "layers": jnp.asarray([4.0, 0.05])}


def zeros():
    return jax.tree.map(jnp.zeros_like, TERMS)


def test_weights_find_their_analytic_optimum():
    best = jax.tree.map(jnp.log, TERMS)
    slope = jax.grad(lambda s: losses.uncertainty_weighted(TERMS, s))
    jax.tree.map(lambda g: np.testing.assert_allclose(g, 0.0, atol=1e-6), slope(best))
    # at the optimum the sum is that of 1 + log L
    want = sum(float((1 + s).sum()) for s in jax.tree.leaves(best))
    np.testing.assert_allclose(losses.uncertainty_weighted(TERMS, best), want, rtol=1e-5)
    optimiser = optax.adam(0.1)

    @jax.jit
    def descend(s):
        def step(state, _):
            s, opt = state
            change, opt = optimiser.update(slope(s), opt)
            return (optax.apply_updates(s, change), opt), None

        return jax.lax.scan(step, (s, optimiser.init(s)), None, length=600)[0][0]

    found = descend(zeros())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-2), found, best)


def test_gradients_of_the_weighted_sum():
    s = {"logits": jnp.float32(0.5), "roi": jnp.float32(-1.0), "layers": jnp.asarray([2.0, -0.3])}
    of_losses, of_s = jax.grad(losses.uncertainty_weighted, argnums=(0, 1))(TERMS, s)
    for name in TERMS:
        np.testing.assert_allclose(of_losses[name], np.exp(-s[name]), rtol=1e-6)
        np.testing.assert_allclose(of_s[name], 1 - np.exp(-s[name]) * TERMS[name], rtol=1e-5)


def test_a_term_at_zero_is_not_weighed_without_bound():
    nothing = {"logits": jnp.float32(0.0)}
    low = {"logits": jnp.float32(-50.0)}
    value, grad = jax.value_and_grad(losses.uncertainty_weighted, argnums=1)(nothing, low)
    assert float(value) == -6.0 and float(grad["logits"]) == 0.0
    assert float(losses.uncertainty_weighted(nothing, low, -2.0)) == -2.0
    weight = jax.grad(losses.uncertainty_weighted)(nothing, low, -2.0)["logits"]
    np.testing.assert_allclose(weight, np.exp(2.0), rtol=1e-6)


def test_terms_and_weights_must_have_the_same_names():
    with pytest.raises(ValueError, match="logits.*roi"):
        losses.uncertainty_weighted({"logits": jnp.zeros(())}, {"roi": jnp.zeros(())})


# --- means and the person head ---------------------------------------------------------------


def test_masked_mean_counts_what_is_there_and_is_zero_for_nothing():
    values = jnp.asarray([[1.0, 5.0], [3.0, 100.0]])
    mask = jnp.asarray([[True, True], [True, False]])
    assert float(losses.masked_mean(values, mask)) == 3.0
    assert float(losses.masked_mean(values, 0 * mask)) == 0.0
    grad = jax.grad(lambda v: losses.masked_mean(v, mask))(values)
    np.testing.assert_allclose(grad, [[1 / 3, 1 / 3], [1 / 3, 0]], rtol=1e-6)


def test_a_generalised_iou_goes_on_where_boxes_do_not_meet():
    a = jnp.asarray([0.0, 0.0, 0.5, 1.0])
    half, touch, far = ([0.0, 0.0, 0.25, 1.0], [0.5, 0.0, 1.0, 1.0], [0.9, 0.0, 1.0, 1.0])
    assert losses.generalised_iou(a, a) == pytest.approx(1.0)
    assert losses.generalised_iou(a, jnp.asarray(half)) == pytest.approx(0.5)
    assert losses.generalised_iou(a, jnp.asarray(touch)) == pytest.approx(0.0, abs=1e-6)
    assert losses.generalised_iou(a, jnp.asarray(far)) == pytest.approx(-0.4)


def test_one_label_per_box_is_a_softmax_with_smoothing():
    logits = jax.random.normal(jax.random.key(0), (5, 3))
    labels = jax.nn.one_hot(jnp.asarray([0, 2, 1, 1, 0]), 3)
    log_p = np.log(np.exp(np.float64(logits)) / np.exp(np.float64(logits)).sum(-1, keepdims=True))
    for smoothing in (0.0, 0.3):
        target = np.float64(labels) * (1 - smoothing) + smoothing / 3
        got = losses.label_loss(logits, labels, False, smoothing)
        np.testing.assert_allclose(got, -(target * log_p).sum(-1), rtol=1e-5)
    p = np.float64(jax.nn.sigmoid(logits))
    target = np.float64(labels) * 0.8 + 0.1
    want = -(target * np.log(p) + (1 - target) * np.log(1 - p)).mean(-1)
    np.testing.assert_allclose(losses.label_loss(logits, labels, True, 0.1), want, rtol=1e-4)
