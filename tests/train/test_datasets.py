"""Data sets: a new one is one file and one line, and what worked before each had its own config
still works."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest

from streamzoo.train import datasets, settings
from streamzoo.train.__main__ import main
from streamzoo.train.data.base import DataError
from streamzoo.train.datasets.ava import AVAData
from streamzoo.train.datasets.folder import FolderData
from streamzoo.train.datasets.synth import SynthData
from streamzoo.train.datasets.ucf11 import UCF11Data
from streamzoo.train.datasets.ut_interaction import UTInteractionData
from streamzoo.train.recipe import Data, Recipe

SMALL = ["data.size=32,32", "model.name=tsa-mi16", "model.depth=1", "loop.batch=2",
         "loop.frames=4", "loop.steps=1", "loop.tensorboard=False"]  # fmt: skip
TOY = '''
import dataclasses
from typing import ClassVar

import numpy as np

from streamzoo.train.data.in_memory import LabelledVideos
from streamzoo.train.datasets import DataConfig


@dataclasses.dataclass(frozen=True)
class Lamps(DataConfig):
    """A lamp that is on or off."""

    brightness: int = 200
    kind: ClassVar[str] = "lamps"
    whole_frame: ClassVar[bool] = True

    def open(self, cache):
        films = [np.full((6, *self.size, 3), b, np.uint8) for b in (0, self.brightness)]
        return LabelledVideos(["a", "b"], films, [0, 1], ("off", "on"), frame_rate=5.0)
'''


@pytest.mark.slow
def test_a_new_data_set_is_one_file_and_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "lamps.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(datasets.DATA_SETS, "lamps", "lamps:Lamps")
    out, cache = f"loop.out={tmp_path / 'run'}", f"cache={tmp_path / 'cache'}"
    changes = ["data.brightness=90", "data.kind=lamps", "test.kind=lamps", "test.size=32,32"]
    assert main(["--config", "smoke", "--set", out, cache, *changes, *SMALL]) == 0
    said = capsys.readouterr().out
    assert "data.kind=lamps\n" in said and "data.brightness=90\n" in said
    assert "data: LabelledVideos, 2 videos, 2 classes" in said and "evaluation: top1 " in said
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data.brightness"] == 90
    sys.modules.pop("lamps")


@pytest.mark.parametrize("kind", datasets.DATA_SETS)
def test_every_data_set_says_its_name_and_where_it_comes_from(kind):
    config = datasets.data_set(kind)
    assert config.kind == kind and issubclass(config, datasets.DataConfig)
    assert set(config.files) <= {f.name for f in dataclasses.fields(config)}
    assert not config.files or config.where or not config.labelled


def test_the_kind_may_stand_anywhere_and_keeps_what_both_have():
    config = settings.load_config("ucf11_teacher")
    changed = settings.override(config, ["data.csv=a.csv", "data.max_boxes=3", "data.kind=ava"])
    want = AVAData(path=config.data.path, csv="a.csv", size=(128, 160), max_boxes=3, mirror=True)
    assert changed.data == want
    with pytest.raises(settings.SettingError, match="data.kind 'uct': choose from synth, records"):
        settings.override(config, ["data.kind=uct"])


def test_words_that_every_kind_once_took_are_said_and_left_out(capsys):
    config = settings.load_config("smoke")
    assert settings.override(config, ["data.csv=x.csv"]) == config
    assert capsys.readouterr().err == "note: data.csv is left out, synth data does not read it\n"
    with pytest.raises(settings.SettingError, match="SynthData has no 'cvs'"):
        settings.override(config, ["data.cvs=x.csv"])


def test_configs_of_before_make_the_same_data():
    with pytest.warns(DeprecationWarning, match="is called UCF11Data now"):
        old = Data(kind="ucf11", path="x.zip", size=(64, 64), frame_rate=1.0, split="test")
    assert old == UCF11Data(path="x.zip", size=(64, 64), split="test")
    with pytest.warns(DeprecationWarning):
        assert Data(videos=7) == SynthData(videos=7)
    with pytest.warns(DeprecationWarning):
        made = Data(kind="ut", path="a", sequences=(1, 2), sets=(1,), csv="")
    assert made == UTInteractionData(path="a", sequences=(1, 2), sets=(1,))
    with pytest.warns(DeprecationWarning), pytest.raises(TypeError):
        Data(kind="folder", pth="x")


def test_a_run_of_before_goes_on():
    """Its settings held every data set's words."""
    old = dict.fromkeys(("path", "csv", "labels", "timestamps", "detector"), "")
    old |= {"origin": "auto", "sequences": [], "sets": [1, 2], "background": True}
    config = Recipe()
    saved = json.loads(settings.to_json(config)) | {f"data.{k}": v for k, v in old.items()}
    assert settings.differences(json.dumps(saved), config) == []
    other = json.dumps(saved | {"data.videos": 5, "data.kind": "records"})
    differ = settings.differences(other, config)
    assert differ == ["data.kind: records -> synth", "data.videos: 5 -> 320"]


def test_files_are_found_in_the_shelf_and_what_is_missing_says_where_to_get_it(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    data = UCF11Data(path="../shelf/clips.zip")
    with pytest.raises(DataError, match=r"\$STREAMZOO_DATA; get it from www.crcv.ucf.edu"):
        data.check("data")
    shelf = tmp_path / "data"
    shelf.mkdir()
    (shelf / "clips.zip").touch()
    monkeypatch.setenv("STREAMZOO_DATA", str(shelf))
    data.check("data")
    with pytest.raises(DataError, match="archive|zip"):
        data.open(str(tmp_path / "cache"))  # found, and nothing in it
    with pytest.raises(DataError, match="no videos"):
        FolderData(path="data").open("")
