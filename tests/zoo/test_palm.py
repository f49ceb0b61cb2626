"""The palm detector: equal to the published network on real frames, the carry law, its points."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import streamzoo
from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.zoo import create_model
from streamzoo.zoo.convert import ConvertError, convert_checkpoint
from streamzoo.zoo.encode.stems import filled, make_stem, stem_width
from streamzoo.zoo.files import load_file
from streamzoo.zoo.pose.palm.model import PalmConfig, PalmNet, cells
from streamzoo.zoo.pose.palm.stem import move
from streamzoo.zoo.resolve import find_weights
from streamzoo.zoo.trees import flatten
from tests.zoo.mediapipe_runtime import graph

from .drawn import drawn

GOLDEN = Path(__file__).parent / "data" / "palm.npz"  # by golden_palm.py
needs_graph = pytest.mark.skipif(graph() is None, reason="mediapipe 0.10.21 is not on the path")


@functools.cache
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@functools.cache
def bundled():
    return streamzoo.load("palm-lite/mediapipe")[1]


def plain(values, logits, *, slots=2, threshold=0.5, least=0.3):
    """Palms of one picture from the network's answers, as MediaPipe's calculators describe it:
    [(score, [9, 2] box corners and points in pixels)], best first."""
    scores = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -100, 100)))
    values = values.astype(np.float64)
    middles = values[:, :2] + cells((192, 192))
    boxes = np.concatenate([middles - values[:, 2:4] / 2, middles + values[:, 2:4] / 2], axis=1)
    points = values[:, 4:].reshape(-1, 7, 2) + cells((192, 192))[:, None]
    left, found = {i for i in range(len(scores)) if scores[i] > threshold}, []

    def overlap(a, b):
        size = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
        inter = max(size[0], 0) * max(size[1], 0)
        area = lambda c: (c[2] - c[0]) * (c[3] - c[1])
        return inter / (area(a) + area(b) - inter)

    while left and len(found) < slots:
        best = max(left, key=lambda i: scores[i])
        same = [i for i in left if overlap(boxes[i], boxes[best]) > least]
        total = sum(scores[i] for i in same)
        every = lambda i: np.concatenate([boxes[i].reshape(2, 2), points[i]])
        found.append((scores[best], sum(scores[i] * every(i) for i in same) / total))
        left -= set(same)
    return found


@functools.cache
def run():
    net = PalmNet(PalmConfig())
    return jax.jit(net.apply), jax.jit(lambda v, x: net.apply(v, x, method="find"))


@pytest.mark.slow
def test_answers_are_those_of_the_published_network():
    """By the runtime of TensorFlow Lite, per anchor; and the palms by a plain walk over them."""
    g = golden()
    raw, find = run()
    x = g["frames"].astype(np.float32) / 255
    values, logits = (np.asarray(a) for a in raw(bundled(), x))
    np.testing.assert_allclose(values, g["values"], atol=2e-3)  # pixels
    np.testing.assert_allclose(logits, g["logits"], atol=5e-4)
    found = jax.tree.map(np.asarray, find(bundled(), x))
    count = 0
    for i in range(len(x)):
        want = plain(g["values"][i], g["logits"][i])
        assert found.valid[i].sum() == len(want)
        for k, (score, every) in enumerate(want):
            count += 1
            np.testing.assert_allclose(found.scores[i, k], score, atol=1e-4)
            np.testing.assert_allclose(found.boxes[i, k].reshape(2, 2) * 192,
                                       every[:2].clip(0, 192), atol=5e-3)  # fmt: skip
            np.testing.assert_allclose(found.keypoints[i, k, :, :2] * 192, every[2:], atol=5e-3)
    assert count >= 2


@needs_graph
def test_converting_makes_the_bundled_file():
    plan, variables = convert_checkpoint(graph())
    assert (plan.model, dict(plan.overrides), plan.dtype) == ("palm-lite", {}, "float16")
    stored, header = load_file(find_weights("palm-lite/mediapipe"))
    made, stored = flatten(variables), flatten(stored)
    assert header["model"] == plan.model and made.keys() == stored.keys()
    assert all(np.array_equal(made[k], stored[k]) for k in made)  # float16 loses nothing


@needs_graph
def test_a_network_of_another_depth_is_refused():
    full = graph("modules/palm_detection/palm_detection_full.tflite")
    with pytest.raises(ConvertError, match=re.escape("weights and")):
        convert_checkpoint(full)


@pytest.mark.slow
def test_points_are_fractions_of_the_frame_whatever_its_shape():
    """A frame twice as wide as high fills the upper half of what the network sees."""
    model, params = tiny()
    rng = np.random.default_rng(1)
    wide = np.repeat(np.repeat(rng.random((1, 32, 64, 3), np.float32), 2, axis=1), 2, axis=2)
    seen = np.pad(wide[:, ::2, ::2], ((0, 0), (0, 32), (0, 0), (0, 0)))
    find = jax.jit(functools.partial(model.apply, method=lambda m, x: m.net.find(x)))
    a, b = find(params, wide), find(params, seen)
    assert np.ptp(np.asarray(b.keypoints[..., :2])) > 0.1
    np.testing.assert_allclose(a.keypoints[..., 0], b.keypoints[..., 0], rtol=1e-4)
    np.testing.assert_allclose(a.keypoints[..., 1], 2 * b.keypoints[..., 1], rtol=1e-4)
    np.testing.assert_allclose(a.boxes[..., 1], (2 * b.boxes[..., 1]).clip(0, 1), rtol=1e-4)


@pytest.mark.slow
def test_the_stem_is_the_surest_palm():
    stem = make_stem("palm-points")
    frames = golden()["frames"].astype(np.float32) / 255
    x = np.asarray(jax.jit(functools.partial(stem.apply, method="pyramid"))(bundled(), frames))
    assert x.shape == (2, 1, 1, stem_width("palm-points"))
    for i in range(2):
        answers = golden()["values"][i], golden()["logits"][i]
        score, every = plain(*answers, slots=1, threshold=0.2)[0]
        middle, size = every[:2].mean(axis=0), every[1] - every[0]
        want = np.concatenate([[middle / 192 - 0.5, size / 192], every[2:] / 192 - 0.5]).ravel() * 4
        np.testing.assert_allclose(x[i, 0, 0], [score, *want], atol=1e-3)
    black = jax.jit(functools.partial(stem.apply, method="pyramid"))(bundled(), 0 * frames)
    assert not np.asarray(black).any()  # nobody is there


def test_moved_points_are_those_of_a_moved_hand():
    x = np.zeros((3, 1, 1, 19), np.float32)
    x[:2, ..., 0] = 0.9
    x[:2, ..., 1:] = np.random.default_rng(0).normal(size=(2, 1, 1, 18))
    turn, shift = np.array([[0.0, -2.0], [2.0, 0.0]]), np.array([1.0, -1.0])
    y = move(x, turn, shift)
    a, b = x[:2, 0, 0], y[:2, 0, 0]
    for k in (1, 5):
        want = np.stack([1 - 2 * a[:, k + 1], 2 * a[:, k] - 1], axis=1)
        np.testing.assert_allclose(b[:, k : k + 2], want, rtol=1e-5)
    np.testing.assert_allclose(b[:, 3:5], 2 * a[:, 3:5], rtol=1e-5)  # a size does not turn
    assert not y[2].any()


@functools.cache
def tiny():
    shape = dict(image_size=(64, 64), widths=(4, 4, 8, 8, 8), threshold=0.0)
    params = drawn("palm-lite", 0.3, **shape)
    return create_model("palm-lite", **shape), params


def subject():
    def frames(seed, batch, steps):
        return jax.random.uniform(jax.random.key(seed), (batch, steps, 48, 64, 3))

    return Subject.of(*tiny(), frames, atol=1e-3)


def test_smaller_frames_are_filled_up_as_the_detector_does():
    """What `watch` sends of a 4:3 source, before a student of one token."""
    frames = np.ones((1, 2, 144, 192, 3), np.float32)
    whole = np.asarray(filled(frames, "palm-points"))
    assert whole.shape == (1, 2, 192, 192, 3) and whole[:, :, :144].all()
    assert not whole[:, :, 144:].any()
    for other in (np.ones((1, 2, 1, 1, 19)), np.ones((1, 2, 250, 192, 3))):
        assert filled(other, "palm-points").shape == (*other.shape[:3], *other.shape[3:])
    assert filled(frames, "efficientnet-lite0") is frames and filled(frames, "") is frames
    model = create_model("rglru-palm")
    shapes = lambda carry: jax.tree.map(jnp.shape, carry)
    assert shapes(model.init_carry(2, (144, 192))) == shapes(model.init_carry(2))


def student(name):
    """A student as it trains: on what the stem said of the frames."""
    fields = dict(heads=("roi",), frame_box=True, num_classes=10, max_boxes=1)
    model = create_model(f"{name}-palm", **fields, depth=2)
    params = drawn(f"{name}-palm", 0.2, **fields, depth=2)

    def frames(seed, batch, steps):
        return jax.random.normal(jax.random.key(seed), (batch, steps, 1, 1, 19))

    return Subject.of(model, params, frames, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rglru", "dsta", "tsa"])
@pytest.mark.parametrize("law", contract.LAWS)
def test_carry_law_of_a_student(name, law):
    law(student(name))


FAST = (contract.check_slots,)


@pytest.mark.parametrize(
    "law",
    [pytest.param(law, marks=[pytest.mark.slow] * (law not in FAST)) for law in contract.LAWS],
)
def test_carry_law(law):
    law(subject())


def test_refusals():
    model = create_model("palm-lite")
    with pytest.raises(ValueError, match="uint8.*preprocess"):
        model.init(jax.random.key(0), (), jnp.zeros((1, 1, 64, 64, 3), jnp.uint8))
