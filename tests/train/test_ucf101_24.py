"""UCF101-24: each box on its frame, faults by line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamzoo.train.data.base import DataError
from streamzoo.train.data.ucf101_24 import UCF101_24

from .video_files import numbers, write

SHARED = Path(__file__).resolve().parents[3] / "shared/data/ucf101_24"
HEAD = "video,frame,x1,y1,x2,y2,class,track\n"
ROWS = HEAD + "a,4,0.1,0.2,0.5,0.9,Diving,0\na,4,0.6,0.2,0.9,0.9,Diving,1\na,5,0,0,1,1,Biking,0\n"


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "clips/a.mp4", frames=20)
    (tmp_path / "classes.txt").write_text("Biking\nDiving\n")
    (tmp_path / "clips_ava_style.csv").write_text(ROWS)
    return tmp_path


def test_boxes_stand_on_their_frames(root):
    source = UCF101_24(root, size=(24, 32), max_boxes=3)
    clip = source.read(0, 0, 20)
    assert numbers(clip.frames) == list(range(20)) and not source.multi_label
    assert clip.box_valid.sum(1).tolist() == [0] * 4 + [2, 1] + [0] * 14
    np.testing.assert_allclose(clip.boxes[4, 1], [0.6, 0.2, 0.9, 0.9])
    assert clip.labels[4].tolist() == [[0, 1], [0, 1], [0, 0]] and clip.labels[5, 0, 0] == 1
    np.testing.assert_array_equal(clip.labelled, clip.box_valid)
    np.testing.assert_array_equal(clip.persons, clip.box_valid)


def test_a_stride_takes_every_so_many_frames_with_their_boxes(root):
    source = UCF101_24(root, size=(24, 32), stride=4)
    clip = source.read(0, 0, source.length(0))
    assert source.frame_rate == 25 / 4
    assert numbers(clip.frames) == [0, 4, 8, 12, 16]
    assert clip.box_valid.sum(1).tolist() == [0, 2, 0, 0, 0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("video,frame,x1,y1,x2,y2,track\na,4,0,0,1,1,0\n", "csv:1: column 'class' is missing"),
        (HEAD + "a,4,-0.1,0,1,1,Diving,0\n", r"csv:2: box -0.1,0,1,1 lies outside \[0, 1\]"),
        (HEAD + "a,4,0,0,1,1,Divin,0\n", "csv:2: unknown class 'Divin'; did you mean Diving"),
        (HEAD + "a,4.5,0,0,1,1,Diving,0\n", "csv:2: frame 4.5 is not a count"),
        (HEAD + "a,20,0,0,1,1,Diving,0\n", "a: a box in frame 20, but it has 20 frames"),
        (HEAD + "b,4,0,0,1,1,Diving,0\n", "none of 1 videos can be used.*b.mp4: no such file"),
        (HEAD, "no boxes in it"),
    ],
)
def test_bad_tables(root, text, why):
    (root / "clips_ava_style.csv").write_text(text)
    with pytest.raises(DataError, match=why):
        UCF101_24(root, size=(24, 32))


def test_what_is_left_out_is_told(root):
    with (root / "clips_ava_style.csv").open("a") as file:
        file.write("gone,4,0,0,1,1,Diving,0\n")
    source = UCF101_24(root, size=(24, 32), max_boxes=1)
    assert source.videos == ("a",) and "no such file" in source.skipped["gone"]
    assert source.skipped["a (boxes)"] == "1 boxes beyond max_boxes=1"


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_the_real_clips():
    source = UCF101_24(SHARED, size=(24, 32))
    assert len(source) == 9 and not source.skipped and len(source.classes) == 24
    assert sum(source.length(i) for i in range(9)) == 1577
    assert sum(source.slots(i).box_valid.sum() for i in range(9)) == 1896
    clip = source.read(0, 62, 2)  # v_Basketball_g01_c02: its first box is on frame 63
    assert clip.box_valid.sum(1).tolist() == [0, 1]
    np.testing.assert_allclose(clip.boxes[1, 0], [0.5906, 0.4125, 0.7375, 0.8083], atol=1e-6)
