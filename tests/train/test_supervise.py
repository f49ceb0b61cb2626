"""What labels teach, a student frame by frame and a teacher at every tubelet."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.train.tasks import (
    Supervise,
    SuperviseConfig,
)
from streamzoo.zoo import preprocess
from streamzoo.zoo.action import (
    VideoMAE,
)

from .tiny import (
    BOXES,
    CARD,
    CLASSES,
    LANES,
    STEPS,
    Run,
    by_frame,
    close,
    make_batch,
    make_student,
    make_teacher,
    windows_by_hand,
)


def test_a_student_learns_the_labels_of_known_boxes_in_existing_frames():
    student = make_student()
    run = Run(Supervise(student[0], CARD, student[1]))
    valid = jnp.asarray([[True] * 6, [True] * 4 + [False] * 2, [True] * 6])
    batch = make_batch() | {"valid": valid}
    batch |= {"labelled": batch["box_valid"] & (jnp.arange(STEPS) % 2 == 0)[:, None]}
    carry, logits = by_frame(student[0], student[1], student[0].init_carry(LANES), batch)
    known = np.asarray(batch["labelled"] & batch["box_valid"] & valid[..., None])
    p, y = np.float64(jax.nn.sigmoid(logits)), np.float64(batch["labels"])
    each = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(axis=-1)
    loss, memory, figures = run(batch)
    np.testing.assert_allclose(loss, each[known].mean(), rtol=1e-4)
    assert float(figures["label"]) == loss
    close(memory, carry, 1e-5)
    # labels of slots that do not count may be anything
    wrong = jnp.where(known[..., None], batch["labels"], 1 - batch["labels"])
    assert run(batch | {"labels": wrong})[0] == loss


@pytest.mark.slow
def test_a_teacher_answers_for_every_tubelet_of_a_clip_at_once():
    teacher, weights = make_teacher()
    batch = make_batch()
    x = preprocess(batch["frames"], CARD)
    offline = VideoMAE(teacher.config)
    boxes, there = batch["boxes"], batch["box_valid"]

    @jax.jit
    def ask(weights):
        dense = offline.apply(weights, x, boxes, there, method="every_tubelet")
        return dense, offline.apply(weights, x, boxes[:, -1], there[:, -1], ("features",))

    got, last = ask(weights)
    assert got.shape == (LANES, STEPS // 2, BOXES, CLASSES)
    # the last one is the ordinary answer
    valid = np.asarray(there[:, -1])
    np.testing.assert_allclose(got[:, -1][valid], last.box_logits[valid], atol=1e-5)
    # the others: each box alone, pooled from the features of its own tubelet
    head = weights["params"]["head"]

    @jax.jit
    def pool(features, boxes, valid):
        one: Any = offline.apply(
            weights, features, boxes, valid, (32, 32), method=lambda m, *a: m._pool(*a)
        )
        return one[:, 0] @ head["kernel"] + head["bias"]

    for time in range(STEPS // 2):
        for k in range(BOXES):
            slot = (slice(None), 2 * time + 1, slice(k, k + 1))
            want = pool(last.taps["features"][:, time], boxes[slot], there[slot])
            np.testing.assert_allclose(got[:, time, k], want, atol=1e-5)
    # the step of the dense teacher: each tubelet's last boxes and labels
    known = np.asarray((batch["labelled"] & there)[:, 1::2])
    p, y = np.float64(jax.nn.sigmoid(got)), np.float64(batch["labels"][:, 1::2])
    each = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(axis=-1)
    loss = Run(Supervise(teacher, CARD, weights))(batch)[0]
    np.testing.assert_allclose(loss, each[known].mean(), rtol=1e-4)
    with pytest.raises(ValueError, match="roi_time"):
        mean = dataclasses.replace(teacher.config, roi_time="mean")
        VideoMAE(mean).apply(weights, x, boxes, there, method="every_tubelet")


@pytest.mark.slow
def test_a_teacher_can_be_taught_through_its_stream(late=2):
    teacher = make_teacher(lookahead=late)
    count = STEPS - late  # all there are: the draw is then no matter
    run = Run(Supervise(teacher[0], CARD, teacher[1], SuperviseConfig(windows=count)))
    batch = make_batch()
    loss, memory, _ = run(batch)
    total, n = 0.0, 0
    for t, (logits, _, _) in enumerate(windows_by_hand(*teacher, batch, late)):
        there = np.asarray(batch["box_valid"][:, t])
        p, y = np.float64(jax.nn.sigmoid(logits)), np.float64(batch["labels"][:, t])
        each = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(axis=-1)
        total, n = total + each[there].sum(), n + there.sum()
    np.testing.assert_allclose(loss, total / n, rtol=1e-4)
    np.testing.assert_array_equal(memory.frames, preprocess(batch["frames"], CARD)[:, -3:])
    # fewer windows: another draw with another key, the same with the same
    few = Run(Supervise(teacher[0], CARD, teacher[1], SuperviseConfig(windows=2)))
    assert few(batch, key=1)[0] == few(batch, key=1)[0]
    assert len({few(batch, key=k)[0] for k in range(5)}) > 1
