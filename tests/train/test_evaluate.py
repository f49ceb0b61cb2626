"""Evaluation: one frame at a time through the carry, every figure checked by hand."""

from __future__ import annotations

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.mixers import mix
from streamzoo.train.data.base import Clip, Source
from streamzoo.train.data.stored import Subset
from streamzoo.train.evaluate import answers, evaluate, find_persons
from streamzoo.train.metrics import figure
from streamzoo.train.metrics.average_precision import average_precision
from streamzoo.train.metrics.persons import Found, match, persons
from streamzoo.zoo import preprocess
from streamzoo.zoo.action import CausalViT, SlidingWindow, StudentConfig, VideoMAE, WindowConfig
from streamzoo.zoo.registry import Card

CARD = Card("test", input_size=(32, 32))
ONE = Card("test", input_size=(32, 32), multi_label=False)
CLASSES, BOXES = 3, 2


class Videos(Source):
    """Random videos of different lengths, in memory."""

    classes = ("a", "b", "c")
    frame_rate = 5.0

    def __init__(self, lengths=(5, 9, 7), multi_label=True, seed=0):
        rng = np.random.default_rng(seed)
        self.multi_label, self.size, self.max_boxes = multi_label, (32, 32), BOXES
        self.videos, self.skipped = tuple(f"v{i}" for i in range(len(lengths))), {}
        self.clips = []
        for i, n in enumerate(lengths):
            low = rng.uniform(0, 0.4, (n, BOXES, 2))
            boxes = np.concatenate([low, low + rng.uniform(0.3, 0.6, low.shape)], -1)
            there = rng.random((n, BOXES)) < 0.8
            there[:, 0] = True
            labels = (rng.random((n, BOXES, CLASSES)) < 0.4).astype(np.float32)
            if not multi_label:
                labels = np.broadcast_to(np.eye(CLASSES, dtype=np.float32)[i % 3], labels.shape)
            known = there & (rng.random(there.shape) < 0.7)
            frames = rng.integers(0, 256, (n, 32, 32, 3), np.uint8)
            self.clips.append(
                Clip(frames, boxes.astype(np.float32), there, there * 1.0, labels, known)
            )

    def length(self, video):
        return len(self.clips[video].frames)

    def read(self, video, start, count):
        return Clip(*(a[start : start + count] for a in self.clips[video]))


def weights_of(model, seed=0):
    rng = np.random.default_rng(seed)
    frames = jnp.zeros((1, 1, 32, 32, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), model.init_carry(1), frames)
    return jax.tree.map(lambda a: jnp.asarray(0.3 * rng.normal(size=a.shape), jnp.float32), shapes)


def student():
    shape: dict[str, Any] = dict(
        image_size=(32, 32), dim=16, depth=1, heads_per_block=2, num_classes=CLASSES
    )
    model = CausalViT(StudentConfig(**shape, heads=("roi",), temporal=(mix("shift"),)))
    return model, weights_of(model)


def teacher(late):
    shape: dict[str, Any] = dict(
        image_size=(32, 32), dim=16, depth=1, heads=2, num_classes=CLASSES, frames=4
    )
    model = SlidingWindow(WindowConfig(**shape, roi_time="last", lookahead=late))
    return model, weights_of(model)


@pytest.mark.slow
def test_frame_by_frame_is_the_whole_clip():
    data = Videos()
    model, variables = student()
    # two lanes for three videos: the last round is not full
    stream = list(answers(model, variables, CARD, data, lanes=2))
    clip = list(answers(model, variables, CARD, data, lanes=2, clip=True))
    assert [a.video for a in stream] == [0, 1, 2]
    for a, b, truth in zip(stream, clip, data.clips, strict=True):
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)
        assert a.scores.shape == truth.labels.shape
        for name in ("box_valid", "labels", "labelled"):
            np.testing.assert_array_equal(getattr(a, name), getattr(truth, name))
    # and each video alone, with nothing beside or behind it
    for i, truth in enumerate(data.clips):
        x = preprocess(truth.frames[None], CARD)
        _, out = model.apply(
            variables, model.init_carry(1), x, boxes=truth.boxes[None],
            box_valid=truth.box_valid[None],
        )  # fmt: skip
        want = jax.nn.sigmoid(out.box_logits[0])
        np.testing.assert_allclose(stream[i].scores, want, atol=1e-5)


@pytest.mark.parametrize("late", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_answers_of_a_teacher_with_look_ahead_are_moved_to_their_frames(late):
    data = Videos((5, 9))
    model, variables = teacher(late)
    stream = list(answers(model, variables, CARD, data, lanes=2))
    offline = jax.jit(lambda x, b, v: VideoMAE(model.config).apply(variables, x, b, v).box_logits)
    for a, truth in zip(stream, data.clips, strict=True):
        x, n = preprocess(truth.frames, CARD), len(truth.frames)
        for t in range(n):
            # before the first and after the last frame those stand in
            index = np.arange(t + late - 3, t + late + 1).clip(0, n - 1)
            logits = offline(x[index][None], truth.boxes[None, t], truth.box_valid[None, t])[0]
            want = np.where(truth.box_valid[t, :, None], jax.nn.sigmoid(logits), 0.5)
            np.testing.assert_allclose(a.scores[t], want, atol=1e-5)


def test_mean_average_precision_is_over_all_known_boxes_of_all_frames():
    data = Videos()
    model, variables = student()
    figures = evaluate(model, variables, CARD, data)
    scores, labels = [], []
    for a in answers(model, variables, CARD, data):
        for t, k in np.ndindex(a.labelled.shape):
            if a.labelled[t, k] and a.box_valid[t, k]:
                scores.append(a.scores[t, k])
                labels.append(a.labels[t, k])
    want = average_precision(np.asarray(scores), np.asarray(labels))
    assert figures["mAP"] == pytest.approx(want.mean, abs=1e-9)
    for name, ap in zip(data.classes, want.per_class, strict=True):
        assert figures[f"AP/{name}"] == pytest.approx(ap, abs=1e-9)


class Fake:
    """Says what it was told: log-probabilities by the number that is in a frame's pixels."""

    config = types.SimpleNamespace(patch=16, lookahead=0)

    def __init__(self, table, late=0):
        self.table, self.latency = jnp.log(jnp.asarray(table, jnp.float32)), late

    def init_carry(self, lanes, shape=None):
        return jnp.zeros((lanes, self.latency), jnp.int32)

    def apply(self, variables, carry, frames, valid, *, boxes, box_valid):
        number = jnp.round(frames[:, :, 0, 0, 0] * 255).astype(jnp.int32)
        line = jnp.concatenate([carry, number], axis=1)
        said = self.table[line[:, : frames.shape[1]]]  # [B, T, C]
        logits = jnp.broadcast_to(said[:, :, None], (*boxes.shape[:3], said.shape[-1]))
        return line[:, frames.shape[1] :], types.SimpleNamespace(box_logits=logits)


def numbered(lengths, labels):
    """Videos whose frames are numbered through, with a label each."""
    data = Videos(lengths, multi_label=False)
    low = 0
    for i, n in enumerate(lengths):
        clip = data.clips[i]
        frames = np.broadcast_to(np.arange(low, low + n, dtype=np.uint8)[:, None, None, None],
                                 clip.frames.shape)  # fmt: skip
        hot = np.broadcast_to(np.eye(CLASSES, dtype=np.float32)[labels[i]], clip.labels.shape)
        data.clips[i] = clip._replace(frames=frames, labels=hot)
        low += n
    return data


@pytest.mark.parametrize("late", [0, 1])
def test_figures_of_one_label_per_video(late):
    data = numbered((3, 2, 2), labels=(0, 1, 1))
    table = [
        [0.9, 0.1, 0.0001], [0.4, 0.6, 0.0001], [0.3, 0.6, 0.1],  # mean right, last wrong
        [0.5, 0.4, 0.1], [0.1, 0.8, 0.1],  # mean right, last right
        [0.2, 0.7, 0.1], [0.9, 0.05, 0.05],  # mean wrong, last wrong
    ]  # fmt: skip
    card = Card("test", input_size=(32, 32), multi_label=False, mean=(0,) * 3, std=(1,) * 3)
    figures = evaluate(Fake(table, late), {}, card, data)
    want = {
        "top1": 2 / 3,
        "top1_last": 1 / 3,
        "top1_frame": 3 / 7,
        "class/a": 1.0,
        "class/b": 0.5,
        "lookahead_s": late / 5,
    }
    assert np.isnan(figures.pop("class/c"))  # which has no video
    assert figures == pytest.approx(want)


def test_a_class_without_an_example_has_no_average_precision():
    data = Videos((4, 4))
    for i, clip in enumerate(data.clips):
        labels = clip.labels.copy()
        labels[..., 2] = 0
        data.clips[i] = clip._replace(labels=labels)
    model, variables = student()
    figures = evaluate(model, variables, CARD, data)
    assert np.isnan(figures["AP/c"])
    assert figures["mAP"] == pytest.approx((figures["AP/a"] + figures["AP/b"]) / 2)


def test_videos_without_a_label_are_no_class():
    data = numbered((2, 2, 2), labels=(0, 1, 1))
    unknown = data.clips[2]
    data.clips[2] = unknown._replace(labelled=np.zeros_like(unknown.labelled))
    for i in (0, 1):
        data.clips[i] = data.clips[i]._replace(labelled=np.ones_like(unknown.labelled))
    table = np.eye(3)[[0, 0, 1, 1, 0, 0]]
    card = Card("test", input_size=(32, 32), multi_label=False, mean=(0,) * 3, std=(1,) * 3)
    figures = evaluate(Fake(table), {}, card, data)
    assert figures["top1"] == figures["class/a"] == figures["class/b"] == 1.0
    for i in (0, 1):
        data.clips[i] = data.clips[i]._replace(labels=np.zeros_like(unknown.labels))
    figures = evaluate(Fake(table), {}, card, data)
    assert all(np.isnan(v) for name, v in figures.items() if name != "lookahead_s")


def test_delays_want_a_label_on_every_frame():
    """On keyframes alone every run would be one frame long, and its delay a constant 0."""
    data, (model, variables) = Videos((6, 6)), student()
    assert not np.isnan(evaluate(model, variables, CARD, data)["detected"])
    data.dense = False
    for one in (data, Subset(data, [1])):
        figures = evaluate(model, variables, CARD, one)
        assert np.isnan(figures["detected"]) and np.isnan(figures["delay_s"])
        assert not np.isnan(figures["mAP"])


class Finds:
    """A person head that finds one box in every frame, or none."""

    def __init__(self, boxes):
        self.boxes = jnp.asarray(boxes, jnp.float32).reshape(-1, 4)

    def init_carry(self, lanes):
        return jnp.zeros((lanes, 1))

    def apply(self, variables, carry, frames, valid):
        shape = (*frames.shape[:2], *self.boxes.shape)
        boxes = jnp.broadcast_to(self.boxes, shape)
        there = jnp.ones(shape[:-1], bool)
        return carry, types.SimpleNamespace(boxes=boxes, box_valid=there)


@pytest.mark.parametrize("found", [0, 1])
@pytest.mark.parametrize("there", [0, 1])
def test_persons_where_there_are_none_or_none_is_found(found, there):
    """TP / P and TP / (TP + FP): n/a where the denominator is 0, else a true figure."""
    data = Videos((3,))
    clip = data.clips[0]
    boxes = np.broadcast_to(np.float32([0.1, 0.1, 0.6, 0.6]), clip.boxes.shape)
    persons = np.zeros_like(clip.persons)
    persons[:, :there] = 0.9
    data.clips[0] = clip._replace(boxes=boxes, persons=persons)
    figures = find_persons(Finds([[0.1, 0.1, 0.6, 0.6]] * found), {}, CARD, data)
    recall = found if there else np.nan
    precision = there if found else np.nan
    np.testing.assert_equal(figures, {"person_recall": recall, "person_precision": precision})
    assert figure(np.nan) == "n/a" and figure(0.0) == "0"


def test_persons_are_matched_one_to_one():
    boxes = np.asarray([[0.0, 0.0, 0.4, 0.8], [0.5, 0.0, 0.9, 0.8], [0.1, 0.1, 0.2, 0.2]])
    scores = np.asarray([0.9, 0.2, 0.0])
    near = boxes[0] + 0.02
    assert match(near[None], boxes, scores, 0.4) == Found(1, 1, 1)
    assert match(np.stack([near, boxes[0]]), boxes, scores, 0.4) == Found(1, 2, 1)  # twice
    assert match(boxes[1:2], boxes, scores, 0.4) == Found(0, 0, 1)  # a weak one
    assert match(boxes[2:3], boxes, scores, 0.4) == Found(0, 1, 1)  # an empty slot
    both = match(near[None], boxes, scores, 0.4) + match(boxes[2:3], boxes, scores, 0.4)
    assert both == Found(1, 2, 2)
    assert persons(both) == {"person_recall": 0.5, "person_precision": 0.5}
