"""A frozen teacher sees pixels as its own checkpoint does."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo import zoo
from streamzoo.train.data.base import DataError
from streamzoo.train.teachers import frozen_teacher

from ..zoo.test_resolve import LOOK, hub  # noqa: F401  a fixture
from ..zoo.test_vit import dinov3, publish


@pytest.mark.parametrize("look", [LOOK, {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}])
def test_a_teacher_of_the_hub_is_normalised_by_its_own_figures(hub, look):  # noqa: F811
    publish(hub, "a/teacher", *dinov3())
    hub.files["a/teacher", "preprocessor_config.json"] = json.dumps(look).encode()
    teacher = frozen_teacher("hf:a/teacher")
    frames = np.random.default_rng(0).uniform(size=(1, 2, 32, 32, 3)).astype(np.float32)
    got = teacher.encode(teacher.variables, jnp.asarray(frames))["summary"]
    model, variables = zoo.load("hf:a/teacher")
    shown = (frames[0] - np.float32(look["image_mean"])) / np.float32(look["image_std"])
    want = model.apply(variables, shown).pooled
    np.testing.assert_allclose(got[0], want, rtol=1e-4, atol=1e-4)


def test_what_answers_no_single_frames_is_no_teacher(monkeypatch):
    found = zoo.Resolved(zoo.create_model("vjepa2-l16"), {}, zoo.card_of("vjepa2-l16"))
    monkeypatch.setattr(zoo, "resolve", lambda name: found)
    with pytest.raises(DataError, match="vjepa2-l16 is a VJEPA2, not an encoder of frames"):
        frozen_teacher("vjepa2-l16")
