"""Stems: a model on frames and the same model on its stem's features give the same answers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.mixers import mix
from streamzoo.zoo import list_models, model_config
from streamzoo.zoo.action import (
    CausalViT,
    SlidingWindow,
    StudentConfig,
    VideoMAE,
    VideoMAEConfig,
    WindowConfig,
)
from streamzoo.zoo.encode import stems
from streamzoo.zoo.encode.efficientnet.model import EfficientNetLiteConfig, Stage

SIZE, WIDTH = (64, 96), 4 * 6 + 10
SHAPE: dict[str, Any] = dict(image_size=SIZE, patch=32, stem="tiny", dim=16, num_classes=3)


@pytest.fixture(autouse=True)
def tiny_stem(monkeypatch):
    """A pretrained kind of stem that is small: stride 32, two levels."""
    stages = (
        Stage(3, 1, 4, 1, 2),
        Stage(3, 1, 4, 2, 2),
        Stage(5, 1, 6, 2, 2),
        Stage(3, 1, 10, 2, 2),
    )
    config = EfficientNetLiteConfig(stem=4, stages=stages, head=0, num_classes=0)
    monkeypatch.setitem(stems.STEMS, "tiny", config)


def frames(batch=2, steps=4):
    return jax.random.normal(jax.random.key(1), (batch, steps, *SIZE, 3))


def features_of(model, variables, x):
    stem = stems.make_stem(model.config.stem)
    return stem.apply({"params": variables["params"]["stem"]}, x, method="pyramid")


def boxes(batch=2, steps=4):
    return jnp.broadcast_to(jnp.asarray([[0.1, 0.2, 0.6, 0.9]]), (batch, steps, 1, 4))


def started(model, *given):
    variables = jax.jit(model.init)(jax.random.key(0), *given)
    return jax.tree.map(lambda a: a + 0.02, variables)


@pytest.mark.slow
def test_a_student_on_frames_is_a_student_on_features():
    model = CausalViT(
        StudentConfig(**SHAPE, depth=2, heads_per_block=2, temporal=(mix("shift"),), heads=("roi",))
    )
    carry, x = model.init_carry(2), frames()
    variables = started(model, carry, x)
    mapped: Any = features_of(model, variables, x)
    assert mapped.shape == (2, 4, 2, 3, WIDTH)
    run = jax.jit(lambda x: model.apply(variables, carry, x, boxes=boxes(), taps=("roi",)))
    for a, b in zip(jax.tree.leaves(run(x)), jax.tree.leaves(run(mapped)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    with pytest.raises(ValueError, match="takes frames"):
        model.apply(variables, carry, mapped[..., :-1])


@pytest.mark.slow
def test_a_teacher_on_frames_is_a_teacher_on_features():
    shape: dict[str, Any] = dict(SHAPE, depth=1, heads=2, frames=4, roi_time="last")
    model = VideoMAE(VideoMAEConfig(**shape))
    variables = started(model, frames())
    mapped = features_of(model, variables, frames())
    run = jax.jit(lambda x: model.apply(variables, x, boxes()[:, -1]).box_logits)
    np.testing.assert_allclose(run(frames()), run(mapped), atol=1e-5)
    stream = SlidingWindow(WindowConfig(**shape))
    rings = stream.init_carry(2), stream.init_carry(2, mapped.shape[2:])
    assert rings[1].frames.shape == (2, 3, 2, 3, WIDTH)
    run = jax.jit(lambda c, x: stream.apply(variables, c, x, boxes=boxes()))
    answers = [run(c, x)[1].box_logits for c, x in zip(rings, (frames(), mapped), strict=True)]
    np.testing.assert_allclose(*answers, atol=1e-5)


@pytest.mark.slow
def test_a_learned_stem_learns():
    model = CausalViT(
        StudentConfig(
            image_size=(32, 32), dim=16, depth=1, heads_per_block=2, stem="conv16",
            heads=("frame",), num_classes=3,
        )
    )  # fmt: skip
    x = jax.random.normal(jax.random.key(2), (1, 2, 32, 32, 3))
    carry = model.init_carry(1)
    variables = started(model, carry, x)
    slope = jax.grad(lambda v: (model.apply(v, carry, x)[1].logits ** 2).sum())
    grad = jax.jit(slope)(variables)["params"]["stem"]
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grad))
    assert "conv16" not in stems.PRETRAINED  # so the loop does not freeze it


def test_strides_and_widths():
    assert stems.stem_stride("efficientnet-lite0") == 32
    assert stems.stem_width("efficientnet-lite0") == 4 * 112 + 320 == 768
    assert (stems.stem_stride("conv16"), stems.stem_width("conv16")) == (16, 128)
    assert stems.stem_width("") == 0
    with pytest.raises(ValueError, match="'resnet': choose from.*efficientnet-lite0"):
        stems.stem_stride("resnet")
    for config in (StudentConfig, VideoMAEConfig):
        with pytest.raises(ValueError, match="stride of 32: set patch"):
            config(stem="efficientnet-lite0", image_size=(64, 64))


def test_the_small_models_with_a_stem_are_registered():
    names = list_models("*-lite0")
    assert {"vit-lite0", "tsa-lite0", "dsta-lite0", "videomae-window-lite0"} <= set(names)
    for name in ("tsa-lite0", "videomae-window-lite0"):
        config = model_config(name)
        assert config.stem == "efficientnet-lite0" and config.patch == 32
        assert config.grid() == (4, 5)
