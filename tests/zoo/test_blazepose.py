"""BlazePose: networks equal to the published ones, the stream to MediaPipe's own graph, the law."""

import functools
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.zoo import create_model
from streamzoo.zoo.convert import ConvertError, convert_checkpoint
from streamzoo.zoo.pose import Pose
from streamzoo.zoo.pose.blaze.detector import Detector, DetectorConfig
from streamzoo.zoo.pose.blaze.landmarks import LandmarkConfig, LandmarkNet, refined
from streamzoo.zoo.pose.blaze.model import BODY_POINTS, square
from streamzoo.zoo.pose.blaze.smooth import nothing, smooth
from streamzoo.zoo.pose.outputs import bones
from tests.zoo import golden_blazepose
from tests.zoo.mediapipe_runtime import graph
from tests.zoo.test_palm import golden

from ..layers.compare import close
from .drawn import drawn

GRAPH = "modules/pose_landmark/pose_landmark_full.tflite"
DETECTOR = "modules/pose_detection/pose_detection.tflite"
FAR = 0.5, 10.0  # pixels of 768 x 432: half of the points, and every one
CLIP = Path(__file__).parents[3] / "shared" / "data" / "clips" / golden_blazepose.CLIP
needs_graph = pytest.mark.skipif(
    graph(GRAPH) is None, reason="mediapipe 0.10.21 is not on the path"
)


@functools.cache
def loaded():
    plan, variables = convert_checkpoint(graph(GRAPH))
    assert (plan.model, dict(plan.overrides), plan.dtype) == ("blazepose-full", {}, "float16")
    return variables


def runtime(name, pictures):
    """Outputs in the file's order."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter
    run = interpreter(str(graph(name)), num_threads=1)
    run.allocate_tensors()
    run.set_tensor(run.get_input_details()[0]["index"], pictures)
    run.invoke()
    return [run.get_tensor(d["index"]) for d in run.get_output_details()]


@needs_graph
@pytest.mark.slow
def test_networks_are_the_published_ones():
    x = np.pad(golden()["frames"][:1], ((0, 0), (32, 32), (32, 32), (0, 0))) / np.float32(255)
    points, present, mask, heat, world = runtime(GRAPH, x)
    net, part = LandmarkNet(LandmarkConfig()), lambda name: {"params": loaded()["params"][name]}
    said, shown = jax.jit(functools.partial(net.apply, method="init_all"))(part("landmarks"), x)
    close("points", said.points.reshape(1, -1), points, 2e-4)
    close("world", said.world.reshape(1, -1), world, 2e-4)
    close("heat", said.heat, heat, 2e-4)
    close("mask", shown, mask[..., 0], 5e-4)
    np.testing.assert_allclose(said.present, present[0], atol=1e-4)
    x = 2 * x[:, 16:240, 16:240] - 1
    values, logits = runtime(DETECTOR, x)
    found = jax.jit(Detector(DetectorConfig()).apply)(part("detector"), x)
    close("values", found[0], values, 1e-4)
    close("logits", found[1], logits[..., 0], 1e-4)


@needs_graph
@pytest.mark.slow
@pytest.mark.skipif(not CLIP.is_file(), reason=f"{CLIP.name} is not beside the tree")
def test_the_stream_is_mediapipes_graph():
    """Its compiled library samples pictures by 1/32 of a pixel and rounds them to 8 bits."""
    video = golden_blazepose.frames(CLIP)
    size = np.asarray(video.shape[2:0:-1])
    model = create_model("blazepose-full")
    step, carry, far, gap = jax.jit(model.apply), model.init_carry(1), [], 0.0
    with np.load(golden_blazepose.FILE) as file:
        wanted = file["smooth"]
    for image, want in zip(video, wanted, strict=True):
        carry, out = step(loaded(), carry, image[None, None] / np.float32(255))
        assert out.valid.all()
        found = np.asarray(out.keypoints[0, 0, 0])
        far.append(np.abs((found - want)[:, :2] * size).max(axis=1))
        gap = max(gap, float(np.abs(found - want)[:, 2].max()))
    assert np.median(far) < FAR[0] and np.max(far) < FAR[1] and gap < 0.05


@needs_graph
def test_either_file_leads_to_both(tmp_path):
    both = [shutil.copy(str(graph(name)), tmp_path) for name in (GRAPH, DETECTOR)]
    made = [jax.tree.leaves(convert_checkpoint(Path(file))[1]) for file in both]
    assert all(map(np.array_equal, *made))
    kernel = loaded()["params"]["detector"]["trunk"]["blocks_14"]["expand_kernel"]
    assert 0.05 < (np.asarray(kernel) == 0).mean() < 0.95  # stored without its zeros
    alone = shutil.copy(both[0], tmp_path / "alone")
    with pytest.raises(ConvertError, match="pose_detection.tflite has to be beside it"):
        convert_checkpoint(Path(shutil.move(alone, tmp_path.parent / "a.tflite")))


def test_refined_points_are_the_middle_of_what_is_near():
    """Against a plain walk over the cells; one point far from what its map shows, one outside."""
    rng = np.random.default_rng(0)
    heat = rng.normal(-4, 1, (16, 16, 4)).astype(np.float32)
    for p, (y, x) in enumerate(((5, 6), (15, 0), (3, 3), (8, 8))):
        heat[y, x, p] = 5.0
    points = np.asarray([[6.9, 5.2], [2.5, 14.1], [12.0, 12.0], [17.0, 8.0]], np.float32) / 16
    got = np.asarray(refined(jnp.asarray(points), jnp.asarray(heat)))
    for p in (0, 1):
        column, row = (int(v) for v in points[p] * 16)
        total, mean = 0.0, np.zeros(2)
        for y in range(max(0, row - 4), min(16, row + 5)):
            for x in range(max(0, column - 4), min(16, column + 5)):
                weight = 1 / (1 + np.exp(-np.float64(heat[y, x, p])))
                total, mean = total + weight, mean + weight * np.asarray([x, y])
        np.testing.assert_allclose(got[p], mean / total / 16, rtol=1e-5)
    np.testing.assert_array_equal(got[2:], points[2:])


def test_the_filter_is_the_one_euro_filter():
    """In float64, point by point, as the paper's algorithm says it."""
    rng = np.random.default_rng(1)
    track = np.cumsum(rng.normal(0, 3, (12, 1, 2, 2)), axis=0).astype(np.float32) + 50
    size, rate, rest, rise = 40.0, 25.0, *np.asarray([[0.05, 0.01], [80.0, 10.0]], np.float32)
    state, got = nothing(1, 2), []
    for points in track:
        state = smooth(state, jnp.asarray(points), jnp.full(1, size), rate, rest, rise)
        got.append(np.asarray(state.points[0]))
    alpha = lambda cutoff: 1 / (1 + rate / (2 * np.pi * cutoff))
    for p in range(2):
        for axis in range(2):
            shown = speed = None
            for t, value in enumerate(track[:, 0, p, axis].astype(np.float64)):
                if t == 0:
                    shown, speed = value, 0.0
                else:
                    change = (value - track[t - 1, 0, p, axis]) / size * rate
                    speed = alpha(1.0) * change + (1 - alpha(1.0)) * speed
                    a = alpha(rest[p] + rise[p] * abs(speed))
                    shown = a * value + (1 - a) * shown
                np.testing.assert_allclose(got[t][p, axis], shown, rtol=1e-4)


def test_the_square_stands_on_the_hips_and_turns_with_the_body():
    hips, reach = jnp.asarray([[50.0, 60.0]] * 2), jnp.asarray([[50.0, 20.0], [90.0, 60.0]])
    middle, along = square(hips, reach)
    np.testing.assert_allclose(middle, hips)
    np.testing.assert_allclose(along, [[100, 0], [0, 100]], atol=1e-4)


def test_points_have_names_and_bones():
    assert len(BODY_POINTS) == 33 == len(set(BODY_POINTS)) and BODY_POINTS[27] == "left ankle"
    ends = {p for bone in bones(33) for p in bone}
    assert max(ends) == 32 and {11, 12, 23, 24, 27, 28} <= ends
    sides = lambda p: BODY_POINTS[p].split()[0]
    limbs = [b for b in bones(33) if min(b) > 12]
    assert all(sides(a) == sides(b) for a, b in limbs if (a, b) != (23, 24))


SHAPES = dict(
    detector=dict(side=32, widths=(4, 4, 4, 4, 8, 8, 8), merge=(8, 8), threshold=0.0),
    landmarks=dict(side=128, widths=(4, 4, 4, 4, 4, 4, 4), merge=(8, 4), deep=8),
)


@functools.cache
def subject():
    model = create_model("blazepose-full", **SHAPES, threshold=0.0)
    params = drawn("blazepose-full", 0.1, **SHAPES)

    def frames(seed, batch, steps):
        return jax.random.uniform(jax.random.key(seed), (batch, steps, 24, 32, 3))

    return Subject.of(model, params, frames, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("law", contract.LAWS)
def test_carry_law(law):
    law(subject())


@pytest.mark.slow
def test_a_person_is_looked_for_only_where_nobody_was():
    """The carry decides: the detector's answer counts in the first frame, not after it."""
    model = create_model("blazepose-full", **SHAPES, threshold=0.0)
    params = drawn("blazepose-full", 0.1, **SHAPES)
    other = jax.tree.map(lambda a: a, params)
    other["params"]["detector"] = jax.tree.map(lambda a: -a, params["params"]["detector"])
    frames = jax.random.uniform(jax.random.key(0), (1, 2, 24, 32, 3))
    step = jax.jit(model.apply)
    carry, first = step(params, model.init_carry(1), frames[:, :1])
    assert isinstance(first, Pose) and bool(carry.held[0])
    again = [np.asarray(step(p, carry, frames[:, 1:])[1].keypoints) for p in (params, other)]
    np.testing.assert_array_equal(*again)
    start = [np.asarray(step(p, model.init_carry(1), frames)[1].keypoints) for p in (params, other)]
    assert not np.array_equal(*start)
