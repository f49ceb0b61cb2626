"""What a student learns from a teacher, without labels, through the carry."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from streamzoo.train import losses
from streamzoo.train.base import split
from streamzoo.train.data.base import DataError
from streamzoo.train.tasks import (
    DistilConfig,
)
from streamzoo.zoo import preprocess
from streamzoo.zoo.action import (
    VideoMAE,
)
from streamzoo.zoo.action.student.from_teacher import student_from_teacher

from .tiny import (
    BOXES,
    CARD,
    LANES,
    STEPS,
    Run,
    by_frame,
    close,
    distil,
    equal,
    make_batch,
    make_student,
    make_teacher,
    windows_by_hand,
)


@pytest.fixture(scope="module")
def plain():
    """A TSA student, a teacher of four frames, all three terms, learned weights."""
    return Run(distil())


# --- zero where student and teacher are the same -----------------------------------------------


def twins(size):
    """A teacher of one frame, and a student without memory that has its weights.

    The published teacher and the students pool boxes differently (maximum and mean of the cells)
    and the student's head has a norm more. On one token every pooling gives that token, and it is
    layer-normed already where the last norm has no gains, so there the two agree in everything.
    """
    shape = dict(image_size=size, frames=1, tubelet=1)
    teacher, weights = make_teacher(**shape)
    weights["params"]["norm"] = {"scale": jnp.ones(16), "bias": jnp.zeros(16)}
    student, variables = make_student("none", image_size=size)
    offline = VideoMAE(teacher.config)
    variables = student_from_teacher(student, variables, offline, weights)
    variables["params"]["roi_head"] = {
        "norm": {"scale": jnp.ones(16), "bias": jnp.zeros(16)},
        "fc": weights["params"]["head"],
    }
    return (student, variables), (teacher, weights)


@pytest.mark.slow
@pytest.mark.parametrize("multi_label", [True, False])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(multi_label):
    student, teacher = twins((16, 16))
    card = dataclasses.replace(CARD, multi_label=multi_label)
    run = Run(distil(DistilConfig(weighting="fixed"), student, teacher, card))
    batch = make_batch(size=(16, 16))
    # the older RoIAlign makes a smaller box one cell wide, and so reach over the edge
    batch |= {"boxes": jnp.zeros_like(batch["boxes"]).at[..., 2:].set(1.0)}
    loss, _, figures, grad, _ = run.slopes(batch)
    assert set(figures) == {"logits", "roi", "attention/0", "attention/1"}
    assert all(abs(float(v)) < 1e-6 for v in figures.values()) and abs(loss) < 1e-6
    close(grad, jax.tree.map(jnp.zeros_like, grad), 1e-4)
    # and it does have something to learn as soon as it is another
    moved = jax.tree.map(lambda a: a * 1.2 + 0.02, run.params)
    loss, _, figures, grad, _ = run.slopes(batch, params=moved)
    assert min(float(figures["logits"]), float(figures["roi"])) > 1e-4 and loss > 1e-3
    assert float(optax.tree.norm(grad)) > 1e-3


def test_attention_of_equal_weights_is_equal_on_a_grid_of_tokens():
    student, teacher = twins((32, 32))
    config = DistilConfig(logits=0, roi=0, weighting="fixed")
    run = Run(distil(config, student, teacher))
    loss, _, figures = run(make_batch())
    assert set(figures) == {"attention/0", "attention/1"} and abs(loss) < 1e-6
    moved = jax.tree.map(lambda a: a * 1.3, run.params)
    assert run(make_batch(), params=moved)[0] > 1e-4


# --- the terms -------------------------------------------------------------------------------


def test_all_terms_and_weights_are_reported_and_add_up(plain):
    loss, _, figures, *_ = plain.slopes(make_batch())
    names = ["logits", "roi", "attention/0", "attention/1"]
    assert set(figures) == {*names, *(f"weight/{n}" for n in names)}
    assert all(figures[f"weight/{n}"] == 1.0 for n in names)  # log-variances begin at 0
    np.testing.assert_allclose(loss, sum(float(figures[n]) for n in names), rtol=1e-5)
    assert all(figures[n] > 1e-4 for n in names)
    variance = {"logits": jnp.float32(1.0), "roi": jnp.float32(-1.0)}
    variance["attention"] = jnp.asarray([0.5, 2.0])
    changed = {**plain.params, "log_variance": variance}
    loss, _, later, grad, _ = plain.slopes(make_batch(), params=changed)
    s = dict(zip(names, (1.0, -1.0, 0.5, 2.0), strict=True))
    for name, value in s.items():
        np.testing.assert_allclose(later[f"weight/{name}"], np.exp(-value), rtol=1e-5)
    want = sum(np.exp(-v) * float(figures[n]) + v for n, v in s.items())
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    # the weights are learned by the optimum's own gradient, 1 - exp(-s) L
    want = [1 - np.exp(-s[f"attention/{i}"]) * float(figures[f"attention/{i}"]) for i in (0, 1)]
    np.testing.assert_allclose(grad["log_variance"]["attention"], want, rtol=1e-4)


@pytest.mark.parametrize("left_out", ["logits", "attention", "roi"])
def test_each_source_can_be_left_out_and_then_teaches_nothing(plain, left_out):
    off: dict[str, Any] = {left_out: 0.0}
    config = DistilConfig(weighting="fixed", **off)
    loss, _, figures = Run(distil(config))(make_batch())
    assert not any(name.startswith(left_out) for name in figures)
    whole = {n: float(v) for n, v in plain.slopes(make_batch())[2].items()}
    terms = {n: whole[n] for n in ("logits", "roi")}
    terms["attention"] = (whole["attention/0"] + whole["attention/1"]) / 2
    del terms[left_out]
    np.testing.assert_allclose(loss, sum(terms.values()), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("alone", ["attention", "roi"])
def test_one_source_alone_teaches_itself_and_nothing_else(plain, alone):
    """Attention alone and RoI features alone, the paper's ablations: the loss is the one term, the
    heads of the classes get no gradient and the blocks do."""
    weights = {"logits": 0.0, "attention": 0.0, "roi": 0.0, "person": 0.0, alone: 1.0}
    run = Run(distil(DistilConfig(weighting="fixed", **weights)))
    loss, _, figures, grad, _ = run.slopes(make_batch())
    whole = {n: float(v) for n, v in plain.slopes(make_batch())[2].items()}
    both = (whole["attention/0"] + whole["attention/1"]) / 2
    np.testing.assert_allclose(loss, {"attention": both, "roi": whole["roi"]}[alone], rtol=1e-4)
    assert {n.split("/")[0] for n in figures} == {alone}
    size = lambda tree: max(float(jnp.abs(a).max()) for a in jax.tree.leaves(tree))
    assert size(grad["student"]["blocks"]) > 0 == size(grad["student"]["roi_head"]["fc"])


def test_a_student_of_another_width_learns_through_a_projection(plain):
    student = make_student(dim=8, heads_per_block=2)
    run = Run(distil(DistilConfig(weighting="fixed"), student))
    assert run.params["project"]["kernel"].shape == (8, 16)
    roi = run(make_batch())[2]["roi"]
    project = jax.tree.map(lambda a: -a, run.params["project"])
    other = run(make_batch(), params={**run.params, "project": project})[2]["roi"]
    # of normed vectors: |a - b|^2 + |a + b|^2 = 4
    np.testing.assert_allclose(float(roi) + float(other), 4.0, atol=1e-3)
    # saved weights are the student's alone
    assert set(run.task.variables(run.params)["params"]) == set(student[1]["params"])
    assert "project" not in plain.params  # of one width


def test_heads_are_compared_one_by_one_where_there_are_as_many(plain):
    only = DistilConfig(logits=0, roi=0, weighting="fixed", match_heads=False)
    means = Run(distil(only))
    assert plain.task.heads and not means.task.heads
    one_by_one, of_means = plain.slopes(make_batch())[2], means(make_batch())[2]
    for i in range(2):  # a divergence of means is at most the mean of the divergences
        assert 0 < of_means[f"attention/{i}"] < one_by_one[f"attention/{i}"]
    # four heads and two have but means to compare
    task = distil(DistilConfig(logits=0, roi=0), make_student(heads_per_block=4))
    assert not task.heads
    assert task.rows(jnp.ones((2, 1, 1, 2, 8, 8))).shape == (2, 1, 1, 1, 4, 4)


def test_blocks_are_matched_as_asked():
    teacher = make_teacher(depth=4)
    assert distil(teacher=teacher).blocks.tolist() == [0, 3]
    assert distil(DistilConfig(blocks=(1, 2)), teacher=teacher).blocks.tolist() == [1, 2]
    with pytest.raises(ValueError, match="2 numbers from 0 to 3"):
        distil(DistilConfig(blocks=(1, 2, 3)), teacher=teacher)
    with pytest.raises(ValueError, match="2 numbers from 0 to 3"):
        distil(DistilConfig(blocks=(1, 4)), teacher=teacher)


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match=r"tokens \(2, 2\) and teacher tokens \(1, 1\)"):
        distil(teacher=make_teacher(image_size=(16, 16)))
    with pytest.raises(DataError, match="4 classes, teacher 7"):
        distil(teacher=make_teacher(num_classes=7))
    with pytest.raises(ValueError, match="is one of uncertainty, fixed"):
        DistilConfig(weighting="uncertain")
    with pytest.raises(ValueError, match="nothing to learn"):
        DistilConfig(logits=0, attention=0, roi=0)
    with pytest.raises(ValueError, match="every=0"):
        DistilConfig(every=0)
    late = Run(distil(teacher=make_teacher(lookahead=3)))
    with pytest.raises(ValueError, match="look-ahead 3"):
        late(make_batch(steps=3))


# --- nothing but the teacher teaches -----------------------------------------------------------


def test_labels_are_never_read(plain):
    batch = make_batch()
    first = plain.slopes(batch)
    blind = batch | {
        "labels": jnp.full_like(batch["labels"], jnp.nan),
        "labelled": ~batch["labelled"],
    }
    again = plain.slopes(blind)
    assert np.isfinite(again[0])
    equal(first, again)


def test_the_teacher_gets_no_gradient_and_is_no_parameter(plain):
    batch = make_batch()
    loss, *_, grad = plain.slopes(batch)
    assert len(jax.tree.leaves(grad)) > 10
    assert not any(jnp.abs(leaf).any() for leaf in jax.tree.leaves(grad))
    assert set(plain.params) == {"student", "log_variance"}
    # but what it says does matter
    other = jax.tree.map(lambda a: 1.1 * a, plain.task.constants)
    assert abs(plain.slopes(batch, constants=other)[0] - loss) > 1e-3


def test_a_frozen_stem_is_no_parameter():
    variables = {"params": {"stem": {"w": jnp.ones(3)}, "head": {"w": jnp.ones(2)}}}
    params, stem = split(variables, ("stem",))
    assert set(params) == {"head"} and set(stem) == {"stem"}
    assert set(variables["params"]) == {"stem", "head"}  # untouched


# --- the carry that it is trained through is the one it will have ------------------------------


@pytest.mark.parametrize("kind", ["shift", "lstm"])
def test_the_memory_it_hands_on_is_that_of_a_stream(kind):
    student = make_student(kind)
    run = Run(distil(student=student))
    first, second = make_batch(0), make_batch(1)
    memory = run(first)[1]
    variables = {"params": run.params["student"]}
    carry, _ = by_frame(student[0], variables, student[0].init_carry(LANES), first)
    close(memory["student"], carry, 1e-5)
    # the teacher's frames are handed on as well: three, of a window of four
    want = preprocess(first["frames"], CARD)[:, -3:]
    np.testing.assert_array_equal(memory["teacher"].frames, want)
    # a lane that begins anew forgets; the others go on as if nothing had happened
    fresh = second | {"fresh": jnp.asarray([False, True, False])}
    after = run(fresh, memory=memory)[1]
    on, new = run(second, memory=memory)[1], run(second)[1]
    lane = lambda tree, i: jax.tree.map(lambda a: a[i], tree)
    for i in (0, 2):
        equal(lane(after, i), lane(on, i))
    equal(lane(after, 1), lane(new, 1))
    carry, _ = by_frame(student[0], variables, memory["student"], second)
    close(on["student"], carry, 1e-5)


def test_a_warm_carry_matters(plain):
    memory = plain.slopes(make_batch(0))[1]
    warm, cold = plain.slopes(make_batch(1), memory=memory), plain.slopes(make_batch(1))
    assert abs(warm[0] - cold[0]) > 1e-4


@pytest.mark.slow
def test_what_comes_after_a_videos_end_has_no_say():
    config = DistilConfig(person=1.0)
    run = Run(distil(config, make_student(heads=("roi", "person"), max_boxes=BOXES)))
    valid = jnp.asarray([[True] * 6, [True] * 3 + [False] * 3, [False] * 6])
    batch, other = make_batch(0), make_batch(1)
    batch, other = batch | {"valid": valid}, other | {"valid": valid}
    mixed = {}
    for name, a in batch.items():
        if a.ndim < 2 or name == "valid":
            mixed[name] = a
            continue
        keep = valid.reshape(valid.shape + (1,) * (a.ndim - 2))
        mixed[name] = jnp.where(keep, a, other[name])
    first = run.slopes(batch)
    equal(first, run.slopes(mixed))
    whole = run.slopes(batch | {"valid": jnp.ones_like(valid)})
    assert abs(float(first[2]["logits"] - whole[2]["logits"])) > 1e-3
    # padding alone teaches nothing at all: not even that nobody is there
    _, memory, figures, grad, _ = run.slopes(batch | {"valid": jnp.zeros_like(valid)})
    assert all(float(v) == 0 for n, v in figures.items() if not n.startswith("weight"))
    assert not any(jnp.abs(leaf).any() for leaf in jax.tree.leaves(grad["student"]))
    equal(memory, run.memory)


# --- targets ---------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [0, 1, 2])
def test_the_target_is_the_teacher_on_the_window_around_the_frame(late):
    teacher = make_teacher(lookahead=late)
    task = distil(teacher=teacher)
    batch = make_batch()
    frames = preprocess(batch["frames"], CARD)
    _, want = jax.jit(lambda b: task.targets(task.constants, task.init_memory(LANES), frames, b))(
        batch
    )
    hand = windows_by_hand(*teacher, batch, late)
    assert len(hand) == STEPS - late == want["logits"].shape[1]
    # of two tubelets of two frames, the newest holds look-ahead 0 and 1, the one before 2 and 3
    tubelet = 1 - late // 2
    own = slice(4 * tubelet, 4 * tubelet + 4)
    for t, (logits, roi, attention) in enumerate(hand):
        np.testing.assert_allclose(want["logits"][:, t], logits, atol=1e-5)
        np.testing.assert_allclose(want["roi"][:, t], roi, atol=1e-5)
        rows = attention[..., own, own]
        rows = rows / rows.sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(want["attention"][:, :, t], rows, atol=1e-5)


def test_the_loss_compares_frame_with_frame(late=2):
    """All of the loss by hand, with a student run frame by frame."""
    teacher, student = make_teacher(lookahead=late), make_student()
    config = DistilConfig(attention=0, roi=0, weighting="fixed")
    run = Run(distil(config, student, teacher))
    valid = jnp.asarray([[True] * 6, [True] * 5 + [False], [True] * 6])
    batch = make_batch() | {"valid": valid}
    _, logits = by_frame(student[0], student[1], student[0].init_carry(LANES), batch)
    total = count = 0.0
    for t, (said, _, _) in enumerate(windows_by_hand(*teacher, batch, late)):
        there = batch["box_valid"][:, t] & valid[:, t, None] & valid[:, t + late, None]
        each = np.asarray(losses.soft_multi_label(logits[:, t], said))
        total += each[np.asarray(there)].sum()
        count += int(there.sum())
    np.testing.assert_allclose(run(batch)[0], total / count, rtol=1e-4)


def test_a_teacher_that_answers_rarely_teaches_those_frames_alone():
    batch = make_batch()
    batch |= {"box_valid": jnp.ones_like(batch["box_valid"])}
    config = DistilConfig(attention=0, roi=0, weighting="fixed")
    every, rare = (Run(distil(dataclasses.replace(config, every=n))) for n in (1, 4))

    def only(t):
        there = (jnp.arange(STEPS) == t)[:, None]
        return every(batch | {"box_valid": batch["box_valid"] & there})[0]

    loss, memory, _ = rare(batch)
    np.testing.assert_allclose(loss, np.mean([only(0), only(4)]), rtol=1e-5)
    # the carry of the student and the frames of the teacher go on through all of them
    equal(memory, every(batch)[1])


def test_steps_lower_the_loss(plain):
    optimiser = optax.adam(3e-3)

    @jax.jit
    def step(params, opt, grad):
        change, opt = optimiser.update(grad, opt)
        return optax.apply_updates(params, change), opt

    params, opt, curve = plain.params, optimiser.init(plain.params), []
    for _ in range(30):
        _, _, figures, grad, _ = plain.slopes(make_batch(), params=params)
        curve.append({n: float(v) for n, v in figures.items() if not n.startswith("weight")})
        params, opt = step(params, opt, grad)
    for name in curve[0]:
        assert curve[-1][name] < 0.7 * curve[0][name], (name, curve[0], curve[-1])


def test_recomputed_activations_change_nothing(plain):
    cheap = Run(distil(DistilConfig(remat=True)))
    first, second = plain.slopes(make_batch()), cheap.slopes(make_batch())
    close(first, second, 1e-5)


# --- from labels -----------------------------------------------------------------------------
