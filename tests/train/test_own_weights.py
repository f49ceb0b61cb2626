"""Weights that training writes behave like bundled ones, in every command: by their header."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, cast

import jax
import numpy as np
import pytest

import streamzoo
from streamzoo import zoo
from streamzoo.streaming import bench
from streamzoo.streaming.cli import main
from streamzoo.train import recipe as recipes
from streamzoo.train.data.base import DataError
from streamzoo.train.data.in_memory import LabelledVideos
from streamzoo.train.datasets.synth import SynthData
from streamzoo.zoo import files
from streamzoo.zoo.resolve import stated

CLASSES = ("sit", "stand", "jump")
FIELDS = dict(
    image_size=(32, 48), num_classes=3, depth=1, dtype="float32", heads=("roi", "person"),
    max_boxes=2, person_threshold=0.4, frame_box=True,
)  # fmt: skip
CARD = dataclasses.replace(
    zoo.model_card("tsa-mi16"), classes=CLASSES, multi_label=False, frame_rate=12.5,
    mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), trained_on="clips of our own",
)  # fmt: skip
FRAMES = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), np.uint8)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A file as a run writes it."""
    path = tmp_path_factory.mktemp("run") / "weights.safetensors"
    _, variables = zoo.init_params("tsa-mi16", seed=1, **FIELDS)
    zoo.save(path, variables, recipes.header("tsa-mi16", FIELDS, CARD) | {"training": "{}"})
    return path


def test_the_card_comes_back_from_the_header(own):
    card = zoo.card_of(own)
    for field in ("classes", "multi_label", "frame_rate", "mean", "std", "trained_on"):
        assert getattr(card, field) == getattr(CARD, field), field
    assert card.input_size == (32, 48) and card.latency == 0 and card.task == "action"
    assert card.overrides["person_threshold"] == 0.4
    assert zoo.resolve(own).card == card


def test_a_session_of_it_answers_as_one_that_is_told_everything(own):
    """Scores by name, once over all classes; frames normalised as in training."""
    model, variables = zoo.load(own)
    carry = model.init_carry(1, (32, 48))
    x = zoo.preprocess(FRAMES[None], CARD)
    _, out = jax.jit(model.apply)(variables, carry, x)
    want = jax.nn.softmax(out.logits[0], axis=-1)
    with streamzoo.Session.of(own) as session:
        assert session.card.classes == CLASSES and session.card.frame_rate == 12.5
        for frame, scores in zip(FRAMES, want, strict=True):
            result = session.push(frame)
            got = result.scores()
            assert got is not None and result.classes == CLASSES
            np.testing.assert_allclose(got, scores, atol=1e-5)
            assert abs(float(got.sum()) - 1) < 1e-5


def test_info_and_bench_take_the_file(own, capsys):
    assert main(["info", str(own)]) == 0
    out = capsys.readouterr().out
    for part in ("sit, stand, jump", "one (softmax)", "12.5 frames/s", "0.5, 0.4, 0.3", str(own)):
        assert part in out, part
    _, variables = zoo.load(own)
    assert f"{sum(a.size for a in jax.tree.leaves(variables)):,}" in out
    runner = bench.Runner(str(own), 1)
    assert runner.step.card.classes == CLASSES and runner.frames[0].shape[2:4] == (32, 48)


def test_evaluation_refuses_data_of_other_classes(own, monkeypatch):
    """By name and order: the number alone would give a figure that means nothing."""

    def data(classes, multi_label=False):
        class Test:
            def features(self, *args):
                return dataclasses.make_dataclass("Source", ["classes", "multi_label"])(
                    classes, multi_label
                )

        return recipes.Recipe(test=cast(Any, Test()), cache="")

    monkeypatch.setattr(recipes, "evaluate", lambda m, v, card, test: {"seen": card.classes})
    assert data(CLASSES).evaluate_file(own) == {"seen": CLASSES}
    with pytest.raises(DataError, match="in another order: sit, stand, jump"):
        data(CLASSES[::-1]).evaluate_file(own)
    with pytest.raises(DataError, match="differ in jump, run"):
        data(("sit", "stand", "run")).evaluate_file(own)
    with pytest.raises(DataError, match="softmax.*sigmoid"):
        data(CLASSES, True).evaluate_file(own)


def test_a_student_of_unlabelled_videos_has_its_teachers_names(tmp_path):
    fields: dict[str, Any] = dict(image_size=(32, 32), num_classes=3, depth=1, frames=4, tubelet=2)
    _, variables = zoo.init_params("videomae-window-mi16", **fields)
    path = tmp_path / "teacher.safetensors"
    zoo.save(path, variables, recipes.header("videomae-window-mi16", fields, CARD))
    frames = [np.zeros((8, 32, 32, 3), np.uint8)] * 2
    source = LabelledVideos("ab", frames, (0, 0), ("unknown",), 7.5)
    source.classes = ()
    data = SynthData(size=(32, 32))
    made = recipes.Recipe(
        data=data, model=recipes.Model("tsa-mi16", depth=1), teacher=str(path), keep_targets=False
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SynthData, "features", lambda self, *args: source)
        job = made.build()
    told = job.task.header
    assert told["classes"] == CLASSES and told["multi_label"] is False
    assert told["frame_rate"] == 7.5


def test_every_recipe_writes_what_the_reader_reads(own):
    header = files.read_metadata(own)
    assert set(stated(CARD)) <= set(header)
    assert json.loads(header["classes"]) == list(CLASSES)


@pytest.mark.parametrize(
    "field, value, text",
    [
        ("classes", '["a", "b"]', "names 2 classes and its model tells 3 apart"),
        ("classes", "[1, 2, 3]", "its classes is"),
        ("multi_label", "2", "its multi_label is"),
        ("frame_rate", "-1", "its frame_rate is"),
        ("frame_rate", '"fast"', "its frame_rate is"),
        ("mean", "[0.5]", "its mean has 1 numbers, not 3"),
        ("std", "[0, 1, 1]", "its std is"),
    ],
)
def test_a_header_that_is_wrong_is_one_line(own, tmp_path, capsys, field, value, text):
    variables, header = files.load_file(own)
    path = tmp_path / "x.safetensors"
    zoo.save(path, variables, header | {field: value})
    assert main(["info", str(path)]) == 2
    err = capsys.readouterr().err
    assert text in err and str(path) in err and err.count("\n") == 1


def test_the_card_beside_a_bundled_file_is_its_card():
    card = zoo.model_card("dsta-lite0/ucf11")
    found = zoo.card_of(zoo.registry.BUNDLED / str(card.weights))
    assert (found.classes, found.multi_label, found.frame_rate) == (
        card.classes, card.multi_label, card.frame_rate,
    )  # fmt: skip


def test_convert_keeps_what_the_published_files_say(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.VideoMAEConfig(
        image_size=32, num_frames=4, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, num_labels=3, use_mean_pooling=True,
        id2label=dict(enumerate(CLASSES)),
    )  # fmt: skip
    transformers.VideoMAEForVideoClassification(config).save_pretrained(tmp_path / "published")
    (tmp_path / "published" / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]})
    )
    out = tmp_path / "ours.safetensors"
    assert main(["convert", str(tmp_path / "published"), "--out", str(out)]) == 0
    card = zoo.card_of(out)
    assert (card.classes, card.mean, card.std) == (CLASSES, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
