"""EgoGestAR: no session on both sides, frames as the palm detector wants them, other showings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamzoo.train import settings
from streamzoo.train.data.base import DataError
from streamzoo.train.data.egogestar import EgoGestAR, read_labels, sessions, vary
from streamzoo.train.data.stored import Shuffled, Varied
from streamzoo.train.datasets.egogestar import EgoGestARData

from .video_files import numbers, write

SHARED = Path(__file__).resolve().parents[3] / "shared/data/egogestar"
ROWS = ("left_1,left,A", "right_1,right,A", "left_2,left,B", "none_1,none,B", "right_2,right,C")
FIELDS = {"size": (48, 48), "frame_rate": 5.0}


def lay_out(folder: Path) -> Path:
    """A folder as EgoGestAR is published."""
    folder.mkdir(exist_ok=True)
    (folder / "classes.txt").write_text("left\nright\nnone\n")
    lines = ["video,class,session,frames,fps,width,height"]
    for i, row in enumerate(ROWS):
        write(folder / "clips" / f"{row.split(',')[0]}.mp4", frames=12 + 2 * i, size=(48, 64))
        lines.append(f"{row},{12 + 2 * i},10,64,48")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def root(tmp_path):
    return lay_out(tmp_path)


def opened(root, **fields):
    return EgoGestARData(path=str(root), **{**FIELDS, **fields}).features(str(root / "cache"))


def test_chosen_sessions_alone(root):
    every = opened(root)
    assert every.videos == ("left_1", "right_1", "left_2", "right_2")  # none has one session
    assert every.classes == ("left", "right")
    assert opened(root, sessions=("A", "C")).videos == ("left_1", "right_1", "right_2")
    assert opened(root, sessions=("B",)).videos == ("left_2",)
    labels = [int(every.read(i, 0, 1).labels[0, 0].argmax()) for i in range(4)]
    assert labels == [0, 1, 0, 1]
    with_none = EgoGestAR(root, none=True, **FIELDS)
    assert len(with_none) == 5 and with_none.classes == ("left", "right", "none")


def test_frames_fill_the_upper_left_and_keep_their_shape(root):
    frames = opened(root).read(0, 0, 6).frames  # 64 x 48 into 48 x 48
    assert frames.shape == (6, 48, 48, 3) and frames.dtype == np.uint8
    assert not frames[:, 36:].any() and frames[:, :36].mean() > 15
    assert numbers(frames[:, :36]) == [0, 2, 4, 6, 8, 10]  # 10 frames/s read at 5


@pytest.mark.parametrize("name", ["egogestar_teacher", "egogestar_student"])
def test_the_recipes_split_shares_no_session(name):
    config = settings.load_config(name)
    learned, measured = set(config.data.sessions), set(config.test.sessions)
    assert learned and measured and not learned & measured
    assert config.test.copies == 0 and not config.test.shuffle
    if not SHARED.is_dir():
        pytest.skip("EgoGestAR is not beside the tree: which clips these are is not looked at")
    of = sessions(SHARED)
    gestures = {r["session"] for r in read_labels(SHARED / "labels.csv") if r["class"] != "none"}
    assert learned | measured == gestures
    clips = [{v for v, s in of.items() if s in side} for side in (learned, measured)]
    assert not clips[0] & clips[1] and len(clips[1]) >= 40


def test_shuffled_frames_are_the_same_in_another_order(root):
    source = opened(root, sessions=("A",))
    mixed = opened(root, sessions=("A",), shuffle=True)
    plain, other = (numbers(s.read(1, 0, 7).frames[:, :36]) for s in (source, mixed))
    assert plain == sorted(plain) and sorted(other) == plain and other != plain
    again = Shuffled(source)
    assert numbers(again.read(1, 2, 3).frames[:, :36]) == other[2:5]  # whatever part is read
    assert mixed.identity(0) != source.identity(0)


def test_another_showing_has_the_label_and_is_always_the_same(root):
    """Points of a hand that moves to the right: so they do in every copy, at another speed."""
    x = np.zeros((9, 1, 1, 19), np.float16)
    x[..., 0], x[:, 0, 0, 1] = 0.9, np.linspace(-1, 1, 9)

    class Points(Shuffled):
        def read(self, video, start, count):
            clip = self.source.read(video, start, count)
            return clip._replace(frames=x[start : start + count])

        def length(self, video):
            return 6

    source = Points(opened(root, sessions=("A",)))
    copies = Varied(source, 3, vary)
    assert len(copies) == 8 and copies.videos[2:4] == ("left_1 (copy 1)", "right_1 (copy 1)")
    lengths = {copies.length(i) for i in range(2, 8)}
    assert len(lengths) > 1
    for i in range(2, 8):
        clip = copies.read(i, 0, copies.length(i))
        assert clip.labels[:, 0].argmax(-1).tolist() == [i % 2] * copies.length(i)
        seen = clip.frames[clip.frames[:, 0, 0, 0] > 0, 0, 0, 1]
        assert (np.diff(seen) > 0).all()
        same = Varied(source, 3, vary).read(i, 1, 2).frames
        np.testing.assert_array_equal(same, clip.frames[1:3])
    np.testing.assert_array_equal(copies.read(0, 0, 6).frames, x[:6])


def test_refusals(root):
    with pytest.raises(DataError, match="no session 'Z' with a gesture; there are A, B, C"):
        opened(root, sessions=("A", "Z"))
    with pytest.raises(DataError, match="left and right as classes"):
        EgoGestARData(path=str(root), mirror=True)
    with pytest.raises(DataError, match="only the palm's points can be moved"):
        opened(root, copies=2)
    (root / "labels.csv").write_text("video,class,session,width,height\nleft_1,left,,64,48\n")
    with pytest.raises(DataError, match="labels.csv:2: no session"):
        opened(root)
