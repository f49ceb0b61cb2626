"""UT-Interaction: labels from file names, honest folds, whole frame and persons in their slots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamzoo.train.data.base import DataError
from streamzoo.train.data.pipeline import batches
from streamzoo.train.data.ut_interaction import SEQUENCES, UTInteraction, leave_out, parse

from .video_files import write

SHARED = Path(__file__).resolve().parents[3] / "shared/data"
CLASSES = "0 shake\n1 hug this is a note\n2 background\n# a remark\n"
OPTIONS = {"size": (24, 32), "frame_rate": 5.0}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "classes.txt").write_text(CLASSES)
    for name in ("set1/0_1_0", "set1/1_1_2", "set1/2_2_1", "set2/0_11_1", "set2/1_12_0"):
        write(tmp_path / f"{name}.avi", frames=20)
    return tmp_path


class Finder:
    """A detector that sees one person, left or right, by the brightness."""

    boxes, identity = 2, ("finder",)
    calls = 0

    def __call__(self, frame):
        self.calls += 1
        boxes, scores = np.zeros((2, 4), np.float32), np.zeros(2, np.float32)
        boxes[0], scores[0] = (0.1, 0.2, 0.3, 0.9), 0.8
        return boxes, scores


@pytest.fixture
def finder(monkeypatch):
    from streamzoo.train.data import box_cache

    monkeypatch.setattr(box_cache, "opened", lambda detector, boxes: detector)
    return Finder()


def test_choice_of_sets_sequences_and_background(root):
    names = lambda **k: UTInteraction(root, **OPTIONS, **k).videos
    assert names() == ("set1/0_1_0", "set1/1_1_2", "set1/2_2_1", "set2/0_11_1", "set2/1_12_0")
    assert names(sets=(2,)) == ("set2/0_11_1", "set2/1_12_0")
    assert names(sequences=(1, 12)) == ("set1/0_1_0", "set1/1_1_2", "set2/1_12_0")
    assert names(exclude=(1, 12)) == ("set1/2_2_1", "set2/0_11_1")
    source = UTInteraction(root, background=False, **OPTIONS)
    assert source.classes == ("shake", "hug") and len(source) == 4
    assert source.sequences == (1, 2, 11, 12)


def test_the_label_is_the_whole_frames(root):
    source = UTInteraction(root, **OPTIONS)
    assert source.classes == ("shake", "hug", "background") and not source.multi_label
    clip = source.read(2, 3, 4)
    assert clip.frames.shape == (4, 24, 32, 3) and clip.frames.dtype == np.uint8
    assert (clip.boxes == [0, 0, 1, 1]).all() and clip.box_valid.all() and clip.labelled.all()
    assert not clip.persons.any() and (clip.labels == [0, 1, 0]).all()
    batch = next(batches(source, 2, 4, 0))
    assert batch["labels"].shape == (2, 4, 1, 3)


def test_persons_have_further_slots_and_are_found_once(root, finder, tmp_path):
    options = OPTIONS | {"detector": finder, "max_boxes": 3, "cache": tmp_path / "cache"}
    source = UTInteraction(root, sets=(2,), **options)
    calls = finder.calls
    assert calls == sum(source.length(i) for i in range(2))
    clip = source.read(0, 0, 2)
    assert clip.box_valid.tolist() == [[True, True, False]] * 2
    np.testing.assert_allclose(clip.persons[0], [0, 0.8, 0])
    assert clip.labels[0].tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 0]]
    again = UTInteraction(root, sets=(2,), label_persons=False, **options)
    assert finder.calls == calls  # from the cache
    clip = again.read(0, 0, 2)
    assert clip.labelled.tolist() == [[True, False, False]] * 2 and not clip.labels[:, 1:].any()


def test_folds_share_no_sequence_and_cover_all():
    tests = []
    for fold in range(1, 9):
        train, test = leave_out(fold)
        assert not set(train) & set(test) and len(train) == 14 and len(test) == 2
        tests += test
    assert sorted(tests) == sorted(SEQUENCES[1] + SEQUENCES[2])
    assert leave_out(3, sets=(2,)) == ((11, 12, 14, 15, 16, 17, 18), (13,))
    for fold, sets in ((0, (1,)), (9, (1, 2)), (1, (3,))):
        with pytest.raises(DataError, match="folds 1 to 8"):
            leave_out(fold, sets)


def test_bad_files_are_skipped_and_told(root):
    (root / "set1/9_1_1.avi").write_bytes(b"words")
    source = UTInteraction(root, **OPTIONS)
    assert len(source) == 5 and "cannot be read" in source.skipped["set1/9_1_1"]
    (root / "set1/x_1_1.avi").write_bytes(b"words")
    with pytest.raises(DataError, match="x_1_1.avi: UT-Interaction files are named"):
        UTInteraction(root, **OPTIONS)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"sets": (3,)}, "no set 3"),
        ({"sequences": (5,)}, r"no clips of sequences \[5\]"),
        ({"max_boxes": 0}, "max_boxes=0"),
        ({"detector": "none.onnx", "max_boxes": 2}, "the person detector is not at none.onnx"),
    ],
)
def test_bad_choices(root, change, text):
    with pytest.raises(DataError, match=text):
        UTInteraction(root, **OPTIONS, **change)


def test_bad_class_lists(root):
    for text, why in (("1 hug\n", "classes.txt:1: expected '0 <name>'"), ("", "no classes")):
        (root / "classes.txt").write_text(text)
        with pytest.raises(DataError, match=why):
            UTInteraction(root, **OPTIONS)
    (root / "classes.txt").write_text("0 shake\n")
    with pytest.raises(DataError, match="class 2 is not in"):
        UTInteraction(root, **OPTIONS)
    (root / "classes.txt").unlink()
    with pytest.raises(DataError, match="list of classes"):
        UTInteraction(root, **OPTIONS)
    with pytest.raises(DataError, match="UT-Interaction folder"):
        UTInteraction(root / "none", **OPTIONS)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_the_real_files():
    paths = sorted((SHARED / "ut_interaction").glob("set*/*.avi"))
    assert len(paths) == 142
    labels = [parse(p)[2] for p in paths]
    assert np.bincount(labels).tolist() == [16] * 6 + [46]
    assert {parse(p)[1] for p in paths} == set(SEQUENCES[1] + SEQUENCES[2])
    source = UTInteraction(SHARED / "ut_interaction", sets=(2,), sequences=(11,), **OPTIONS)
    assert len(source) == 6 and len(source.classes) == 7 and not source.skipped
    assert all(source.read(0, 0, 5).frames.std(axis=(1, 2, 3)) > 10)
