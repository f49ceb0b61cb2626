"""A folder of unlabelled videos: parts, boxes found once, little memory; and the detector."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamzoo.train.data import box_cache
from streamzoo.train.data.base import DataError
from streamzoo.train.data.box_cache import detect, told
from streamzoo.train.data.folder import Folder
from streamzoo.train.data.pipeline import batches
from streamzoo.train.data.segments import Recent
from streamzoo.train.data.yolox import Detector, overlap

from .video_files import numbers, write

SHARED = Path(__file__).resolve().parents[3] / "shared/data"
YOLOX = SHARED / "weights/yolox_nano_coco_416.onnx"
OPTIONS: dict[str, Any] = {"size": (24, 32), "frame_rate": 5.0}


class Finder:
    """One person, whose right edge tells the frame's brightness."""

    boxes, identity, calls = 2, ("finder",), 0

    def __call__(self, frame):
        self.calls += 1
        boxes = np.zeros((2, 4), np.float32)
        boxes[0] = 0.1, 0.1, 0.3 + frame.mean() / 255 / 2, 0.9
        return boxes, np.asarray([0.7, 0.0], np.float32)


@pytest.fixture
def finder(monkeypatch):
    monkeypatch.setattr(box_cache, "opened", lambda detector, boxes: detector)
    return Finder()


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "videos/a.mp4", frames=40)
    write(tmp_path / "videos/deep/b.mkv", frames=16)
    return tmp_path / "videos"


def test_videos_are_cut_in_parts_that_make_up_the_whole(root):
    source = Folder(root, segment=1.5, **OPTIONS)
    assert source.videos == ("a.mp4@0s", "a.mp4@1.4s", "a.mp4@2.6s", "deep/b.mkv")
    assert sum(source.length(i) for i in range(3)) == 20
    parts = [source.read(i, 0, source.length(i)).frames for i in range(3)]
    assert numbers(np.concatenate(parts)) == list(range(0, 40, 2))
    np.testing.assert_array_equal(source.read(1, 2, 3).frames, parts[1][2:5])
    clip = source.read(3, 0, 4)
    assert not clip.box_valid.any() and clip.labels.shape == (4, 8, 0)


def test_boxes_are_found_lazily_once_and_kept(root, finder, tmp_path):
    options = OPTIONS | {"detector": finder, "max_boxes": 3, "cache": tmp_path / "c", "every": 4}
    source = Folder(root, classes=("x", "y"), **options)
    assert finder.calls == 0
    clip = source.read(0, 0, 20)
    assert finder.calls == 5  # of 20 frames
    assert clip.box_valid.tolist() == [[True, False, False]] * 20 and not clip.labelled.any()
    np.testing.assert_allclose(clip.persons[:, 0], 0.7)
    assert clip.labels.shape == (20, 3, 2) and not clip.labels.any()
    edge = clip.boxes[:, 0, 2]  # on a line between two looks, held after the last
    np.testing.assert_allclose(np.diff(edge[:17]), np.diff(edge[:17]).mean(), atol=1e-3)
    assert edge[16] > edge[0] + 0.2 and (edge[16:] == edge[16]).all()
    source.prepare()
    calls = finder.calls
    assert calls == 5 + 2
    again = Folder(root, **options)
    again.prepare()
    assert finder.calls == calls
    np.testing.assert_array_equal(again.read(0, 3, 5).boxes, clip.boxes[3:8])


def test_the_whole_frame_may_have_the_first_slot(root, finder):
    source = Folder(root, whole_frame=True, detector=finder, max_boxes=2, **OPTIONS)
    clip = source.read(0, 0, 3)
    assert (clip.boxes[:, 0] == [0, 0, 1, 1]).all() and clip.box_valid.all()
    np.testing.assert_allclose(clip.persons, [[0, 0.7]] * 3)


def test_little_memory_gives_the_same_batches(root):
    rich = batches(Folder(root, segment=1.0, **OPTIONS), 2, 4, 0)
    poor = batches(Folder(root, segment=1.0, budget=1e-6, **OPTIONS), 2, 4, 0)
    for _ in range(8):
        a, b = next(rich), next(poor)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_recent_keeps_the_last_used_within_its_limit():
    made = []
    recent = Recent(250, lambda key: made.append(key) or (np.zeros(100, np.uint8),))
    for key in "abacab":
        recent(key)
    # c pushed b out, as a had just been used
    assert made == ["a", "b", "c", "b"] and recent.bytes <= 250


def test_threads_wait_for_one_making():
    made, gate = [], threading.Event()

    def make(key):
        made.append(key)
        gate.wait(5)
        return (np.zeros(1),)

    recent = Recent(1e9, make)
    threads = [threading.Thread(target=recent, args=("a",)) for _ in range(4)]
    [t.start() for t in threads]
    gate.set()
    [t.join() for t in threads]
    assert made == ["a"]


def test_bad_videos_are_skipped_and_told(root, tmp_path):
    (root / "bad.mp4").write_bytes(b"words")
    source = Folder(root, **OPTIONS)
    assert len(source) == 2 and "cannot be read as video" in source.skipped["bad.mp4"]
    (tmp_path / "worse").mkdir()
    (root / "bad.mp4").rename(tmp_path / "worse/bad.mp4")
    with pytest.raises(DataError, match="none of 1 videos can be read, e.g. .*bad.mp4"):
        Folder(tmp_path / "worse", **OPTIONS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no videos in it"):
        Folder(tmp_path / "empty", **OPTIONS)
    for name in ("frame_rate", "every", "segment", "max_boxes"):
        with pytest.raises(DataError, match=f"{name}=0"):
            Folder(root, **(OPTIONS | {name: 0}))


def test_a_slot_is_followed_only_where_the_boxes_overlap():
    def jump(frame):  # far away at the second look
        x = 0.0 if frame[0, 0, 0] < 4 else 0.8
        return np.asarray([[x, 0.1, x + 0.2, 0.9]], np.float32), np.asarray([0.9], np.float32)

    vars(jump)["boxes"] = 1
    frames = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    found = detect(jump, frames, every=4)  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(found.boxes[:, 0, 0], [0.0] * 4 + [0.8] * 4)


def test_long_work_is_told(monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(box_cache.time, "monotonic", lambda: next(clock))
    lines: list[str] = []
    assert list(told(range(10), 10, "persons", lines.append)) == list(range(10))
    assert lines and lines[0] == "persons: 1 of 10, 72 s left"


def test_a_missing_or_wrong_detector_is_named(root, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    with pytest.raises(DataError, match="none.onnx: give the path of a YOLOX"):
        Folder(root, detector=tmp_path / "none.onnx", **OPTIONS)
    (tmp_path / "words.onnx").write_bytes(b"words" * 10)
    with pytest.raises(DataError, match="words.onnx: not an ONNX model") as caught:
        Folder(root, detector=tmp_path / "words.onnx", **OPTIONS)
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="pip install"):
        Detector(tmp_path / "words.onnx")


@pytest.mark.skipif(not YOLOX.is_file(), reason="needs ../shared/data")
def test_another_onnx_file_is_no_detector():
    pytest.importorskip("onnxruntime")
    for name in ("fastestdet_coco_352.onnx", "silero_vad_16k_op15.onnx"):
        with pytest.raises(DataError, match=f"{name}: input .* are not those of YOLOX"):
            Detector(YOLOX.parent / name)


@pytest.mark.skipif(not YOLOX.is_file(), reason="needs ../shared/data")
def test_the_detector_finds_the_persons_people_drew():
    pytest.importorskip("onnxruntime")
    from streamzoo.train.data.ucf101_24 import UCF101_24

    source = UCF101_24(SHARED / "ucf101_24", size=(256, 340))
    finder, hits = Detector(YOLOX), []
    for name in ("v_Fencing_g01_c06", "v_SalsaSpin_g03_c01"):
        clip = source.read(source.videos.index(name), 20, 2)
        for frame, boxes, valid in zip(clip.frames, clip.boxes, clip.box_valid, strict=False):
            found, scores = finder(frame)
            assert (np.diff(scores) <= 0).all() and ((found >= 0) & (found <= 1)).all()
            hits += list(overlap(boxes[valid][:, None], found[None]).max(1) > 0.5)
    assert np.mean(hits) > 0.6, hits
