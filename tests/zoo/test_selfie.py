"""The selfie mask: equal to its own runtime on real frames, the law, and what is written of it."""

import functools
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import streamzoo
from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.streaming.views.matte import MatteView
from streamzoo.zoo import create_model
from streamzoo.zoo.convert import ConvertError, convert_checkpoint
from streamzoo.zoo.files import load_file
from streamzoo.zoo.matte.outputs import Matte
from streamzoo.zoo.resolve import find_weights
from streamzoo.zoo.trees import flatten

from . import golden_selfie as golden
from .drawn import drawn

NAME = "selfie-lite/mediapipe"
SHARED = Path(__file__).parents[3] / "shared" / "data"
GRAPH = SHARED / "weights" / "tfjs_selfie.json"
CLIPS = all((SHARED / "clips" / name).is_file() for name in golden.CLIPS)


@pytest.mark.skipif(not GRAPH.is_file(), reason=f"{GRAPH.name} is not beside the tree")
def test_converting_makes_the_bundled_file():
    plan, variables = convert_checkpoint(GRAPH)
    assert (plan.model, dict(plan.overrides)) == ("selfie-lite", {})
    bundled, _ = load_file(find_weights(NAME))  # whose sha256 is looked at there
    made, stored = flatten(variables), flatten(bundled)
    assert made.keys() == stored.keys()
    assert all(np.array_equal(made[k], stored[k]) for k in made)
    with pytest.raises(ConvertError, match="are not those of MediaPipe's selfie"):
        convert_checkpoint(GRAPH.with_name("tfjs_movenet-lightning.json"), "selfie-tfjs")


@pytest.mark.skipif(not CLIPS, reason="the clips are not beside the tree")
def test_alpha_is_that_of_tensorflow_js():
    video = golden.frames((256, 256), golden.CLIPS).astype(np.float32) / 255
    model, params = streamzoo.load(NAME)
    _, out = jax.jit(model.apply)(params, (), video[None])
    want = np.load(golden.FILE)["alpha"].astype(np.float32)
    assert 0.05 < (want > 0.5).mean() < 0.95
    np.testing.assert_allclose(out.alpha[0], want, atol=2e-3)  # it is stored in 16 bits
    assert out.valid.all()


@functools.cache
def subject():
    shape = dict(image_size=(32, 48), last=8)
    params = drawn("selfie-lite", 0.3, **shape)
    frames = lambda seed, batch, steps: jax.random.uniform(
        jax.random.key(seed), (batch, steps, 24, 40, 3)
    )
    model = create_model("selfie-lite", **shape)
    return Subject.of(model, params, frames, atol=1e-4)


FAST = (contract.check_gaps,)  # it has no memory: a frame that never came says most
LAWS = [pytest.param(law, marks=[pytest.mark.slow] * (law not in FAST)) for law in contract.LAWS]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_carry_law(law):
    law(subject())


def test_a_line_says_how_much_and_where_and_the_background_fades():
    alpha = np.zeros((8, 8), np.float32)
    alpha[2:6, 1:3] = 1.0
    result: object = SimpleNamespace(output=Matte(alpha, np.True_))
    view = MatteView()
    line = view.fields(result)
    assert line == {"matte": {"share": 0.125, "box": [0.125, 0.25, 0.375, 0.75]}}
    assert view.told(line | {"frame": 3}) == line
    image = np.full((8, 8, 3), 210, np.uint8)
    shown = view.picture(image, result)
    assert (shown[2:6, 1:3] == 210).all() and (shown[0] == 135).all()
    nothing: object = SimpleNamespace(output=Matte(np.zeros((8, 8), np.float32), np.True_))
    assert view.fields(nothing) == {"matte": {"share": 0.0}}
