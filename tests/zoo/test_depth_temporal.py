"""Steady depth: it undoes how a model's scale jumps from frame to frame, and says if it cannot."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.train.metrics import flicker
from streamzoo.zoo import create_model
from streamzoo.zoo.convert import CONVERTERS, convert
from streamzoo.zoo.depth.temporal.model import TemporalDepth, TemporalDepthConfig, steady
from streamzoo.zoo.weights import shapes_of

from .test_depth import ANYTHING, TINY, converted, needs_goldens

SIZE = (24, 32)
run = jax.jit(steady, static_argnums=0)


def scene(frames=12, seed=0, noise=0.0):
    """A static depth map and its picture, seen through a scale and a shift that jump."""
    rng = np.random.default_rng(seed)
    depth = 2 + np.linspace(0, 3, SIZE[1]) + rng.random(SIZE)
    scales, shifts = rng.uniform(0.8, 1.25, frames), rng.uniform(-0.3, 0.3, frames)
    raw = scales[:, None, None] * depth + shifts[:, None, None]
    raw = np.maximum(raw + noise * rng.normal(size=raw.shape), 0)
    return depth, raw.astype(np.float32), rng.random(SIZE).astype(np.float32)


def states(config, raw, pictures):
    """Runs over raw [T, H, W] -> (depth [T, H, W], confidence [T])."""
    model = TemporalDepth(config)
    state, out, sure = model.init_carry(1, SIZE), [], []
    for one, picture in zip(raw, pictures, strict=True):
        state, depth, confidence = run(config, state, one[None], picture[None])
        out.append(np.asarray(depth[0]))
        sure.append(float(confidence[0]))
    return np.stack(out), np.asarray(sure)


@pytest.mark.parametrize("smooth", [0.0, 0.5])
def test_flicker_falls(smooth):
    _, raw, picture = scene(noise=0.01)
    config = TemporalDepthConfig(leak=0.0, smooth=smooth)
    found, sure = states(config, raw, [picture] * 12)
    static = np.ones((11, *SIZE), bool)
    assert flicker(raw, static) > 0.05
    assert flicker(found, static) < 0.1 * flicker(raw, static)
    assert sure[0] == 0 and sure[1:].min() > 0.95
    if smooth:  # what is left is noise of single pixels, and that falls, too
        plain, _ = states(TemporalDepthConfig(leak=0.0, smooth=0.0), raw, [picture] * 12)
        assert flicker(found, static) < 0.7 * flicker(plain, static)


def test_moving_pixels_do_not_vote():
    """A box that comes nearer over a third of the frame: the rest keeps its depth."""
    depth, raw, picture = scene(frames=6)
    pictures, boxes = [], []
    for n, one in enumerate(raw):
        box = np.zeros(SIZE, bool)
        box[4:20, 2 * n : 2 * n + 12] = True
        one[box] *= 0.3 + 0.05 * n
        pictures.append(np.where(box, 5.0 + n, picture).astype(np.float32))
        boxes.append(box)
    found, sure = states(TemporalDepthConfig(leak=0.0, smooth=0.0), raw, pictures)
    rest = ~np.any(boxes, axis=0)
    np.testing.assert_allclose(found[1:, rest] / found[0, rest], 1, atol=1e-3)
    assert sure[1:].max() < 0.9


def test_the_scale_returns_to_the_models_own():
    _, raw, picture = scene(frames=1)
    steps = [raw[0]] + [1.5 * raw[0]] * 200  # the model changes its mind, and stays there
    found, _ = states(TemporalDepthConfig(leak=0.02), steps, [picture] * 201)
    assert abs(found[1].mean() / raw[0].mean() - 1) < 0.03
    assert abs(found[-1].mean() / (1.5 * raw[0].mean()) - 1) < 0.06


@pytest.mark.parametrize("what", ["a cut", "one depth everywhere", "everything moves", "sky"])
def test_what_cannot_be_aligned_is_believed_without_confidence(what):
    _, raw, picture = scene(frames=2)
    pictures = [picture, picture]
    if what in ("a cut", "everything moves"):
        pictures[1] = picture + 3
    elif what == "one depth everywhere":
        raw[1] = 3.0
    else:
        raw[1] = 0.0  # of an inverse depth: infinitely far
    found, sure = states(TemporalDepthConfig(), raw, pictures)
    assert np.isfinite(found).all() and sure[1] == 0
    np.testing.assert_allclose(found[1], raw[1], rtol=1e-5)


@pytest.mark.slow
def test_steady_depth_holds_the_law():
    model = create_model("temporaldepth-s14", depth=TINY)
    shape = (28, 28)

    def frames(seed, batch, steps):
        base = jax.random.normal(jax.random.key(seed), (batch, 1, *shape, 3))
        return base + 0.1 * jax.random.normal(jax.random.key(seed + 99), (batch, steps, *shape, 3))

    variables = jax.jit(model.init)(jax.random.key(0), model.init_carry(1, shape), frames(0, 1, 1))
    lift = lambda path, a: a + 1.0 if "conv3" in str(path) and a.ndim == 1 else a
    variables = jax.tree_util.tree_map_with_path(lift, variables)
    subject = Subject.of(
        model, variables, frames, init_carry=lambda batch: model.init_carry(batch, shape)
    )
    contract.check_fixed_point(subject)
    contract.check_slots(subject)
    contract.check_gaps(subject, seeds=1)
    contract.check_chunking(subject, seeds=1)
    with pytest.raises(ValueError, match="another batch size, frame size"):
        model.apply(variables, model.init_carry(1, shape), jnp.zeros((1, 1, 42, 28, 3)))


@pytest.mark.slow
@needs_goldens
def test_weights_of_single_frames_are_its_weights():
    z, plan, _, variables = converted("depth_anything_metric")
    tensors = {k[2:]: v for k, v in z.items() if k.startswith("w:")}
    config = {**ANYTHING, "depth_estimation_type": "metric", "max_depth": 20}
    own = CONVERTERS["depth-anything-temporal"].plan(tensors, config)
    assert own.model.startswith("temporaldepth-")
    template = shapes_of(own.model, **own.overrides)
    mine = convert(tensors, own.rules, ignore=own.ignore, template=template)
    jax.tree.map(np.testing.assert_array_equal, mine, variables)
    model = create_model(own.model, **own.overrides)
    frames = np.moveaxis(z["pixel_values"][:1], 1, -1)[None]
    _, out = model.apply(mine, model.init_carry(1, frames.shape[2:4]), frames)
    np.testing.assert_allclose(out.depth[0], z["predicted_depth"][:1], rtol=1e-4)
