"""The synthetic persons as ArrayRecord files: built and read without TensorFlow, bit for bit."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

from streamzoo.train.data.base import DataError
from streamzoo.train.data.synth import Synth
from streamzoo.train.data.synth_tfds import SynthRecords, build
from streamzoo.train.data.synth_tfds.__main__ import main

ARGUMENTS = {"seconds": 2.0, "size": (48, 64), "frame_rate": 4.0, "seed": 9}
BUILD_AND_READ = f"""
import sys
from streamzoo.train.data.synth_tfds import SynthRecords, build
print(build(sys.argv[1], 3, 1, **{ARGUMENTS}))
SynthRecords(sys.argv[1]).read(0, 0, 2)
assert "tensorflow" not in sys.modules, "TensorFlow was imported"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("tensorflow_datasets", reason="needs the extra tfds")
    out = tmp_path_factory.mktemp("synth")
    command = [sys.executable, "-c", BUILD_AND_READ, str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(("split", "videos"), [("train", 3), ("test", 1)])
def test_clips_equal_the_generators(folder, split, videos):
    records, source = SynthRecords(folder, split), Synth(videos, split=split, **ARGUMENTS)
    assert len(records) == videos and records.videos == source.videos
    for name in ("classes", "multi_label", "frame_rate", "size", "max_boxes"):
        assert getattr(records, name) == getattr(source, name), name
    for video in range(videos):
        assert records.length(video) == source.length(video) == 8
        for start, count in ((0, 8), (3, 4)):
            ours, theirs = records.read(video, start, count), source.read(video, start, count)
            for name, value in theirs._asdict().items():
                again = getattr(ours, name)
                assert again.dtype == value.dtype, name
                np.testing.assert_array_equal(again, value, err_msg=name)


def test_a_worker_can_open_it_anew(folder):
    records = SynthRecords(folder)
    again = pickle.loads(pickle.dumps(records))
    np.testing.assert_array_equal(again.read(1, 2, 3).frames, records.read(1, 2, 3).frames)


def test_what_is_read_can_be_written_to(folder):
    records = SynthRecords(folder)
    for value in records.read(0, 0, 3):
        value[:] = 0
    assert records.read(0, 0, 3).frames.any()


def test_the_command_builds_once_and_prints_the_folder(tmp_path, capsys):
    pytest.importorskip("tensorflow_datasets", reason="needs the extra tfds")
    options = ["--out", str(tmp_path), "--videos", "1", "--test-videos", "0", "--seconds", "1"]
    assert main(options) == 0
    first = capsys.readouterr().out.splitlines()[-1]
    assert main(options) == 0
    assert capsys.readouterr().out.splitlines()[-1] == first
    assert len(SynthRecords(tmp_path)) == 1
    with pytest.raises(DataError, match="has no split 'test': it has train"):
        SynthRecords(first, "test")
    # Other arguments are another data set: the folder above no longer says which.
    assert main([*options, "--seed", "1"]) == 0
    with pytest.raises(DataError, match="holds 2 data sets"):
        SynthRecords(tmp_path)


def test_missing_data_sets_are_told(tmp_path, capsys):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match="build it with python -m"):
            SynthRecords(path)
    (tmp_path / "file").write_text("")
    assert main(["--out", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err
    with pytest.raises(DataError, match="at least 1"):
        build(tmp_path, videos=0)
    with pytest.raises(DataError, match="size is"):
        build(tmp_path, size=(8, 8))


def test_without_the_extra_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"\.\[tfds\]"):
        build(tmp_path)


def test_frames_outside_a_video_are_refused(folder):
    records = SynthRecords(folder)
    for video, start, count in ((3, 0, 1), (-1, 0, 1), (0, 7, 2), (0, -1, 1)):
        with pytest.raises(IndexError):
            records.read(video, start, count)
