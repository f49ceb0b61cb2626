"""Detectors: equal to their own runtime on real frames, plain suppression, and the carry law."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import streamzoo
from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.train.data.yolox import Detector, greedy
from streamzoo.zoo import create_model, model_card
from streamzoo.zoo.convert import ConvertError, convert_checkpoint
from streamzoo.zoo.detect.boxes import letterbox, suppress
from streamzoo.zoo.errors import WeightsError
from streamzoo.zoo.files import load_file
from streamzoo.zoo.preprocess import fitted, frame_shape, preprocess
from streamzoo.zoo.resolve import find_weights
from streamzoo.zoo.trees import flatten

from .drawn import drawn

NAME = "yolox-nano/coco"
SHARED = Path(__file__).parents[3] / "shared" / "data"
ONNX = SHARED / "weights" / "yolox_nano_coco_416.onnx"
STREET = SHARED / "clips" / "vtest_pedestrians_480x360.mp4"
needs_onnx = pytest.mark.skipif(not ONNX.is_file(), reason=f"{ONNX.name} is not beside the tree")


@pytest.fixture(scope="module")
def street():
    """Three frames of a street, 40 frames apart: uint8 [3, 312, 416, 3]."""
    from streamzoo.streaming.sources import open_source

    if not STREET.is_file():
        pytest.skip(f"{STREET.name} is not beside the tree")
    with open_source(STREET, size=(312, 416)) as source:
        return np.stack([f.image for _, f in zip(range(81), source, strict=False)][::40])


def boxed(image):
    """[312, 416, 3] -> the network's input [416, 416, 3], done by hand."""
    whole = np.full((416, 416, 3), 114, np.uint8)
    whole[:312] = image
    return whole


@functools.cache
def loaded():
    return streamzoo.load(NAME)


def found_in(frames, **overrides):
    """Detections of uint8 [T, H, W, 3], leaves [T, N, ...]."""
    model, params = streamzoo.load(NAME, **overrides) if overrides else loaded()
    x = preprocess(frames[None], model_card(NAME))
    _, out = jax.jit(model.apply)(params, model.init_carry(1), x)
    return jax.tree.map(lambda a: np.asarray(a)[0], out)


def plain(raw, size, slots, threshold, iou):
    """[(label, score, box)] of the exported network's answer for one picture of ``size``, by the
    authors' postprocess: the best class of each cell, then suppression class by class."""
    cells, strides = [], []
    for stride in (8, 16, 32):
        n = 416 // stride
        cells += [(col, row) for row in range(n) for col in range(n)]
        strides += [stride] * n * n
    cells, strides = np.asarray(cells, np.float32), np.asarray(strides, np.float32)[:, None]
    centre, half = (raw[:, :2] + cells) * strides, np.exp(raw[:, 2:4]) * strides / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    scores = raw[:, 4] * raw[:, 5:].max(axis=1)
    labels = raw[:, 5:].argmax(axis=1)
    found = []
    for label in set(labels[scores > threshold]):
        mine = np.flatnonzero((labels == label) & (scores > threshold))
        found += [mine[i] for i in greedy(boxes[mine], scores[mine], iou)]
    found = sorted(found, key=lambda i: -scores[i])[:slots]
    scale = np.asarray([size[1], size[0]] * 2)
    return [(labels[i], scores[i], np.clip(boxes[i] / scale, 0, 1)) for i in found]


@needs_onnx
def test_converting_makes_the_bundled_file():
    pytest.importorskip("onnx")
    plan, variables = convert_checkpoint(ONNX)
    assert (plan.model, dict(plan.overrides)) == ("yolox-nano", {})
    bundled, header = load_file(find_weights(NAME))  # whose sha256 is looked at there
    assert header["model"] == plan.model
    made, stored = flatten(variables), flatten(bundled)
    assert made.keys() == stored.keys()
    assert all(np.array_equal(made[k], stored[k]) for k in made)


@needs_onnx
def test_raw_answers_and_detections_are_those_of_onnxruntime(street):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(ONNX), providers=["CPUExecutionProvider"])
    model, params = loaded()
    card, out = model_card(NAME), found_in(street)
    raw = jax.jit(functools.partial(model.apply, method="raw"))
    assert out.valid.sum() >= 15  # cars and walkers
    for t, image in enumerate(street):
        whole = boxed(image)
        bgr = whole[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32)
        want = session.run(None, {"images": bgr})[0]
        got = raw(params, preprocess(whole[None], card))
        np.testing.assert_allclose(got, want, atol=2e-3)
        listed = plain(want[0], (312, 416), 100, 0.3, 0.45)
        n = int(out.valid[t].sum())
        assert [int(label) for label, _, _ in listed] == out.labels[t, :n].tolist()
        np.testing.assert_allclose([s for _, s, _ in listed], out.scores[t, :n], atol=1e-4)
        np.testing.assert_allclose([b for _, _, b in listed], out.boxes[t, :n], atol=1e-4)
        assert not out.valid[t, n:].any() and not out.boxes[t, n:].any()


@needs_onnx
def test_the_box_teacher_finds_the_same_persons(street):
    pytest.importorskip("onnxruntime")
    teacher = Detector(ONNX, boxes=8, threshold=0.3, iou=0.45)
    out = found_in(street)
    for t, image in enumerate(street):
        boxes, scores = teacher(image)
        mine = out.valid[t] & (out.labels[t] == 0)
        assert mine.sum() == (scores > 0).sum() >= 4
        np.testing.assert_allclose(out.boxes[t][mine], boxes[scores > 0], atol=1e-3)


def test_suppression_is_the_plain_algorithm_on_all_candidates():
    rng = np.random.default_rng(0)
    chosen = {
        n: jax.jit(functools.partial(suppress, slots=n, threshold=0.2, iou=0.4)) for n in (64, 5)
    }
    for seed in range(8):
        corner = rng.random((60, 2)) * 0.7
        boxes = np.concatenate([corner, corner + 0.1 + 0.3 * rng.random((60, 2))], axis=1)
        boxes, scores = boxes.astype(np.float32), rng.random(60).astype(np.float32)
        labels = rng.integers(0, 3, 60)
        want = []
        for label in range(3):
            mine = np.flatnonzero((labels == label) & (scores > 0.2))
            want += [int(mine[i]) for i in greedy(boxes[mine], scores[mine], 0.4)]
        want = sorted(want, key=lambda i: -scores[i])
        for slots, choose in chosen.items():
            kept = choose(boxes, scores, labels)
            assert kept.picks[kept.valid].tolist() == want[:slots], seed
            assert not kept.picks[~kept.valid].any()


def test_letterboxing_keeps_the_aspect_ratio_and_the_top_left_corner():
    assert fitted((360, 480), (416, 416)) == (312, 416)
    assert fitted((720, 405), (416, 416)) == (416, 234)
    assert fitted((1, 5000), (416, 416)) == (1, 416)
    card = model_card(NAME)
    assert frame_shape(card, (1080, 1920)) == (234, 416)
    assert frame_shape(card, (0, 0)) == card.input_size  # a source that does not know yet
    assert frame_shape(model_card("tsa-lite0"), (1080, 1920)) == (128, 160)
    out = letterbox(jnp.ones((1, 20, 40, 3)), (32, 32), 7.0)
    np.testing.assert_allclose(out[0, :16], 1, atol=1e-6)
    np.testing.assert_array_equal(out[0, 16:], 7)


def test_boxes_are_fractions_of_the_frame_whatever_its_size(street):
    """A frame twice as large is scaled down inside; its boxes are the same parts of it."""
    twice = street[:1].repeat(2, axis=1).repeat(2, axis=2)
    small, large = found_in(street[:1]), found_in(twice)
    n = int(small.valid.sum())
    assert n >= 5 and large.valid.sum() == n
    np.testing.assert_array_equal(large.labels, small.labels)
    np.testing.assert_allclose(large.boxes, small.boxes, atol=0.01)


def tiny():
    """Every kind of block but depthwise filters and bottlenecks, which are long to compile."""
    shape = dict(
        image_size=(64, 64), width=4, depth=0, depthwise=False, classes=3, slots=6, threshold=0.0
    )
    params = drawn("yolox-nano", 0.2, **shape)
    return create_model("yolox-nano", **shape), params


@functools.cache
def subject():
    model, params = tiny()

    def frames(seed, batch, steps):
        return 80 * jax.random.normal(jax.random.key(seed), (batch, steps, 48, 64, 3)) + 110

    return Subject.of(model, params, frames, atol=1e-4)


LAWS = [
    pytest.param(law, marks=[pytest.mark.slow] * (law is contract.check_gradients))
    for law in contract.LAWS
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_carry_law(law):
    law(subject())


def test_refusals(tmp_path):
    model = create_model("yolox-nano")
    with pytest.raises(ValueError, match="frames .batch, time, height, width, 3., got .3, 4, 3."):
        model.apply({}, (), jnp.zeros((3, 4, 3)))
    with pytest.raises(ValueError, match="uint8.*preprocess"):
        model.apply({}, (), jnp.zeros((1, 1, 64, 64, 3), jnp.uint8))
    with pytest.raises(ValueError, match="the carry is of another model"):
        model.apply({}, jnp.zeros(1), jnp.zeros((1, 1, 64, 64, 3)))
    pytest.importorskip("onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph at all, \xff\xff\xff")
    with pytest.raises(WeightsError, match="broken.onnx: not a complete ONNX file"):
        convert_checkpoint(broken)


@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="no weights beside the tree")
def test_another_graph_is_not_taken_for_a_yolox():
    pytest.importorskip("onnx")
    with pytest.raises(ConvertError, match="no converter recognises|are not those of YOLOX"):
        convert_checkpoint(SHARED / "weights" / "gtcrn_stream.onnx", "yolox-onnx")
