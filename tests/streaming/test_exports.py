"""JSON lines as CSV and COCO: the same numbers, in their formats."""

import csv
import json

import pytest

from streamzoo.streaming.exports import write_coco, write_csv
from streamzoo.streaming.video_writer import OutputError

LINES = [
    {
        "frame": 0, "time": 0.0, "size": [272, 640],
        "objects": [
            {"label": "person", "score": 0.9, "box": [0.25, 0.5, 0.5, 1.0], "id": 7},
            {"label": "car", "score": 0.5, "box": [0.0, 0.0, 0.1, 0.5], "id": 8},
        ],
    },
    {"frame": 1, "time": 0.04, "size": [272, 640], "objects": []},
    {
        "frame": 2, "time": 0.08, "size": [272, 640],
        "objects": [{"label": "person", "score": 0.8, "box": [0.3, 0.5, 0.55, 1.0], "id": 7}],
    },
]  # fmt: skip
ACTIONS = [{"frame": 5, "time": 0.2, "persons": [{"box": [0, 0, 0.5, 1], "score": 0.7}]}]


@pytest.fixture
def lines(tmp_path):
    def write(frames, tail=""):
        path = tmp_path / "clip.jsonl"
        path.write_text("".join(json.dumps(frame) + "\n" for frame in frames) + tail)
        return path

    return write


def test_a_row_per_object_and_frame(lines, tmp_path):
    target = tmp_path / "clip.csv"
    assert write_csv(lines(LINES), target) == 3
    rows = list(csv.DictReader(target.open()))
    assert [(r["frame"], r["id"], r["label"]) for r in rows] == [
        ("0", "7", "person"), ("0", "8", "car"), ("2", "7", "person"),
    ]  # fmt: skip
    assert [float(rows[2][k]) for k in ("time", "score", "x1", "y1", "x2", "y2")] == [
        0.08, 0.8, 0.3, 0.5, 0.55, 1.0,
    ]  # fmt: skip


def test_coco_has_pixels_categories_and_tracks(lines, tmp_path):
    target = tmp_path / "clip.json"
    assert write_coco(lines(LINES), target, video="clip") == 3
    data = json.loads(target.read_text())
    assert [i["id"] for i in data["images"]] == [0, 1, 2]
    assert {(i["width"], i["height"]) for i in data["images"]} == {(640, 272)}
    names = {c["id"]: c["name"] for c in data["categories"]}
    notes = data["annotations"]
    assert [names[a["category_id"]] for a in notes] == ["person", "car", "person"]
    assert notes[0]["bbox"] == [160.0, 136.0, 160.0, 136.0] and notes[0]["area"] == 160 * 136
    assert [a["track_id"] for a in notes] == [7, 8, 7] and [a["image_id"] for a in notes] == [
        0,
        0,
        2,
    ]
    assert len({a["id"] for a in notes}) == 3 and {a["iscrowd"] for a in notes} == {0}


def test_persons_of_an_action_model_are_exported_too(lines, tmp_path):
    path = lines(ACTIONS)
    assert write_csv(path, tmp_path / "a.csv") == 1
    assert next(csv.DictReader((tmp_path / "a.csv").open()))["label"] == "person"
    with pytest.raises(OutputError, match="--size HEIGHTxWIDTH"):
        write_coco(path, tmp_path / "a.json")
    assert write_coco(path, tmp_path / "a.json", (100, 200)) == 1
    note = json.loads((tmp_path / "a.json").read_text())["annotations"][0]
    assert note["bbox"] == [0, 0, 100, 100] and "track_id" not in note


def test_a_line_that_a_killed_process_left_half_is_passed_over(lines, tmp_path):
    assert write_csv(lines(LINES, '{"frame": 3, "obj'), tmp_path / "a.csv") == 3


def test_what_is_not_of_watch_is_refused(lines, tmp_path):
    with pytest.raises(OutputError, match="line 2: no frame of `streamzoo watch`"):
        write_csv(lines([LINES[0], [1, 2]]), tmp_path / "a.csv")
    with pytest.raises(OutputError, match="no such file"):
        write_csv(tmp_path / "nothing.jsonl", tmp_path / "a.csv")
    with pytest.raises(OutputError, match="make it first"):
        write_csv(lines(LINES), tmp_path / "no" / "a.csv")
