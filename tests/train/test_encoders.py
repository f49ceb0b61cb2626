"""Recipes of encoders: kept and computed answers agree, a chain runs from file to file."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo import zoo
from streamzoo.train import teachers as named
from streamzoo.train.agglomerate import AgglomerateConfig
from streamzoo.train.data.base import DataError
from streamzoo.train.data.in_memory import LabelledVideos
from streamzoo.train.encoder_evaluation import described, labels_of
from streamzoo.train.encoders import EncoderModel, EncoderRecipe
from streamzoo.train.loop import LoopConfig, run
from streamzoo.train.optim import OptimConfig
from streamzoo.train.recipe import header
from streamzoo.train.teachers import Stills, frozen_teacher, taught_by
from streamzoo.zoo.action import VideoMAE
from streamzoo.zoo.encode import TransNetV2, TransNetV2Config

from .tiny import CARD, make_teacher

TINY: dict[str, Any] = dict(dim=16, depth=1, heads=2)


class Videos:
    """In place of a recipe's ``Data``."""

    kind, detector = "synth", ""  # for the checks before anything is opened

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        frames = [rng.integers(0, 256, (n, 32, 16, 3), np.uint8) for n in (3, 5, 2, 4)]
        self.source = LabelledVideos("abcd", frames, (0, 1, 1, 0), ("x", "y"), 1.0)

    def open(self, cache):
        return self.source


def save_encoder(path, seed):
    fields = dict(TINY, image_size=(32, 16), layer_scale=1.0)  # so that answers vary
    rng = np.random.default_rng(seed)
    fill = lambda a: jnp.asarray(rng.normal(size=a.shape) / 4, jnp.float32)
    variables = jax.tree.map(fill, zoo.weights.shapes_of("eupe-t16", **fields))
    zoo.save(path, variables, header("eupe-t16", fields))
    return path


def make_recipe(tmp_path, **changes):
    loop = LoopConfig(
        steps=2, batch=4, frames=1, log_every=1, tensorboard=False,
        optim=OptimConfig(learning_rate=1e-2), out=str(tmp_path / "run"),
    )  # fmt: skip
    recipe = EncoderRecipe(
        data=Videos(),  # pyright: ignore
        model=EncoderModel("eupe-t16", size=(32, 16), layer_scale=1.0, **TINY),
        distil=AgglomerateConfig(hidden=8, measured=4),
        teachers=(f"one={save_encoder(tmp_path / 'one.safetensors', 1)}",),
        cache=str(tmp_path / "cache"), loop=loop,
    )  # fmt: skip
    return dataclasses.replace(recipe, **changes)


def test_every_frame_is_a_video_of_its_own():
    source = Videos().source
    stills = Stills(source)
    assert len(stills) == 14 and stills.videos[3] == "b frame 0"
    np.testing.assert_array_equal(
        stills.read(5, 0, 1).frames, source.read(1, 2, 1).frames
    )  # the first video has 3 frames


@pytest.mark.slow
def test_kept_answers_are_those_of_the_step(tmp_path):
    kept = make_recipe(tmp_path)
    online = dataclasses.replace(kept, keep_targets=False)
    losses = []
    for recipe in (kept, online):
        job = recipe.build()
        task, batch = job.task, next(job.batches(0, 1))
        params = task.init(jax.random.key(0))
        given = params, task.constants, (), jax.random.key(0), jax.tree.map(jnp.asarray, batch)
        losses.append(float(jax.jit(task.loss)(*given)[0]))
        found = jax.tree.leaves(task.constants["statistics"])
        assert len(found) == 4 and all(np.isfinite(a).all() for a in found)
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)  # kept ones are float16


@pytest.mark.slow
def test_teachers_proxy_student_from_file_to_file(tmp_path, capsys):
    first = make_recipe(tmp_path, test=Videos(1))
    job = first.build()
    result = run(job, first.loop, log=lambda line: None)
    assert set(result.scores) == {"knn", "probe"}
    path = tmp_path / "proxy.safetensors"
    zoo.save(path, job.task.variables(result.params), job.task.header)
    model, _ = zoo.load(path)
    assert model.config.image_size == (32, 16) and model.config.layer_scale == 1.0
    sizes = ((32, 16), (16, 16))
    last = make_recipe(
        tmp_path,
        teachers=(f"proxy={path}",), keep_targets=False,
        distil=AgglomerateConfig(
            hidden=8, measured=2, student_sizes=sizes, teacher_sizes=sizes
        ),
        loop=dataclasses.replace(first.loop, out=str(tmp_path / "last")),
    )  # fmt: skip
    result = run(last.build(), last.loop, log=lambda line: None)
    assert np.isfinite([row["loss"] for row in result.history]).all()
    assert {"proxy/summary/cosine", "proxy/spatial/smooth_l1"} < set(result.history[0])


@pytest.mark.slow
def test_sami_by_recipe(tmp_path):
    job = make_recipe(tmp_path, method="sami").build()
    batch = jax.tree.map(jnp.asarray, next(job.batches(0, 1)))
    params = job.task.init(jax.random.key(0))
    loss, _ = jax.jit(job.task.loss)(params, job.task.constants, (), jax.random.key(0), batch)
    assert 0.3 < float(loss) < 5  # of standardised features


def test_description_is_the_mean_over_a_videos_frames(tmp_path):
    model, variables = zoo.load(save_encoder(tmp_path / "one.safetensors", 1))
    card, source = zoo.model_card("eupe-t16"), Videos().source
    got = described(model, variables, card, source, count=4)
    apply = jax.jit(model.apply)
    for video in (0, 2):
        each = []
        for frame in source.read(video, 0, source.length(video)).frames:
            out = apply(variables, zoo.preprocess(frame[None], card))
            each.append(np.concatenate([out.pooled[0], out.features[0].mean(axis=(0, 1))]))
        np.testing.assert_allclose(got[video], np.mean(each, axis=0), atol=1e-5)
    np.testing.assert_array_equal(labels_of(source), [0, 1, 1, 0])


def test_tokens_of_a_clip_teacher():
    model, variables = make_teacher(tubelet=2)
    encode = named._window(model, CARD)
    frames = np.random.default_rng(0).random((1, 3, 32, 32, 3), np.float32)
    got = jax.jit(encode)(variables, frames)
    held = np.concatenate([frames, frames[:, -1:]], axis=1)
    out = jax.jit(lambda v, x: VideoMAE(model.config).apply(v, x, taps=("features",)).taps)(
        variables, zoo.preprocess(held, CARD)
    )
    want = np.asarray(out["features"])[:, [0, 0, 1]]
    np.testing.assert_allclose(got["spatial"], want, atol=1e-5)
    np.testing.assert_allclose(got["summary"], want.mean(axis=(2, 3)), atol=1e-5)


def test_maps_of_the_shot_detector():
    model = TransNetV2(
        TransNetV2Config(
            image_size=(8, 12), filters=2, stages=2, dilations=(1, 2), hidden=8, window=5,
            compared=4,
        )
    )  # fmt: skip
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4, 8, 12, 3)))
    frames = jax.ShapeDtypeStruct((2, 4, 32, 16, 3), jnp.float32)
    out = jax.eval_shape(named._shots(model), shapes, frames)
    assert out["spatial"].shape == (2, 4, 2, 3, 8) and out["summary"].shape == (2, 4, 8)


def test_kept_answers_of_several_teachers_lie_side_by_side(tmp_path):
    one = frozen_teacher(str(save_encoder(tmp_path / "one.safetensors", 1)))
    two = frozen_teacher(str(save_encoder(tmp_path / "two.safetensors", 2)))
    source = taught_by(Videos().source, {"one": one, "two": two}, tmp_path / "cache")
    found = source.extras(1, 2, 2)
    assert {k: a.shape for k, a in found.items()} == {
        f"target_{n}_{part}": shape
        for n in ("one", "two")
        for part, shape in (("summary", (2, 16)), ("spatial", (2, 2, 1, 16)))
    }
    assert np.abs(found["target_one_summary"] - found["target_two_summary"]).max() > 0.1


def test_recipes_that_cannot_be_are_refused(tmp_path):
    recipe = make_recipe(tmp_path)
    with pytest.raises(DataError, match="name=file"):
        dataclasses.replace(recipe, teachers=("two words=x",)).build()
    with pytest.raises(DataError, match="no teacher at .*gone.safetensors"):
        dataclasses.replace(recipe, teachers=("a=gone.safetensors",)).build()
    with pytest.raises(DataError, match="each its own name"):
        dataclasses.replace(recipe, teachers=recipe.teachers * 2).build()
    other = (*recipe.teachers, recipe.teachers[0].replace("one=", "two="))
    with pytest.raises(DataError, match="sami has one teacher"):
        dataclasses.replace(recipe, teachers=other, method="sami").build()
    with pytest.raises(ValueError, match="method 'mae'"):
        dataclasses.replace(recipe, method="mae")
