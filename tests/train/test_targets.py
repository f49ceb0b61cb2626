"""A teacher's answers computed once: the same lessons as when it answers at every step."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.mixers import mix
from streamzoo.train.data import pipeline
from streamzoo.train.data.base import DataError
from streamzoo.train.data.stored import Mirrored
from streamzoo.train.data.synth import Synth
from streamzoo.train.targets import taught, teacher_of
from streamzoo.train.tasks import Distil, DistilConfig, prepared
from streamzoo.zoo.action import CausalViT, SlidingWindow, StudentConfig, VideoMAE, WindowConfig
from streamzoo.zoo.registry import Card

CARD = Card("test", input_size=(32, 32))
SHAPE: dict[str, Any] = dict(image_size=(32, 32), dim=16, num_classes=13)
LANES, STEPS = 2, 4


def source(**options):
    return Synth(3, seconds=3.8, frame_rate=5.0, size=(32, 32), **{"max_boxes": 2, **options})


def weights_of(model, seed):
    rng = np.random.default_rng(seed)
    frames = jnp.zeros((1, 1, 32, 32, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), model.init_carry(1), frames)
    fill = lambda a: jnp.asarray(0.3 * rng.normal(size=a.shape), jnp.float32)
    return jax.tree.map(fill, shapes)


@pytest.fixture(scope="module")
def models():
    window = WindowConfig(**SHAPE, depth=3, heads=2, frames=4, roi_time="last")
    causal = StudentConfig(
        **SHAPE, depth=2, heads_per_block=2, heads=("roi",), temporal=(mix("shift"),)
    )
    teacher, student = SlidingWindow(window), CausalViT(causal)
    return (student, weights_of(student, 0)), (teacher, weights_of(teacher, 1))


def task_of(models, online, **config):
    (student, variables), (teacher, weights) = models
    given = weights if online else None
    return Distil(student, CARD, variables, teacher, given, DistilConfig(**config))


@pytest.fixture(scope="module")
def kept(models, tmp_path_factory):
    task = task_of(models, online=False)
    return taught(source(), task, models[1][1], tmp_path_factory.mktemp("cache")), task


@pytest.mark.slow
def test_kept_answers_give_the_loss_of_answers_on_the_spot(models, kept):
    stored, offline = kept
    online = task_of(models, online=True)
    # without jitter: a showing that begins later hides frames from the teacher on the spot only
    lots = pipeline.batches(stored, LANES, STEPS, seed=0, jitter=False)
    params = online.init(jax.random.key(0))
    state = {"online": online.init_memory(LANES), "kept": offline.init_memory(LANES)}
    assert set(state["kept"]) == {"student"}  # no frames for a teacher that is not there
    runs = {"online": (jax.jit(online.loss), online), "kept": (jax.jit(offline.loss), offline)}
    seen = []
    for _ in range(6):  # across the ends of videos, with padding
        batch = next(lots)
        seen.append(batch)
        figures = {}
        for name, (run, task) in runs.items():
            args = params, task.constants, state[name], jax.random.key(0), batch
            loss, (state[name], found) = run(*args)
            figures[name] = {"loss": loss, **found}
        assert set(figures["kept"]) == set(figures["online"])
        for name, want in figures["online"].items():
            np.testing.assert_allclose(figures["kept"][name], want, rtol=1e-3, atol=1e-3)
    fresh = np.stack([b["fresh"] for b in seen])
    assert fresh[0].all() and fresh[1:].any() and not fresh.all()
    assert not all(b["valid"].all() for b in seen)


def test_what_is_kept_is_the_teacher_on_the_window_that_ends_at_the_frame(models, kept):
    stored, task = kept
    teacher, weights = models[1]
    clip = source().read(1, 0, 19)
    x = prepared(jnp.asarray(clip.frames)[None], CARD)
    offline = jax.jit(
        lambda x, b, v: VideoMAE(teacher.config).apply(weights, x, b, v, ("attention", "roi"))
    )
    for t in (0, 2, 17, 18):  # the first window is not full; 16 frames are computed at once
        index = np.arange(t - 3, t + 1).clip(min=0)
        out = offline(x[:, index], clip.boxes[None, t], clip.box_valid[None, t])
        got = stored.extras(1, t, 1)
        np.testing.assert_allclose(got["target_logits"], out.box_logits, atol=5e-3)
        np.testing.assert_allclose(got["target_roi"], out.taps["roi"], atol=5e-3)
        rows = np.asarray(out.taps["attention"])[[0, 2], 0][..., 4:, 4:]  # blocks 0 and 2 of 3
        rows = rows / rows.sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(got["target_attention"][0], rows, atol=1e-3)


def test_all_of_a_batch_has_its_lesson(kept):
    batch = next(pipeline.batches(kept[0], LANES, STEPS, seed=1))
    shapes = {n: a.shape for n, a in batch.items() if n.startswith("target_")}
    assert shapes == {
        "target_logits": (LANES, STEPS, 2, 13),
        "target_roi": (LANES, STEPS, 2, 16),
        "target_attention": (LANES, STEPS, 2, 2, 4, 4),
    }
    assert all(batch[n].dtype == np.float16 for n in shapes)


def test_answers_are_computed_once_for_the_same_teacher_and_data(models, tmp_path, monkeypatch):
    from streamzoo.train import targets

    asked = []

    def teach(source, task, variables):
        def one(video):
            asked.append(video)
            count = source.length(video)
            return {"logits": np.full((count, source.max_boxes, 13), video)}

        return one

    monkeypatch.setattr(targets, "teacher_of", teach)

    def videos(data, task, weights):
        asked.clear()
        taught(data, task, weights, tmp_path)
        return list(asked)

    (_, weights), task = models[1], task_of(models, False)
    assert videos(source(), task, weights) == [0, 1, 2]
    assert videos(source(), task, weights) == []
    assert videos(source(), task_of(models, True, temperature=2.0), weights) == []
    # anything that changes the answers
    assert videos(source(), task, jax.tree.map(lambda a: a + 1e-3, weights)) == [0, 1, 2]
    assert videos(source(max_boxes=3), task, weights) == [0, 1, 2]
    assert videos(source(split="val"), task, weights) == [0, 1, 2]
    assert videos(source(), task_of(models, False, match_heads=False), weights) == [0, 1, 2]
    assert videos(source(), task_of(models, False, blocks=(1, 2)), weights) == [0, 1, 2]
    assert videos(Mirrored(source()), task, weights) == [3, 4, 5]  # what is new of it
    # an answer for each video and its mirror image
    both = taught(Mirrored(source()), task, weights, tmp_path)
    assert [int(both.extras(v, 3, 1)["target_logits"][0, 0, 0]) for v in range(6)] == [*range(6)]


def test_a_mirror_image_has_a_lesson_of_its_own(models):
    data, task = Mirrored(source()), task_of(models, False)
    teach = teacher_of(data, task, models[1][1])
    plain, mirrored = teach(0), teach(3)
    assert np.abs(plain["logits"] - mirrored["logits"]).max() > 1e-3


def test_a_teacher_with_look_ahead_must_answer_on_the_spot(models, tmp_path):
    (student, variables), (teacher, weights) = models
    late = SlidingWindow(dataclasses.replace(teacher.config, lookahead=1))
    task = Distil(student, CARD, variables, late)
    with pytest.raises(DataError, match="keep_targets=False"):
        taught(source(), task, weights, tmp_path)
