"""Recipes: from a config file to weights that load, clear errors, and a student in a new place."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from streamzoo import zoo
from streamzoo.train import settings
from streamzoo.train.__main__ import main
from streamzoo.train.data import pipeline
from streamzoo.train.data.base import DataError
from streamzoo.train.data.stored import Derived
from streamzoo.train.data.synth import Synth
from streamzoo.train.datasets.folder import FolderData
from streamzoo.train.datasets.synth import SynthData
from streamzoo.train.evaluate import answers
from streamzoo.train.loop import LoopConfig
from streamzoo.train.recipe import Data, Model, Recipe, header, load_teacher
from streamzoo.train.tasks import Distil, Supervise
from streamzoo.zoo.action import CausalViT, SlidingWindow, StudentConfig, WindowConfig
from streamzoo.zoo.registry import Card

from .video_files import write

SMALL = SynthData(videos=2, size=(32, 32))
LOOP = LoopConfig(steps=2, batch=2, frames=4, log_every=1, tensorboard=False)
STUDENT = Recipe(data=SMALL, model=Model("tsa-mi16", depth=1), loop=LOOP)
TEACHER = dataclasses.replace(STUDENT, model=Model("videomae-window-mi16", depth=1, window=4))

FILE = """
from streamzoo.train.loop import LoopConfig
from streamzoo.train.recipe import Data, Model, Recipe

CONFIG = Recipe(
    data=Data(videos=2, size=(32, 32)),
    test=Data(videos=1, size=(32, 32), split="test"),
    model=Model("tsa-mi16", depth=1),
    loop=LoopConfig(steps=2, batch=2, frames=4, log_every=1, tensorboard=False),
)
"""


def saved_teacher(path, size=(32, 32), name="videomae-window-mi16", classes=13):
    """Random weights of a small teacher, as a run would write them."""
    fields = dict(image_size=size, num_classes=classes, depth=1, dtype="float32")
    if "window" in name:
        fields |= dict(lookahead=0, frames=4, tubelet=2)
    shapes = zoo.weights.shapes_of(name, **fields)
    rng = np.random.default_rng(0)
    fill = lambda a: np.asarray(0.1 * rng.normal(size=a.shape), np.float32)
    variables = {"params": jax.tree.map(fill, shapes["params"])}
    zoo.save(path, variables, header(name, fields))
    return str(path)


@pytest.mark.slow
def test_a_teacher_and_its_student_from_the_command_line(tmp_path, capsys):
    config, cache = tmp_path / "small.py", f"cache={tmp_path / 'cache'}"
    config.write_text(FILE)

    def train(out, *changes):
        where = f"loop.out={tmp_path / out}"
        assert main(["--config", str(config), "--set", where, cache, *changes]) == 0
        return tmp_path / out / "weights.safetensors"

    first = train("teacher", "model.name=videomae-window-mi16", "model.window=4")
    teacher, weights = zoo.load(first)
    assert isinstance(teacher, SlidingWindow)
    assert (teacher.config.frames, teacher.config.tubelet, teacher.config.depth) == (4, 2, 1)
    # the student: nobody's labels, the teacher's answers
    second = train("student", f"teacher={first}")
    student, variables = zoo.load(second)
    assert isinstance(student, CausalViT) and student.config.heads == ("roi",)
    assert (student.config.depth, student.config.num_classes) == (1, 13)
    carry = student.init_carry(1)
    _, out = student.apply(variables, carry, jnp.ones((1, 1, 32, 32, 3)))
    assert out.box_logits.shape == (1, 1, 1, 13) and np.isfinite(out.box_logits).all()
    text = capsys.readouterr().out
    assert text.count("evaluation: ") == 2 and "mAP" in text


def test_settings_reach_the_model(tmp_path):
    recipe = settings.override(
        STUDENT,
        ["model.shift=0.25", "model.depth=2", "model.person=true", "data.size=48,64"],
    )
    recipe = settings.override(recipe, ["supervise.person=0.5"])
    job = recipe.build()
    config = job.task.model.config
    assert isinstance(job.task, Supervise) and isinstance(config, StudentConfig)
    assert dict(config.temporal[0].options) == {"fraction": 0.25} and config.depth == 2
    assert config.heads == ("roi", "person") and config.image_size == (48, 64)
    fields = recipe.model.overrides(job.source, 13, LOOP.dtype)
    assert header("tsa-mi16", fields).items() <= job.task.header.items()
    assert job.task.header["multi_label"] is True
    assert job.task.header["classes"] == job.source.classes
    # the header alone makes the same model again
    again = zoo.create_model("tsa-mi16", **job.task.header["config"])
    assert again.config == config
    shifted = job.task.model.init_carry(1)[0]
    assert jax.tree.leaves(shifted)[0].shape[-1] == 32  # a quarter of 128 channels
    batch = next(job.batches(0, 1))
    assert batch["frames"].shape == (2, 4, 48, 64, 3)


def test_a_teacher_makes_it_a_distillation_that_starts_from_its_weights(tmp_path):
    path = saved_teacher(tmp_path / "teacher.safetensors")
    recipe = dataclasses.replace(STUDENT, teacher=path, cache=str(tmp_path / "cache"))
    on_the_spot = dataclasses.replace(recipe, keep_targets=False).build()
    assert isinstance(on_the_spot.task, Distil) and on_the_spot.task.online
    assert not any(n.startswith("target_") for n in next(on_the_spot.batches(0, 1)))
    _, weights = load_teacher(path)
    for part in ("attn", "mlp"):
        mine = on_the_spot.task.first["blocks"]["layer0"][part]
        theirs = weights["params"]["blocks"]["layer0"][part]
        jax.tree.map(np.testing.assert_array_equal, mine, theirs)
    kept = recipe.build()
    assert not kept.task.online
    assert {"target_logits", "target_roi"} <= set(next(kept.batches(0, 1)))
    # labels all the same: the teacher only gives the first weights
    labelled = dataclasses.replace(recipe, labels=True).build()
    assert isinstance(labelled.task, Supervise)
    late = dataclasses.replace(recipe, model=Model("tsa-mi16", depth=1, lookahead=1))
    with pytest.raises(DataError, match="keep_targets=False"):
        late.build()
    job = dataclasses.replace(late, keep_targets=False).build()
    assert job.task.teacher.config.lookahead == job.task.teacher.latency == 1


def test_what_cannot_be_built_is_said_in_a_line(tmp_path):
    write(tmp_path / "videos" / "one.mp4")
    folder = FolderData(path=str(tmp_path / "videos"), size=(32, 32), max_boxes=1)
    alone = dataclasses.replace(STUDENT, data=folder, cache=str(tmp_path / "cache"))
    with pytest.raises(DataError, match="folder data has no labels: name a teacher"):
        alone.build()
    # and with one it can learn
    path = saved_teacher(tmp_path / "teacher.safetensors")
    job = dataclasses.replace(alone, teacher=path, keep_targets=False).build()
    assert job.task.student.config.num_classes == 13
    with pytest.raises(DataError, match="test data of kind folder has no labels"):
        dataclasses.replace(STUDENT, test=folder, cache=str(tmp_path / "cache")).build()
    with pytest.raises(DataError, match="'synht': choose from synth"):
        Data(kind="synht")
    with pytest.raises(DataError, match="no teacher at .*none.safetensors: train one"):
        dataclasses.replace(STUDENT, teacher=str(tmp_path / "none.safetensors")).build()
    large = saved_teacher(tmp_path / "large.safetensors", size=(64, 64))
    with pytest.raises(DataError, match="sees 64x64 pixels .*: set data.size=64,64"):
        dataclasses.replace(STUDENT, teacher=large).build()
    with pytest.raises(settings.SettingError, match="did you mean shift"):
        settings.override(STUDENT, ["model.shfit=0.25"])


# --- adaptation without labels -----------------------------------------------------------------


class Night(Derived):
    """Another place: dark, tinted, upside-down light, and nobody who labels it."""

    def read(self, video, start, count):
        clip = super().read(video, start, count)
        frames = (255 - clip.frames) * np.asarray([0.8, 0.5, 0.3])
        nothing = np.full_like(clip.labels, np.nan)
        return clip._replace(
            frames=frames.astype(np.uint8), labels=nothing, labelled=np.zeros_like(clip.labelled)
        )


@pytest.mark.slow
def test_a_student_nears_its_teacher_in_a_new_place_without_labels():
    """Rows 4 and 8 of the register in miniature: the gap shrinks where nothing is labelled."""
    shape: dict[str, Any] = dict(image_size=(32, 32), dim=32, depth=2, num_classes=13)
    teacher = SlidingWindow(WindowConfig(**shape, heads=2, frames=4, roi_time="last"))
    student = CausalViT(StudentConfig(**shape, heads_per_block=2, heads=("roi",)))
    card = Card("test", input_size=(32, 32))
    day = Synth(24, seconds=3.2, frame_rate=5.0, size=(32, 32), max_boxes=2)
    night = Night(Synth(24, seconds=3.2, frame_rate=5.0, size=(32, 32), max_boxes=2, seed=1))
    test = Night(Synth(8, seconds=3.2, frame_rate=5.0, size=(32, 32), max_boxes=2, split="test"))

    def first(model):
        x = jnp.zeros((1, 1, 32, 32, 3))
        return jax.jit(model.init)(jax.random.key(0), model.init_carry(1), x)

    def fit(task, step, data, params, steps, rate=3e-3):
        optimiser = optax.adam(rate)
        opt, memory = optimiser.init(params), task.init_memory(4)
        for batch, _ in zip(pipeline.batches(data, 4, 8, seed=0), range(steps), strict=False):
            params, opt, memory = step(params, opt, memory, task.constants, batch)
        return params

    def step_of(task, rate=3e-3):
        optimiser = optax.adam(rate)

        @jax.jit
        def step(params, opt, memory, constants, batch):
            slope = jax.grad(task.loss, has_aux=True)
            grad, (memory, _) = slope(params, constants, memory, jax.random.key(0), batch)
            change, opt = optimiser.update(grad, opt)
            return optax.apply_updates(params, change), opt, memory

        return step

    supervise = Supervise(teacher, card, first(teacher))
    taught = fit(supervise, step_of(supervise), day, supervise.first, 30)
    distil = Distil(student, card, first(student), teacher, supervise.variables(taught))
    step = step_of(distil)
    by_day = fit(distil, step, day, distil.init(jax.random.key(1)), 60)
    by_night = fit(distil, step, night, by_day, 60)

    truth = list(answers(teacher, supervise.variables(taught), card, test, lanes=8))

    def gap(params):
        """Mean difference of probabilities between student and teacher, in the new place."""
        said = answers(student, distil.variables(params), card, test, lanes=8)
        far = [np.abs(a.scores - b.scores)[a.box_valid] for a, b in zip(said, truth, strict=True)]
        return float(np.concatenate(far).mean())

    before, after = gap(by_day), gap(by_night)
    print(f"gap to the teacher in the new place: {before:.4f} -> {after:.4f}")
    assert np.isfinite(after) and after < 0.8 * before
