"""`streamzoo.watch`: frames and results in one loop, as rows and pictures."""

import dataclasses

import numpy as np
import pytest

import streamzoo
from streamzoo.streaming import Result
from streamzoo.streaming.engine import Answer
from streamzoo.streaming.serve.client import FIELDS
from streamzoo.streaming.serve.client import Result as Received
from streamzoo.streaming.serve.records import record_of
from streamzoo.zoo.pose import Pose

from . import tiny
from .rtsp import make_clip
from .test_follow import FOUND, result


def test_the_loop_gives_what_a_session_gives(home, tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", frames=5, size=(96, 160))
    with streamzoo.Session.of(tiny.NAME) as session:
        with streamzoo.open_source(clip, size=tiny.SIZE) as source:
            want = [session.push(frame.image, frame.time) for frame in source]
    loop = streamzoo.watch(clip, tiny.NAME, compile_cache=False)
    found = list(loop)
    assert len(found) == 5 and loop.card.task == "action"
    for (frame, got), expected in zip(found, want, strict=True):
        assert (got.index, got.time) == (expected.index, expected.time)
        np.testing.assert_array_equal(got.output.logits, expected.output.logits)
        assert frame.original.shape == (96, 160, 3)
        rows = got.rows()
        assert {row["what"] for row in rows} == {"frame", "person"}
        assert rows[0]["label"] in tiny.CLASSES and rows[0]["time"] == got.time
        assert isinstance(got, Result)
        best = max(tiny.scored(got))
        assert rows[0]["score"] == pytest.approx(best, abs=1e-4)
        (person, *_) = got.persons()
        row = next(row for row in rows if row["what"] == "person")
        assert row["x1"] == pytest.approx(person["box"][0], abs=1e-4)
        painted = got.draw(frame)
        assert painted.shape == (96, 160, 3) and (painted != frame.original).any()
        np.testing.assert_array_equal(painted, got.draw(frame.original))
    with pytest.raises(StopIteration):
        next(loop)
    with pytest.raises(RuntimeError, match="closed"):
        loop.session.push(found[0][0].image)
    with streamzoo.watch(clip, tiny.NAME, seconds=0.1, compile_cache=False) as loop:
        assert len(list(loop)) == 3  # at 0, 0.04 and 0.08 s
    with pytest.raises(streamzoo.SourceError, match="nothing.mp4"):
        streamzoo.watch(tmp_path / "nothing.mp4", tiny.NAME, compile_cache=False)


def test_prompts_go_with_trackers_alone(home, tmp_path):
    prompt = streamzoo.Prompt("dog", points=((3, 3),))
    with pytest.raises(ValueError, match="takes no prompts; tracker-lite0/davis is one"):
        streamzoo.watch("film.mp4", tiny.NAME, prompts=[prompt], compile_cache=False)
    with pytest.raises(ValueError, match="give prompts"):
        streamzoo.watch("film.mp4", "tracker-lite0/davis", compile_cache=False)


POSES = Pose(
    np.full((2, 17, 3), 0.5, np.float32),
    np.asarray([[0.2, 0.2, 0.5, 0.8], [0, 0, 0, 0]], np.float32),
    np.asarray([0.5, 0.0], np.float32),
    np.asarray([True, False]),
)


@pytest.mark.parametrize(
    "one", [result(FOUND), Result(3, 0.5, 9.0, POSES, ("person",), True, "pose")]
)
def test_a_client_reads_and_draws_what_the_server_did(one):
    answer = Answer("cam", one.index, one.time, 0.02, result=one)
    sent = {k: v for k, v in record_of(answer, one.index).items() if k in FIELDS}
    received = Received(seq=1, **sent, task=one.task)
    assert received.rows() == one.rows() and one.rows()
    image = np.zeros((90, 120, 3), np.uint8)
    np.testing.assert_array_equal(received.draw(image), one.draw(image))
    assert received.draw(image).any()
    unknown = dataclasses.replace(received, task="")
    np.testing.assert_array_equal(unknown.draw(image), image)
