"""AVA's format: keyframes at the right frames, several actions per person, faults by line."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from streamzoo.train import settings
from streamzoo.train.data import ava
from streamzoo.train.data.ava import AVA
from streamzoo.train.data.base import DataError
from streamzoo.train.data.pipeline import batches
from streamzoo.train.datasets.synth import SynthData
from streamzoo.train.recipe import Recipe

from .video_files import numbers, write

SHARED = Path(__file__).resolve().parents[3] / "shared/data"
LABEL_MAP = """item {
  name: "sit"
  id: 11
}
item {
  name: "stand (still)"
  id: 12
}
label {
  name: "talk to"
  label_id: 79
}
"""
ROWS = """one,0001,0.1,0.2,0.5,0.9,12,0
one,0001,0.1,0.2,0.5,0.9,79,0
one,0001,0.6,0.2,0.9,0.9,11,1
one,0002,0.2,0.2,0.6,0.9,12,0
two,0003,0.1,0.2,0.5,0.9,11,0
"""


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "videos/one.mp4", frames=40)
    write(tmp_path / "videos/deep/two.mkv", frames=45)
    (tmp_path / "map.pbtxt").write_text(LABEL_MAP)
    (tmp_path / "rows.csv").write_text(ROWS)
    return tmp_path


def source(root, rows=None, **options):
    if rows is not None:
        (root / "rows.csv").write_text(rows)
    options = {"size": (24, 32), "frame_rate": 5.0, "lead": 1.0, "max_boxes": 3} | options
    return AVA(root / "rows.csv", root / "videos", root / "map.pbtxt", **options)


def test_labels_stand_on_the_keyframes_alone(root):
    data = source(root)
    assert data.classes == ("sit", "stand (still)", "talk to") and data.action_ids == (11, 12, 79)
    assert data.videos == ("one@1", "two@3") and not data.skipped and data.multi_label
    clip = data.read(0, 0, data.length(0))
    # from 0 s (1 s of lead) to the last keyframe at 2 s, 5 frames/s of a file with 10
    assert numbers(clip.frames) == list(range(0, 21, 2))
    assert np.flatnonzero(clip.labelled.any(1)).tolist() == [5, 10]
    assert data.keyframes(0) == {5: 1.0, 10: 2.0}
    assert clip.labels[5, :2].tolist() == [[0, 1, 1], [1, 0, 0]]
    np.testing.assert_allclose(clip.boxes[5, 1], [0.6, 0.2, 0.9, 0.9])
    np.testing.assert_array_equal(clip.box_valid, clip.labelled)
    np.testing.assert_array_equal(clip.persons, clip.labelled)
    assert clip.box_valid.sum(1).tolist() == [0] * 5 + [2] + [0] * 4 + [1]
    # the other file begins 1 s before its keyframe at 3 s, and parts equal the whole
    late = data.read(1, 0, data.length(1))
    assert numbers(late.frames) == list(range(20, 31, 2)) and late.labels[5, 0, 0] == 1
    for a, b in zip(data.read(0, 4, 3), clip, strict=False):
        np.testing.assert_array_equal(a, b[4:7])


def test_origin_shifts_the_files_and_stretches_are_cut(root):
    rows = ROWS.replace("0001", "0901").replace("0002", "0902").replace("0003", "0903")
    plain, shifted = source(root), source(root, rows, origin=900.0)
    for a, b in zip(plain.read(0, 0, 11), shifted.read(0, 0, 11), strict=False):
        np.testing.assert_array_equal(a, b)
    assert source(root, ROWS, segment=1.0).videos == ("one@1", "one@2", "two@3")
    assert ava.stretches([1, 2, 3, 7, 8, 9, 10, 11], 4, 2) == [[1, 2, 3], [7, 8, 9, 10], [11]]


def test_timestamps_choose_and_rows_may_be_empty_keyframes(root):
    (root / "included.txt").write_text("0001\n0003\n")
    assert source(root, timestamps=root / "included.txt").keyframes(0) == {5: 1.0}
    empty = source(root, ROWS + "one,0003\n")
    assert empty.keyframes(0) == {5: 1.0, 10: 2.0, 15: 3.0}
    assert not empty.read(0, 15, 1).box_valid.any()
    (root / "included.txt").write_text("0001\nsoon\n")
    with pytest.raises(DataError, match="included.txt:2: 'soon' is not a timestamp"):
        source(root, timestamps=root / "included.txt")


def test_column_names_and_gzip_are_read(root):
    named = "action_id,video_id,timestamp,x1,y1,x2,y2\n12,one,0001,0.1,0.2,0.5,0.9\n"
    assert source(root, named).read(0, 5, 1).labels[0, 0].tolist() == [0, 1, 0]
    (root / "plain.csv").write_text(ROWS)
    (root / "rows.csv.gz").write_bytes(gzip.compress(ROWS.encode()))
    assert ava.read(root / "rows.csv.gz", (11, 12, 79)) == ava.read(
        root / "plain.csv", (11, 12, 79)
    )


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("one,0001,0.1,0.2,0.5,0.9", "rows.csv:2: 6 columns, so 'action_id' is missing"),
        ("one,0001,0.1,0.2,1.5,0.9,12", r"rows.csv:2: box 0.1,0.2,1.5,0.9 lies outside \[0, 1\]"),
        ("one,0001,0.5,0.2,0.5,0.9,12", "rows.csv:2: box .* is empty"),
        ("one,0001,0.1,0.2,0.5,0.9,13", "rows.csv:2: unknown class '13'.*nearest 11, 12, 79"),
        ("one,0001,0.1,0.2,0.5,0.9,sit", "rows.csv:2: unknown class 'sit'"),
        ("one,soon,0.1,0.2,0.5,0.9,12", "rows.csv:2: timestamp is 'soon'"),
        ("one,0001,0.1,nan,0.5,0.9,12", "rows.csv:2: y1 is 'nan'"),
    ],
)
def test_a_bad_line_is_named(root, line, text):
    with pytest.raises(DataError, match=text) as caught:
        source(root, "one,0001,0.1,0.2,0.5,0.9,12\n" + line + "\n")
    assert "\n" not in str(caught.value)


def test_a_missing_column_of_a_named_table_offers_the_nearest(root):
    with pytest.raises(DataError, match="column 'timestamp' is missing.*did you mean 'time_stamp'"):
        source(root, "video_id,time_stamp,x1,y1,x2,y2,action_id\none,1,0,0,1,1,12\n")


def test_bad_videos_are_skipped_and_told(root):
    (root / "videos/bad.mp4").write_bytes(b"words")
    more = "".join(f"{name},0001,0.1,0.2,0.5,0.9,12\n" for name in ("bad", "gone"))
    data = source(root, ROWS + more + "one,0099,0.1,0.2,0.5,0.9,12\n", max_boxes=1)
    assert data.videos == ("one@1", "two@3")
    assert "no such video" in data.skipped["gone"] and "cannot be read" in data.skipped["bad"]
    assert "1 of 3 lie outside" in data.skipped["one (keyframes)"]
    assert "1 boxes beyond max_boxes=1" in data.skipped["one (boxes)"]
    with pytest.raises(DataError, match="none of 2 videos can be used"):
        source(root, more)


def test_actions_outside_the_map_are_dropped_only_when_asked_and_told(root):
    data = source(root, ROWS + "one,0001,0.1,0.2,0.5,0.9,13,0\n", other_actions="drop")
    assert data.read(0, 5, 1).labels[0, 0].tolist() == [0, 1, 1]
    assert list(data.skipped.values())[0].startswith("1 rows of actions")


def test_only_avas_own_actions_are_dropped(root):
    with pytest.raises(DataError, match="unknown class '81'"):
        source(root, ROWS + "one,0001,0.1,0.2,0.5,0.9,81,0\n", other_actions="drop")


@pytest.mark.parametrize("cut", [False, True])
def test_the_recipe_reads_avas_published_layouts(root, cut):
    """Whole films, or films cut at minute 15, told by what their timestamps fit; 80 annotated
    actions of which the map lists some; a list of timestamps; corners that rounding put outside."""
    rows = ROWS + "one,0001,0.1,0.2,0.5,0.9,13,0\none,0002,-0.0004,0.2,1.000001,0.9,11,1\n"
    if cut:
        rows = "".join(
            f"{name},{int(time) + 900:04d},{rest}"
            for name, time, rest in (line.split(",", 2) for line in rows.splitlines(True))
        )
    (root / "rows.csv").write_text(rows)
    (root / "times.txt").write_text("".join(f"{t + 900 * cut:04d}\n" for t in (1, 2)))
    data = dict(kind="ava", path=root / "videos", csv=root / "rows.csv", labels=root / "map.pbtxt")
    base = Recipe(SynthData(frame_rate=5.0, size=(32, 32)))
    recipe = settings.override(base, [f"data.{name}={value}" for name, value in data.items()])
    whole = recipe.data.open(str(root))
    first = source(root, origin=900.0 * cut, lead=2.0, other_actions="drop", size=(32, 32))
    assert len(whole) == 2 and not whole.dense and not first.dense
    one = next(i for i, name in enumerate(whole.videos) if name.startswith("one"))
    frames = list(first.keyframes(one))
    got = whole.read(one, frames[-1], 1)
    assert got.box_valid[0].sum() == 2 and got.boxes.min() == 0 and got.boxes.max() == 1
    np.testing.assert_array_equal(got.frames, first.read(one, frames[-1], 1).frames)
    assert any("1 rows of actions" in why for why in whole.skipped.values())
    chosen = settings.override(recipe, [f"data.timestamps={root / 'times.txt'}"]).data.open("")
    assert [name.split("@")[0] for name in chosen.videos] == ["one"]  # second 3 does not count
    wrong = settings.override(recipe, [f"data.origin={0 if cut else 900}"]).data
    with pytest.raises(DataError, match="none of 2 videos can be used.*lie outside the video"):
        wrong.open("")
    with pytest.raises(DataError, match="data.origin=soon: auto, or seconds such as 900"):
        settings.override(recipe, ["data.origin=soon"]).data.open("")


def test_a_file_that_goes_bad_later_is_black_unlabelled_and_told(root):
    data = source(root)
    (root / "videos/one.mp4").unlink()
    clip = data.read(0, 0, 11)
    assert not clip.frames.any() and not clip.box_valid.any() and not clip.labelled.any()
    assert "no such file" in data.skipped["one@1"]
    assert data.read(1, 5, 1).labelled.any()


@pytest.mark.parametrize(
    ("text", "why"), [("", "no entries"), ("item { id: 1 }", "without name"), (None, "label map")]
)
def test_a_bad_label_map(root, text, why):
    path = root / "map.pbtxt"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(DataError, match=why):
        source(root)


def test_it_trains(root):
    batch = next(batches(source(root), 2, 4, 0))
    assert batch["frames"].shape == (2, 4, 24, 32, 3) and batch["labels"].shape == (2, 4, 3, 3)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_real_rows_and_maps_are_read(tmp_path):
    names = ava.read_label_map(SHARED / "ava/ava_action_list_v2.2.pbtxt")
    assert len(names) == 80 and set(names) == set(range(1, 81))
    sixty = ava.read_label_map(SHARED / "ava/ava_action_list_v2.2_for_activitynet_2019.pbtxt")
    assert len(sixty) == 60
    times = ava.read_timestamps(SHARED / "ava/ava_included_timestamps_v2.2.txt")
    assert times == set(range(902, 1799))
    marks, dropped = ava.read(SHARED / "ava/ava_test_v1.0.csv.gz", sorted(names))
    rows = sum(len(a) for v in marks.values() for boxes in v.values() for a in boxes.values())
    assert 0.95 * 41425 < rows <= 41425 and not dropped
    # the sample's two videos, stood in for by made ones that start at second 900
    table = SHARED / "clips/mmaction2_ava_sample.csv"
    marks, _ = ava.read(table, sorted(names))
    for name in marks:
        write(tmp_path / f"{name}.mp4", frames=45)
    data = AVA(table, tmp_path, SHARED / "ava/ava_action_list_v2.2.pbtxt", origin=900.0,
               size=(24, 32), frame_rate=5.0)  # fmt: skip
    assert len(data) == len(marks) == 2 and not data.skipped
    first = list(marks).index("0f39OWEqJ24")
    at = next(iter(data.keyframes(first)))
    clip = data.read(first, at, 1)
    on = {data.action_ids[i] for i in np.flatnonzero(clip.labels[0, 0])}
    assert on == {12, 17, 79}
