"""Detections and poses in `watch`: JSON lines, what is drawn, frames that keep their shape."""

import json
from types import SimpleNamespace

import av
import numpy as np
import pytest

from streamzoo.streaming.cli import main
from streamzoo.streaming.session import Result, Session, frame_size
from streamzoo.streaming.sources import open_source
from streamzoo.streaming.views import view_of
from streamzoo.streaming.views.detect import DetectView, objects
from streamzoo.streaming.views.pose import PoseView
from streamzoo.zoo import model_card
from streamzoo.zoo.detect import Detections
from streamzoo.zoo.pose import Pose

FOUND = Detections(
    boxes=np.asarray([[0.1, 0.2, 0.3, 0.8], [0.5, 0.5, 0.75, 0.9], [0, 0, 0, 0]], np.float32),
    scores=np.asarray([0.91234, 0.5, 0.0], np.float32),
    labels=np.asarray([0, 7, 0], np.int32),
    valid=np.asarray([True, True, False]),
)


@pytest.fixture
def film(tmp_path):
    """Four grey frames of 60 x 160."""
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 60, "yuv420p"
        image = np.full((60, 160, 3), 90, np.uint8)
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_a_line_lists_the_objects_best_first_and_the_picture_shows_them():
    view, image = DetectView(), np.zeros((90, 120, 3), np.uint8)
    result = SimpleNamespace(output=FOUND, classes=("person",), milliseconds=12.3456)
    line = view.record(SimpleNamespace(index=3, time=0.5), result, 20.0)
    assert line == {
        "frame": 3, "time": 0.5, "model_ms": 12.35, "latency_ms": 20.0,
        "objects": [
            {"label": "person", "score": 0.9123, "box": [0.1, 0.2, 0.3, 0.8]},
            {"label": "class 7", "score": 0.5, "box": [0.5, 0.5, 0.75, 0.9]},
        ],
    }  # fmt: skip
    json.dumps(line)
    painted = view.paint(image, 0.5, result, line, "")
    assert painted.shape == (*view.canvas((90, 120)), 3)
    assert painted[69:73, 10:14].any() and painted[43:47, 58:62].any()  # corners of the two boxes
    assert not painted[80, 110].any()
    empty = FOUND.replace(valid=np.zeros(3, bool))
    assert objects(empty, ()) == []
    blank = view.paint(image, 0.5, result, line | {"objects": []}, "")
    np.testing.assert_array_equal(blank, image)


def test_sources_give_a_letterboxed_model_frames_of_their_own_shape(film):
    size = frame_size(model_card("yolox-nano/coco"))
    with open_source(film, size=size, keep_original=True) as source:
        assert source.size == (156, 416) and source.original_size == (60, 160)
        frame = source.read()
        assert frame.image.shape == (156, 416, 3) and frame.original.shape == (60, 160, 3)
    assert size((416, 416)) == (156, 416)  # a camera that changes its picture keeps the frames
    with open_source(film, size=frame_size(model_card("tsa-lite0/synth"))) as source:
        assert source.size == model_card("tsa-lite0/synth").input_size
    with open_source(film, size=(20, 30), live=True) as source:
        assert source.size == (20, 30)


def test_watch_writes_lines_and_video(film, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["watch", str(film), "--model", "yolox-nano/coco", "--out", str(out)]) == 0
    assert "4 frames" in capsys.readouterr().out
    lines = [json.loads(line) for line in (out / "film.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [0, 1, 2, 3]
    assert all(line["objects"] == [] for line in lines)  # there is nothing to see
    with av.open(str(out / "film.mp4")) as video:
        assert (video.streams.video[0].height, video.streams.video[0].width) == (60, 160)


def test_a_session_answers_detections():
    with Session.of("yolox-nano/coco", frame_shape=(156, 416)) as session:
        assert session.carry_bytes == 0
        result = session.push(np.zeros((156, 416, 3), np.uint8))
    assert isinstance(result.output, Detections) and result.output.boxes.shape == (100, 4)
    assert not result.output.valid.any()
    assert result.scores() is None and result.persons() == []


def test_a_pose_is_listed_and_drawn():
    points = np.zeros((2, 17, 3), np.float32)
    points[0, 5], points[0, 7] = (0.25, 0.25, 0.9), (0.25, 0.75, 0.8)  # left shoulder, elbow
    points[0, 9] = (0.9, 0.9, 0.1)  # a wrist that is not seen
    found = Pose(
        points,
        np.asarray([[0.2, 0.2, 0.5, 0.8], [0, 0, 0, 0]], np.float32),
        np.asarray([0.5, 0.0], np.float32),
        np.asarray([True, False]),
    )
    view, image = PoseView(), np.zeros((100, 120, 3), np.uint8)
    result = SimpleNamespace(output=found, classes=("person",), milliseconds=1.0)
    line = view.record(SimpleNamespace(index=0, time=0.0), result, 2.0)
    (person,) = line["persons"]
    assert person["box"] == [0.2, 0.2, 0.5, 0.8] and person["score"] == 0.5
    assert len(person["keypoints"]) == 17 and person["keypoints"][7] == [0.25, 0.75, 0.8]
    painted = view.paint(image, 0.0, result, json.loads(json.dumps(line)), "")
    assert painted[45:55, 28:31].any()  # the bone between the two points
    assert not painted[85:, 100:].any()


def test_points_that_are_no_persons_are_drawn_without_bones():
    palm = Pose(
        np.asarray([[[0.5, 0.5, 0.9]] * 7], np.float32),
        np.asarray([[0.2, 0.2, 0.8, 0.8]], np.float32),
        np.asarray([0.5], np.float32),
        np.asarray([True]),
    )
    result = Result(0, 0.0, 1.0, palm, ("palm",), False, "pose")
    painted = result.draw(np.zeros((100, 120, 3), np.uint8))
    assert painted[48:52, 58:62].any() and painted[20, 30:80].any()  # a point, the box
    (row,) = result.rows()
    assert row["label"] == "palm" and row["what"] == "person" and row["x1"] == 0.2


@pytest.mark.parametrize("name", ["movenet-multi/coco", "movenet-single/coco"])
def test_watch_writes_persons(film, tmp_path, name):
    out = tmp_path / "out"
    assert main(["watch", str(film), "--model", name, "--out", str(out), "--frames", "2"]) == 0
    lines = [json.loads(line) for line in (out / "film.jsonl").read_text().splitlines()]
    assert [line["persons"] for line in lines] == [[], []]


def test_the_card_s_task_picks_the_view():
    names = {"yolox-nano/coco": "DetectView", "movenet-multi/coco": "PoseView",
             "dsta-lite0/ucf11": "ActionView"}  # fmt: skip
    for name, view in names.items():
        assert type(view_of(model_card(name))).__name__ == view
