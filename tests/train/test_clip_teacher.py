"""Published VideoMAEs as teachers: converted checkpoints teach what their heads can say."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo import zoo
from streamzoo.train import settings
from streamzoo.train.clip_teacher import ClipTeacher
from streamzoo.train.data.base import DataError
from streamzoo.train.datasets.folder import FolderData
from streamzoo.train.datasets.synth import SynthData
from streamzoo.train.recipe import Model, Recipe, load_teacher
from streamzoo.train.tasks import DistilConfig
from streamzoo.zoo.action import SlidingWindow, VideoMAE

from .test_recipe import LOOP
from .video_files import write

SIZE, CLASSES = (32, 48), 5


def published(path, head="frame", dim=128, image_size=SIZE):
    """What ``streamzoo convert`` writes of a published checkpoint, tiny and random."""
    fields = dict(
        image_size=image_size, depth=2, dim=dim, frames=4, head=head, num_classes=CLASSES,
        final_norm=head != "frame", roi_size=2, dtype="float32",
    )  # fmt: skip
    shapes = zoo.weights.shapes_of("videomae-mi16", **fields)
    rng = np.random.default_rng(0)
    fill = lambda a: np.asarray(0.1 * rng.normal(size=a.shape), np.float32)
    variables = {"params": jax.tree.map(fill, shapes["params"])}
    zoo.save(path, variables, {"model": "videomae-mi16", "config": fields})
    return str(path)


def recipe(tmp_path, teacher, **more):
    write(tmp_path / "videos" / "one.mp4", frames=12)
    data = FolderData(path=str(tmp_path / "videos"), size=SIZE, max_boxes=3)
    made = Recipe(
        data=data, model=Model("dsta-mi16", depth=1), teacher=teacher, keep_targets=False,
        distil=DistilConfig(every=2), cache=str(tmp_path / "cache"), loop=LOOP,
    )  # fmt: skip
    return dataclasses.replace(made, **more)


@pytest.mark.parametrize("late", [0, 2])
def test_a_classifier_of_clips_speaks_about_the_whole_frame(tmp_path, late):
    """Its answer at every frame is the offline model's on the window of that frame, in slot 0."""
    path = published(tmp_path / "kinetics.safetensors")
    teacher, variables = load_teacher(path, late)
    assert isinstance(teacher, ClipTeacher) and teacher.latency == teacher.config.lookahead == late
    offline, same = zoo.load(path)
    assert isinstance(offline, VideoMAE)
    frames = jnp.asarray(np.random.default_rng(1).normal(size=(2, 6, *SIZE, 3)), jnp.float32)
    boxes, valid = jnp.zeros((2, 6, 3, 4)), jnp.ones((2, 6, 3), bool)
    at = jnp.asarray([3, 5])
    _, out = teacher.apply(
        variables, teacher.init_carry(2), frames, jnp.ones((2, 6), bool),
        boxes=boxes, box_valid=valid, taps=("attention", "roi"), at=at,
    )  # fmt: skip
    assert out.box_logits.shape == (2, 2, 3, CLASSES) and out.taps["roi"].shape == (2, 2, 3, 128)
    for n, t in enumerate((3, 5)):
        clip = frames[:, t - 3 : t + 1]
        want = offline.apply(same, clip, taps=("features",))
        np.testing.assert_allclose(out.box_logits[:, n, 0], want.logits, atol=1e-5)
        mean = want.taps["features"].mean(axis=(1, 2, 3))
        np.testing.assert_allclose(out.taps["roi"][:, n, 0], mean, atol=1e-5)
    assert not np.asarray(out.box_logits[:, :, 1:]).any()
    assert not np.asarray(out.taps["roi"][:, :, 1:]).any()


@pytest.mark.parametrize("head", ["frame", "roi"])
@pytest.mark.parametrize("keep", [False, True])
def test_it_teaches_a_student_on_a_folder(tmp_path, head, keep):
    made = recipe(tmp_path, published(tmp_path / "t.safetensors", head), keep_targets=keep)
    job = made.build()
    assert isinstance(job.task.teacher, ClipTeacher if head == "frame" else SlidingWindow)
    assert job.task.card.multi_label is (head == "roi")  # Kinetics: one class per clip
    batch = next(job.batches(0, 1))
    batch["frames"][:] = np.random.default_rng(2).integers(0, 256, batch["frames"].shape)
    batch["box_valid"][..., 1] = True  # a person, of whom a classifier of clips says nothing
    task, loss = job.task, jax.jit(job.task.loss)
    params = task.init(jax.random.key(0))
    rest = task.constants, task.init_memory(2), jax.random.key(1)
    value = float(loss(params, *rest, batch)[0])  # done before its arrays are written to
    batch["boxes"][..., 1, :] = 0.1, 0.2, 0.6, 0.9
    other = float(loss(params, *rest, batch)[0])
    assert np.isfinite(value) and (value == other) is (head == "frame")


def test_what_cannot_teach_is_told_with_what_would(tmp_path):
    plain = published(tmp_path / "plain.safetensors", "none")
    with pytest.raises(DataError, match="VideoMAE without a classifier.*fine-tuned"):
        recipe(tmp_path, plain).build()
    clips = published(tmp_path / "clips.safetensors")
    synth = SynthData(videos=1, size=(32, 48))
    with pytest.raises(DataError, match="teaches the whole frame.*take one of ut, ucf11, folder"):
        recipe(tmp_path, clips, data=synth).build()
    large = published(tmp_path / "large.safetensors", image_size=(64, 64))
    text = r"sees 64x64 pixels in patches of 16, .*: set data.size=64,64 .* such as dsta-ti16"
    with pytest.raises(DataError, match=text) as error:
        recipe(tmp_path, large).build()
    assert "\n" not in str(error.value)
    made = settings.override(recipe(tmp_path, large), ["data.size=64,64"])
    assert made.build().task.teacher.config.image_size == (64, 64)  # and that does
    other = published(tmp_path / "wide.safetensors", dim=192)
    assert recipe(tmp_path, other).build().task.student.config.dim == 128
    with pytest.raises(DataError, match="is a Student, not a videomae-window, nor"):
        recipe(tmp_path, "dsta-lite0/ucf11").build()


@pytest.mark.slow
def test_a_published_folder_through_convert(tmp_path):
    """transformers' own layout, through the command line, to an answer of the teacher."""
    transformers = pytest.importorskip("transformers", reason="writes the published layout")
    from streamzoo.streaming.cli import main

    size = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128)
    config = transformers.VideoMAEConfig(num_labels=5, image_size=32, num_frames=4, **size)
    folder, out = tmp_path / "published", tmp_path / "teacher.safetensors"
    transformers.VideoMAEForVideoClassification(config).save_pretrained(folder)
    assert main(["convert", str(folder), "--out", str(out)]) == 0
    job = recipe(
        tmp_path, str(out), data=FolderData(path=str(tmp_path / "videos"), size=(32, 32))
    ).build()
    assert isinstance(job.task.teacher, ClipTeacher)
    assert job.task.student.config.num_classes == 5
