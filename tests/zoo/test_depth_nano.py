"""Depth by a small decoder: any size, no NaN, and a confidence that says what cannot be known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.train.data.world import World
from streamzoo.zoo import create_model, list_models, load, model_card, preprocess
from streamzoo.zoo.depth.nano.model import DepthNano, NanoDepthConfig
from streamzoo.zoo.encode.efficientnet.model import EfficientNetLiteConfig, Stage

TRUNK = EfficientNetLiteConfig(
    stem=4, head=0, num_classes=0,
    stages=(Stage(3, 1, 4, 1, 1), *(Stage(3, 1, 8, 2, 2) for _ in range(4))),
)  # fmt: skip
TINY = {"depth": {"trunk": TRUNK, "width": 8, "image_size": (32, 64)}}
SIZE = (32, 64)


@pytest.fixture(scope="module")
def tiny():
    model = create_model("depth-nano", **TINY)
    inputs = model.init_carry(1), jnp.zeros((1, 1, *SIZE, 3))
    return model, jax.jit(model.init)(jax.random.key(0), *inputs), jax.jit(model.apply)


def film(steps, still=False, sky=False):
    world = World(3, SIZE, boxes=5, moving=0, still=still, sky=sky, room=(8.0, 1.5, 20.0))
    frames = world.shoot(steps).frames[None]
    return jnp.asarray(preprocess(frames, model_card("depth-nano")))


@pytest.mark.slow
def test_any_size_is_taken():
    model = DepthNano(NanoDepthConfig(trunk=TRUNK, width=8))
    variables = jax.jit(model.init)(jax.random.key(0), (), jnp.zeros((1, 1, 32, 32, 3)))
    for size in ((31, 45), (32, 32), (97, 41)):
        _, out = model.apply(variables, (), jnp.ones((1, 1, *size, 3)))
        assert out.depth.shape == (1, 1, *size) and bool(jnp.isfinite(out.depth).all())
        assert not out.metric.any() and float(out.depth.min()) > 0


@pytest.mark.slow
def test_a_cell_knows_its_scene_and_its_place():
    """Two pictures that differ far away from a cell differ there; one grey has more than one
    depth."""
    model = DepthNano(NanoDepthConfig(trunk=TRUNK, width=8))
    grey = jnp.zeros((1, 1, 512, 64, 3))
    variables = jax.jit(model.init)(jax.random.key(0), (), grey)
    plain = model.apply(variables, (), grey)[1].depth[0, 0]
    other = model.apply(variables, (), grey.at[:, :, 480:].set(3.0))[1].depth[0, 0]
    assert float(jnp.abs(plain[:40] - other[:40]).max()) > 1e-6, "the mean of all reaches all"
    inner = plain[224:288:32, 16:48:16]
    assert float(jnp.ptp(inner)) > 1e-6, "places differ where pictures do not"


@pytest.mark.parametrize("what", ["one frame", "nothing moves", "sky", "one grey", "a cut"])
def test_bad_input_has_a_confidence_and_no_nan(tiny, what):
    """No parallax, no texture, nothing before: never NaN, and sure of nothing it cannot know."""
    model, variables, apply = tiny
    frames = film(3, still=what == "nothing moves", sky=what == "sky")
    if what == "one grey":
        frames = jnp.full_like(frames, 0.2)
    if what == "a cut":
        frames = frames.at[:, 2].set(-frames[:, 0] + 3.0)
    if what == "one frame":
        frames = frames[:, :1]
    _, out = apply(variables, model.init_carry(1), frames)
    sure = np.asarray(out.confidence[0])
    assert np.isfinite(np.asarray(out.depth)).all() and np.isfinite(sure).all()
    assert ((sure >= 0) & (sure <= 1)).all() and sure[0] == 0, "the first frame agrees with none"
    if what == "a cut":
        assert sure[2] == 0
    if what == "nothing moves":
        assert sure[1:].min() > 0.9


def test_a_camera_that_turns_is_no_reason_for_nan(tiny):
    """Pure rotation: the picture moves as a whole, there is no parallax."""
    model, variables, apply = tiny
    wide = film(1)[0, 0]
    frames = jnp.stack([jnp.roll(wide, 3 * k, axis=1) for k in range(4)])[None]
    _, out = apply(variables, model.init_carry(1), frames)
    assert np.isfinite(np.asarray(out.depth)).all()


def test_another_size_in_the_middle_is_refused(tiny):
    model, variables, _ = tiny
    with pytest.raises(ValueError, match="another batch size, frame size"):
        model.apply(variables, model.init_carry(1), jnp.zeros((1, 1, 64, 32, 3)))


@pytest.mark.slow
def test_the_law_holds(tiny):
    model, variables, _ = tiny
    subject = Subject.of(
        model, variables,
        lambda seed, batch, steps: jax.random.normal(
            jax.random.key(seed), (batch, steps, *SIZE, 3)
        ),
    )  # fmt: skip
    contract.check_fixed_point(subject)
    contract.check_slots(subject)
    contract.check_gaps(subject, seeds=1)
    contract.check_chunking(subject, seeds=1)


NAME = "depth-nano/worlds"
shipped = pytest.mark.skipif(NAME not in list_models("depth-nano*"), reason="not in the package")


@shipped
def test_the_bundled_one_orders_depths_of_a_world_it_has_not_seen():
    """What it says of a held-out ground under a sky goes with the truth, and not upside down."""
    model, variables = load(NAME)
    card = model_card(NAME)
    assert "drawn worlds" in card.trained_on
    world = World(1_000_123, card.input_size, moving=0, sky=True, room=(12.0, 1.5, 25.0))
    shot = world.shoot(1)
    _, out = jax.jit(model.apply)(
        variables, model.init_carry(1), preprocess(shot.frames[None], card)
    )
    found, truth = np.asarray(out.depth[0, 0]).ravel(), 1 / shot.depth[0].ravel()
    assert np.corrcoef(found, truth)[0, 1] > 0.8
    upside = found.reshape(shot.depth[0].shape)[::-1].ravel()
    assert np.corrcoef(upside, truth)[0, 1] < np.corrcoef(found, truth)[0, 1] - 0.2
