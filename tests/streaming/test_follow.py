"""`watch` as it comes: objects with ids in lines and pictures, zones, events and clips."""

import csv
import json
from types import SimpleNamespace

import av
import numpy as np
import pytest

import streamzoo
from streamzoo.streaming.cli import default_model, main
from streamzoo.streaming.engine import Answer
from streamzoo.streaming.regions import read_regions
from streamzoo.streaming.serve.records import record_of
from streamzoo.streaming.session import Result
from streamzoo.streaming.views import view_of
from streamzoo.streaming.views.follow import FollowView
from streamzoo.zoo.track import ActingTracks, Tracks

CLASSES = ("person", "bicycle", "car")


def tracks(boxes, ids, labels, seen=None):
    n = len(ids)
    return Tracks(
        boxes=np.asarray(boxes, np.float32).reshape(n, 4),
        ids=np.asarray(ids, np.int32),
        scores=np.full(n, 0.9, np.float32),
        labels=np.asarray(labels, np.int32),
        valid=np.asarray(ids) > 0,
        seen=np.asarray(ids) > 0 if seen is None else np.asarray(seen),
        detection_ids=np.zeros(5, np.int32),
    )


FOUND = tracks(
    [[0.5, 0.5, 0.7, 0.9], [0, 0, 0, 0], [0.1, 0.2, 0.3, 1.2]], [4, 0, 2], [0, 0, 2],
    seen=[True, False, False],
)  # fmt: skip


def result(found, time=0.5):
    return Result(3, time, 12.3456, found, CLASSES, False, "follow")


def test_a_line_has_objects_with_ids_and_the_persons_among_them():
    line = FollowView((90, 120)).record(SimpleNamespace(index=3, time=0.5), result(FOUND), 20.0)
    assert line == {
        "frame": 3, "time": 0.5, "model_ms": 12.35, "latency_ms": 20.0, "size": [90, 120],
        "objects": [
            {"label": "car", "score": 0.9, "box": [0.1, 0.2, 0.3, 1.0], "id": 2, "seen": False},
            {"label": "person", "score": 0.9, "box": [0.5, 0.5, 0.7, 0.9], "id": 4},
        ],
        "persons": [{"score": 0.9, "box": [0.5, 0.5, 0.7, 0.9], "id": 4}],
    }  # fmt: skip
    json.dumps(line)


def test_the_picture_shows_each_object_and_each_region():
    image = np.zeros((90, 120, 3), np.uint8)
    frame = SimpleNamespace(index=3, time=0.5)
    view = FollowView((90, 120))
    painted = view.paint(image, 0.5, None, view.record(frame, result(FOUND), 1.0), "")
    assert painted.shape == (90, 120, 3)
    assert painted[50:80, 57:63].any() and not painted[85, 110].any()
    other = result(tracks(FOUND.boxes, [5, 0, 2], FOUND.labels))
    assert (view.paint(image, 0.5, None, view.record(frame, other, 1.0), "") != painted).any()
    regions = read_regions(["door=60,10,110,10,110,40,60,40"], ["gate=0,45,119,45"], (90, 120))
    view = FollowView((90, 120), regions)
    nothing = view.record(frame, result(tracks([], [], [])), 1.0)
    drawn = view.paint(image, 0.5, None, nothing, "")
    assert drawn[30, 90].any() and drawn[43:48, 50:60].any() and not drawn[80, 100].any()


def test_of_a_person_stands_what_is_known_that_he_does_and_nothing_else():
    known = np.asarray([[False, True], [False, True], [False, False]])
    scores = np.asarray([[0.2, 0.81234], [0.1, 0.9], [0.6, 0.4]], np.float32)
    acting = ActingTracks(
        **vars(tracks(FOUND.boxes, FOUND.ids, [0, 0, 0])), action_scores=scores, action_known=known
    )
    answer = Result(3, 0.5, 12.3, acting, (*CLASSES, "nothing", "walking"), False, "follow")
    view, frame = FollowView((90, 120)), SimpleNamespace(index=3, time=0.5)
    line = view.record(frame, answer, 20.0)
    assert [one.get("actions") for one in line["persons"]] == [None, {"walking": 0.8123}]
    assert [view.label(one) for one in line["objects"]] == ["person 2", "person 4: walking"]
    json.dumps(line)
    image = np.zeros((90, 120, 3), np.uint8)
    silent = view.record(frame, result(tracks(FOUND.boxes, FOUND.ids, [0, 0, 0])), 20.0)
    painted = [view.paint(image, 0.5, None, one, "") for one in (line, silent)]
    assert (painted[0] != painted[1]).any()


def test_counts_and_events_stand_in_the_line():
    view = FollowView((100, 100), read_regions(["left=0,0,50,0,50,100,0,100"], [], (100, 100)))
    lines = []
    for t, x in enumerate([0.7, 0.3, 0.3]):
        found = tracks([[x, 0.2, x + 0.1, 0.8]], [9], [0])
        lines.append(view.record(SimpleNamespace(index=t, time=t / 10), result(found), 1.0))
    assert [len(line["events"]) for line in lines] == [0, 1, 0]
    event = lines[1]["events"][0]
    assert (event["kind"], event["state"], event["region"], event["id"]) == (
        "zone",
        "start",
        "left",
        9,
    )
    assert lines[2]["zones"] == {"left": {"inside": 1, "visits": 1}}
    (end,) = view.finish()
    assert end["state"] == "end" and end["end"] == pytest.approx(0.2)


def test_the_view_follows_the_task():
    kinds = [view_of(streamzoo.model_card(n)) for n in ("follow-nano/coco", "yolox-nano/coco")]
    assert [type(kind).__name__ for kind in kinds] == ["FollowView", "DetectView"]
    assert type(view_of(streamzoo.model_card("dsta-lite0/ut"))).__name__ == "ActionView"


def test_a_server_sends_objects_and_persons():
    answer = Answer("cam", 3, time=0.5, latency=0.02, result=result(FOUND))
    record = record_of(answer, 3)
    assert [one["id"] for one in record["persons"]] == [4]
    assert [(o["label"], o["id"]) for o in record["output"]["objects"]] == [
        ("car", 2),
        ("person", 4),
    ]
    json.dumps(record, allow_nan=False)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A drawn person? No detector takes one for real; so half a second of noise."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        rng = np.random.default_rng(0)
        for _ in range(4):
            image = rng.integers(0, 255, (96, 160, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_watch_follows_by_default_and_invents_nothing(film, tmp_path, capsys):
    assert default_model() == "follow-nano/coco"
    words = ["watch", str(film), "--out", str(tmp_path), "--zone", "z=0,0,159,0,159,95"]
    assert main([*words, "--record-events"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "film.jsonl").read_text().splitlines()]
    assert len(lines) == 4 and all(line["objects"] == line["persons"] == [] for line in lines)
    assert all("classes" not in line for line in lines)  # nor an action
    assert lines[-1]["zones"] == {"z": {"inside": 0, "visits": 0}} and lines[0]["events"] == []
    assert not (tmp_path / "film.events.jsonl").exists()  # nothing happened
    assert not list(tmp_path.glob("film-event*"))
    with av.open(str(tmp_path / "film.mp4")) as video:
        assert (video.streams.video[0].height, video.streams.video[0].width) == (96, 160)
    assert main(["export", str(tmp_path / "film.jsonl")]) == 0
    assert list(csv.DictReader((tmp_path / "film.csv").open())) == []
    assert len(json.loads((tmp_path / "film.coco.json").read_text())["images"]) == 4


@pytest.mark.parametrize(
    "words, text",
    [
        (["--notify", "http://127.0.0.1/x"], "--notify: there are no events without"),
        (["--record-events"], "--record-events: there are no events without"),
        (["--line", "0,0,500,5"], "outside the picture, which is 160 wide"),
        (["--line", "0,0,5"], "write it as"),
        (["--line", "0,0,5,5", "--model", "yolox-nano/coco"], "gives objects no ids"),
        (["--prompt", "person.", "--model", "yolox-nano/coco"], "takes no prompt"),
    ],
)
def test_wrong_use_is_one_line(film, tmp_path, capsys, words, text):
    code = main(["watch", str(film), "--out", str(tmp_path), "--no-video", *words])
    err = capsys.readouterr().err
    assert code == 2 and text in err.splitlines()[-1] and "Traceback" not in err


def test_export_says_what_it_needs(tmp_path, capsys):
    assert main(["export", str(tmp_path / "no.jsonl")]) == 2
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "a.jsonl").write_text("")
    (tmp_path / "a.csv").write_text("mine")
    assert main(["export", str(tmp_path / "a.jsonl")]) == 2
    assert "--overwrite" in capsys.readouterr().err and (tmp_path / "a.csv").read_text() == "mine"
    assert main(["export", str(tmp_path / "a.jsonl"), "--size", "12"]) == 2
    assert "HEIGHTxWIDTH" in capsys.readouterr().err
