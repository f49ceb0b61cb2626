"""Hand landmarks: equal to the published network, cut out as its graph does, the carry law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.zoo import create_model
from streamzoo.zoo.convert import convert_checkpoint
from streamzoo.zoo.pose import Pose
from streamzoo.zoo.pose.hand.model import HAND_POINTS, HandNet, cut, placed, region
from tests.zoo.mediapipe_runtime import graph, published
from tests.zoo.test_palm import golden

from .drawn import drawn

GRAPH = "modules/hand_landmark/hand_landmark_lite.tflite"
needs_graph = pytest.mark.skipif(
    graph(GRAPH) is None, reason="mediapipe 0.10.21 is not on the path"
)


@needs_graph
@pytest.mark.slow
def test_answers_are_those_of_the_published_network():
    pytest.importorskip("ai_edge_litert")
    plan, variables = convert_checkpoint(graph(GRAPH))
    assert (plan.model, dict(plan.overrides), plan.dtype) == ("hand-lite", {}, "float16")
    frames = np.pad(golden()["frames"], ((0, 0), (16, 16), (16, 16), (0, 0)))  # 224 x 224
    points, present, right, world = published(graph(GRAPH), frames)
    params = {"params": variables["params"]["hand"]}
    found = jax.jit(HandNet().apply)(params, frames.astype(np.float32) / 255)
    np.testing.assert_allclose(found.points.reshape(2, -1), points, atol=2e-3)  # pixels
    np.testing.assert_allclose(found.world.reshape(2, -1), world, atol=1e-5)  # metres
    np.testing.assert_allclose(found.present, present[:, 0], atol=1e-4)
    np.testing.assert_allclose(found.right, right[:, 0], atol=1e-4)
    assert np.ptp(points) > 20


def palm(box, wrist, knuckle):
    keypoints = np.zeros((1, 1, 7, 3), np.float32)
    keypoints[0, 0, 0, :2], keypoints[0, 0, 2, :2] = wrist, knuckle
    one = np.ones((1, 1), np.float32)
    return Pose(keypoints, np.asarray(box, np.float32)[None, None], one, one > 0)


def test_the_square_lies_ahead_of_the_palm_and_turns_with_it():
    """A palm of 20 x 10 pixels in a frame of 100 x 200: 2.6 times 20 wide, 5 pixels ahead."""
    box = (0.4, 0.4, 0.5, 0.5)
    middle, along = region(palm(box, (0.45, 0.6), (0.45, 0.3)), (100, 200))
    np.testing.assert_allclose(middle[0, 0], (90, 45 - 5), rtol=1e-5)
    np.testing.assert_allclose(along[0, 0], (52, 0), atol=1e-4)
    middle, along = region(palm(box, (0.2, 0.45), (0.6, 0.45)), (100, 200))  # fingers to the right
    np.testing.assert_allclose(middle[0, 0], (90 + 5, 45), rtol=1e-5)
    np.testing.assert_allclose(along[0, 0], (0, 52), atol=1e-4)


def test_a_cutout_is_the_picture_there_upright():
    picture = np.random.default_rng(0).random((40, 60, 3), np.float32)
    middle = np.asarray([[30.0, 20.0], [30.0, 20.0], [4.0, 20.0]], np.float32)
    along = np.asarray([[16, 0], [0, 16], [16, 0]], np.float32)
    got = np.asarray(cut(picture, middle, along, 16))
    crop = picture[12:28, 22:38]
    np.testing.assert_allclose(got[0], crop, atol=1e-5)
    np.testing.assert_allclose(got[1], np.rot90(crop), atol=1e-5)  # its right is up
    assert not got[2, :, :3].any() and got[2, :, 6:].any()  # outside of the picture is black
    # what is found in a cut-out is put back to where it was
    at = np.asarray([[[0.0, 0.0], [16.0, 0.0], [8.0, 8.0]]] * 3, np.float32)
    back = np.asarray(placed(middle, along, at, 16))
    np.testing.assert_allclose(back[0], [(22, 12), (38, 12), (30, 20)])
    np.testing.assert_allclose(back[1], [(38, 12), (38, 28), (30, 20)])


def subject():
    shape = dict(palm=dict(image_size=(64, 64), widths=(4, 4, 8, 8, 8), threshold=0.0), side=32)
    model = create_model("hand-lite", **shape, threshold=0.0)
    params = drawn("hand-lite", 0.1, **shape)

    def frames(seed, batch, steps):
        return jax.random.uniform(jax.random.key(seed), (batch, steps, 48, 64, 3))

    return Subject.of(model, params, frames, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("law", contract.LAWS)
def test_carry_law(law):
    law(subject())


def test_points_have_names_and_frames_their_form():
    assert len(HAND_POINTS) == 21 and HAND_POINTS[8] == "index 4"
    with pytest.raises(ValueError, match="uint8.*preprocess"):
        create_model("hand-lite").init(jax.random.key(0), (), jnp.zeros((1, 1, 8, 8, 3), jnp.uint8))
