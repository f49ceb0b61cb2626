"""Pose models: equal to the published graphs on real frames, and the carry law."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import streamzoo
from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.zoo import create_model, model_card
from streamzoo.zoo.convert import convert_checkpoint
from streamzoo.zoo.errors import WeightsError
from streamzoo.zoo.files import load_file
from streamzoo.zoo.preprocess import preprocess
from streamzoo.zoo.resolve import find_weights
from streamzoo.zoo.trees import flatten

from .drawn import drawn

GOLDEN = Path(__file__).parent / "data" / "movenet.npz"  # by golden_movenet.py
GRAPH = Path(__file__).parents[3] / "shared" / "data" / "weights" / "tfjs_movenet-lightning.json"
needs_graph = pytest.mark.skipif(not GRAPH.is_file(), reason=f"{GRAPH.name} is not beside the tree")


@functools.cache
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def found_in(name, frames, **overrides):
    """Poses of uint8 [T, H, W, 3], leaves [T, N, ...]."""
    model, params = streamzoo.load(f"movenet-{name}/coco", **overrides)
    x = preprocess(frames[None], model_card(f"movenet-{name}/coco"))
    _, out = jax.jit(model.apply)(params, (), x)
    return jax.tree.map(lambda a: np.asarray(a)[0], out)


@pytest.mark.parametrize("name", ["multi", "single"])
def test_answers_are_those_of_the_published_graph(name):
    frames, want = golden()[f"{name}_frames"], golden()[name]
    # frames fill the input, so nothing is scaled
    out = found_in(name, frames, image_size=frames.shape[1:3], threshold=0.0)
    want = want.reshape(len(want), -1, want.shape[1] // (6 if name == "multi" else 1))
    there = np.ones(want.shape[:2], bool)
    if name == "multi":
        there = want[..., 55] > 0
        np.testing.assert_array_equal(out.valid, there)
        assert there.sum() >= 10
        np.testing.assert_allclose(out.scores[there], want[..., 55][there], atol=1e-4)
        boxes = want[..., [52, 51, 54, 53]]
        np.testing.assert_allclose(out.boxes[there], boxes[there], atol=1e-4)
    points = want[..., :51].reshape(*want.shape[:2], 17, 3)[..., [1, 0, 2]]
    np.testing.assert_allclose(out.keypoints[there], points[there], atol=1e-4)


@needs_graph
def test_converting_makes_the_bundled_file():
    plan, variables = convert_checkpoint(GRAPH)
    assert (plan.model, dict(plan.overrides), plan.dtype) == ("movenet-single", {}, "float16")
    bundled, header = load_file(find_weights("movenet-single/coco"))
    assert header["model"] == plan.model
    made, stored = flatten(variables), flatten(bundled)
    assert made.keys() == stored.keys()
    assert all(np.array_equal(made[k], stored[k]) for k in made)  # float16 loses nothing
    assert {a.dtype.name for a in stored.values()} == {"float16"}


@needs_graph
def test_a_graph_without_all_its_weights_is_refused(tmp_path):
    graph = tmp_path / "model.json"
    graph.write_text(GRAPH.read_text())
    names = json.loads(graph.read_text())["weightsManifest"][0]["paths"]
    with pytest.raises(WeightsError, match="are missing beside it"):
        convert_checkpoint(graph)
    data = GRAPH.with_suffix(".bin").read_bytes()
    (tmp_path / names[0]).write_bytes(data[:-100])
    with pytest.raises(WeightsError, match="cut off"):
        convert_checkpoint(graph)
    (tmp_path / names[0]).write_bytes(data + b"more")
    with pytest.raises(WeightsError, match="4 bytes of weights too many"):
        convert_checkpoint(graph)


@pytest.mark.slow
def test_points_and_boxes_are_fractions_of_the_frame_whatever_its_shape():
    """Below a frame the network sees grey; what it finds is the same part of the frame."""
    frame = golden()["multi_frames"][:1]
    whole = found_in("multi", frame, image_size=(160, 192))
    lower = np.concatenate([frame, np.zeros_like(frame[:, :26])], axis=1)  # 186 rows, 192 filled
    padded = found_in("multi", lower, image_size=(192, 192))
    n = int(whole.valid.sum())
    assert n >= 1 and padded.valid.sum() == n
    np.testing.assert_allclose(
        padded.boxes[:n] * np.asarray([1, 186, 1, 186]),
        whole.boxes[:n] * np.asarray([1, 160, 1, 160]),
        atol=6,
    )


@functools.cache
def subject(slots):
    shape = dict(
        image_size=(64, 64), slots=slots, widths=(8, 4, 4, 8, 8, 8, 8, 8, 16), threshold=0.0
    )
    model = create_model("movenet-multi", **shape)
    params = drawn("movenet-multi", 0.3, **shape)

    def frames(seed, batch, steps):
        return 80 * jax.random.normal(jax.random.key(seed), (batch, steps, 48, 64, 3)) + 110

    return Subject.of(model, params, frames, atol=1e-3)


FAST = (contract.check_gaps, contract.check_fixed_point)
LAWS = [
    pytest.param(law, slots, marks=[pytest.mark.slow] * (law not in FAST or slots == 1))
    for law in contract.LAWS
    for slots in (6, 1)
]


@pytest.mark.parametrize("law, slots", LAWS)
def test_carry_law(law, slots):
    law(subject(slots))


def test_refusals():
    model = create_model("movenet-single")
    with pytest.raises(ValueError, match="uint8.*preprocess"):
        model.init(jax.random.key(0), (), jnp.zeros((1, 1, 64, 64, 3), jnp.uint8))
