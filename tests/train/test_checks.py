"""What can be refused without data is refused before there is any."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from streamzoo import zoo
from streamzoo.train import checks, datasets, settings
from streamzoo.train.__main__ import main
from streamzoo.train.data.base import DataError


@pytest.fixture(autouse=True)
def no_data(monkeypatch, tmp_path):
    """An empty folder to work in, and data that must not be asked for."""

    def opened(self, *args, **options):
        raise AssertionError("data was opened")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.DataConfig, "features", opened)
    header = {"model": "videomae-window-mi16", "config": {"image_size": [48, 48], "depth": 2}}
    array = {"params": {"x": np.zeros(1, np.float32)}}  # of which only the header is looked at
    zoo.save(tmp_path / "teacher.safetensors", array, header)
    late = {**header["config"], "lookahead": 8, "image_size": [64, 64]}
    zoo.save(tmp_path / "late.safetensors", array, {**header, "config": late})
    zoo.save(tmp_path / "student.safetensors", array, {"model": "tsa-mi16"})
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "late.safetensors").read_bytes()[:20])
    (tmp_path / "file").touch()


# a student that sees what a teacher sees: 64 x 64, or 48 x 48, pixels in patches of 16
FITS = ["model.name=dsta-ti16", "data.size=64,64", "test.size=64,64"]
MEETS = [*(one.replace("64", "48") for one in FITS), "teacher=teacher.safetensors"]
WRONG = [
    ("synth_student", [], "no teacher at runs/synth_teacher/weights.safetensors: train"),
    ("synth_student", ["teacher=videomae-window-mi16"], "an architecture without weights"),
    ("synth_student", ["teacher=videomae-windoe"], "unknown model 'videomae-windoe'"),
    ("synth_student", ["teacher=student.safetensors"], "is a Student, not a videomae-window"),
    ("synth_student", ["teacher=cut.safetensors"], "not a complete safetensors file"),
    ("synth_student", ["teacher=teacher.safetensors"], "pixels in patches of"),
    ("synth_student", ["teacher=late.safetensors", "loop.frames=8"], "look-ahead 8: raise loop"),
    ("synth_student", ["teacher=late.safetensors", "distil.blocks=0"], "numbers from 0 to 1"),
    ("synth_teacher", ["model.lookahead=16", "loop.frames=16"], "raise loop.frames"),
    ("smoke", ["loop.batch=5", "loop.accumulate=2"], "loop.batch=5 cannot be shared out"),
    ("smoke", ["loop.mesh.data=3"], "is of 3 devices and there is 1"),
    ("smoke", ["model.name=tsa-lite1"], "did you mean"),
    ("smoke", ["model.weights=nothing.safetensors"], "model.weights: no weights at nothing"),
    ("smoke", ["data.kind=sinth"], "data.kind 'sinth': choose from synth"),
    ("smoke", ["test.kind=ucf11"], "test.path is not set"),
    ("smoke", ["test.kind=folder", "test.path=."], "has no labels to measure with"),
    ("smoke", ["data.kind=ava", "data.path=.", "data.csv=no.csv"], "data.csv: no.csv: no such"),
    ("smoke", ["data.kind=folder", "data.path=."], "name a teacher"),
    ("ut_teacher", ["data.path=nowhere"], "data.path: nowhere: no such file or folder"),
    ("ut_teacher", ["data.path=.", "data.detector=no.onnx"], "data.detector: no.onnx: no such"),
    ("smoke", ["data.size=100,101", "model.name=tsa-ti16"], "not a multiple of the patch"),
    ("smoke", ["loop.out=file/below"], "file/below: not a directory"),
    # pairs of settings of which one leaves the other without effect
    ("smoke", ["supervise.person=0.5"], "set model.person=true, or supervise.person=0"),
    ("synth_student", [*MEETS, "distil.person=1"], "set model.person=true, or distil.person=0"),
    ("smoke", ["model.person=true"], "a head that nothing teaches: set supervise.person=0.5"),
    ("synth_student", [*MEETS, "model.person=true"], "nothing teaches: set distil.person=0.5"),
    ("synth_student", [*MEETS, "labels=1", "distil.person=1", "model.person=1"], "nothing teaches"),
    ("synth_teacher", ["model.person=true"], "model.person=True: videomae-window-lite0 has none"),
    ("synth_teacher", ["supervise.person=1"], "supervise.person=1.0: videomae-window-lite0 has"),
    ("synth_teacher", ["model.shift=0.25"], "model.shift=0.25: videomae-window-lite0 has none"),
    ("smoke", ["model.name=dsta-lite0", "model.shift=0.25"], "model.shift=0.25: dsta-lite0 has no"),
    ("smoke", ["model.window=8"], "model.window=8: tsa-lite0 has none; leave it away"),
    ("smoke", ["model.lookahead=2"], "model.lookahead=2: tsa-lite0 has none; leave it away"),
    (
        "smoke",
        ["data.kind=ut", "data.path=.", "supervise.person=1", "model.person=1"],
        "taught by the persons that data.detector finds, and it is not set",
    ),
    ("smoke", ["data.size=64,64"], "test.size=(128, 128) is not data.size=(64, 64)"),
    ("synth_teacher", ["loop.frames=5"], "loop.frames=5: videomae-window-lite0 reads 2 frames"),
    ("synth_teacher", ["loop.frames=9", "model.window=6"], "reads 2 frames at a time"),
    ("synth_student", ["teacher=late.safetensors", *FITS], "cannot be kept: set keep_targets=F"),
    (
        "ut_teacher",
        ["data.path=.", "data.detector=", "data.sequences=(3,)", "data.sets=(2,)"],
        "data.sequences=(3,): data.sets=(2,) have none",
    ),
    (
        "encoder_proxy",
        ["teachers=i=efficientnet-lite0/imagenet", "model.size=60,80"],
        "model.size=(60, 80): not a multiple of the patch, 16",
    ),
    (
        "encoder_proxy",
        ["teachers=i=efficientnet-lite0/imagenet", "distil.student_sizes=((30,32),)"],
        "distil.student_sizes=(30, 32): not a multiple of the patch, 16",
    ),
    (
        "encoder_proxy",
        ["teachers=i=efficientnet-lite0/imagenet", "distil.teacher_sizes=((32,32),)"],
        "kept answers are of one size",
    ),
    ("encoder_student", ["data.path=.", "test.path=."], "no teacher at runs/encoder_proxy"),
    ("encoder_proxy", ["teachers=a=b.safetensors", "data.path=."], "no teacher at b.safetensors"),
    ("live_hrm", ["loop.frames=3"], "set loop.frames to that"),
    ("live_hrm", ["size=32,48"], "size=(32, 48): not a multiple of the stride of live-mi-lite0's"),
    ("live_hrm", ["weights=x.safetensors"], "weights: no weights at x.safetensors"),
    ("davis_tracker", ["path=nowhere"], "path: nowhere: no such file or folder"),
    ("davis_tracker", ["path=.", "model=tsa-ti16"], "tsa-ti16 is no tracker"),
]


@pytest.mark.parametrize("name, changes, text", WRONG, ids=[f"{n} {c}" for n, c, _ in WRONG])
def test_it_is_refused_in_one_line_before_data_is_opened(name, changes, text, capsys):
    assert main(["--config", name, "--set", "loop.out=out", *changes]) == 2
    err = capsys.readouterr().err
    assert text in err and err.startswith("error: ") and err.count("\n") == 1, err


def test_what_is_right_reaches_the_data(capsys):
    """So that the refusals above are of what they name, and not of everything."""
    for name, changes in (
        ("smoke", []),
        ("synth_teacher", []),
        ("synth_student", ["teacher=late.safetensors", "keep_targets=0", *FITS]),
        ("synth_student", [*MEETS, "model.person=1", "distil.person=0.5"]),
        ("synth_student", [*MEETS, "model.person=1", "labels=1", "supervise.person=0.5"]),
        ("synth_student", [*MEETS, "model.person=1", "model.weights=student.safetensors"]),
        ("synth_teacher", ["loop.frames=9", "model.window=5"]),
        ("synth_teacher", ["loop.frames=9", "supervise.windows=2"]),
        ("smoke", ["model.shift=0.25"]),
    ):
        with pytest.raises(AssertionError, match="data was opened"):
            main(["--config", name, "--set", "loop.out=out", *changes])


def test_build_refuses_what_the_command_line_refuses():
    config = settings.load_config("synth_student")
    with pytest.raises(DataError, match="no teacher at"):
        config.build()


def test_files_of_older_runs_and_of_nobody_are_no_reason(tmp_path):
    assert checks.weights("weights", "hf:somebody/something") is None
    found = checks.teacher("teacher.safetensors", lookahead=3)
    assert found.lookahead == 3 and found.image_size == (48, 48)
    header = {"model": "tsa-mi16", "config": json.dumps([1])}
    zoo.save("odd.safetensors", {"params": {"x": np.zeros(1)}}, header)
    with pytest.raises((DataError, zoo.WeightsError)):
        checks.weights("weights", "odd.safetensors")


def test_every_shipped_recipe_has_a_check():
    for name in settings.shipped():
        config = settings.load_config(name)
        assert dataclasses.is_dataclass(config) and callable(config.check)
