"""Watching: what is written equals the model on the clip, whatever stops the run."""

import dataclasses
import io
import json
import os
import re
import signal
import sys
import threading
import time

import av
import jax
import numpy as np
import pytest
from av.video.reformatter import Interpolation, VideoReformatter

import streamzoo
from streamzoo.layers.install import how_to_install
from streamzoo.streaming import Session, Step, open_source
from streamzoo.streaming.cli import main
from streamzoo.streaming.sources.base import Frame, FrameSource
from streamzoo.streaming.views.live import LiveView
from streamzoo.streaming.watch import Board, Meter, watch

from . import tiny
from .rtsp import RtspServer, make_clip


@pytest.fixture(scope="module")
def loaded(home):
    return streamzoo.load(tiny.NAME)


@pytest.fixture(scope="module")
def step(loaded):
    return Step(loaded[0], loaded[1], tiny.CARD)


@pytest.fixture
def session(step):
    with Session(step) as session:
        yield session


def opened(path, **options):
    return open_source(path, size=tiny.SIZE, keep_original=True, **options)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def pictures(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_what_is_written_is_the_model_on_the_clip(tmp_path, session, loaded):
    clip = make_clip(tmp_path / "clip.mp4", frames=12, size=(96, 160))
    video, lines = tmp_path / "out.mp4", tmp_path / "out.jsonl"
    with opened(clip) as source:
        figures = watch(session, source, video=video, lines=lines)

    swscale, small = VideoReformatter(), []
    with av.open(str(clip)) as container:
        for frame in container.decode(video=0):
            frame = swscale.reformat(
                frame, tiny.SIZE[1], tiny.SIZE[0], "rgb24", interpolation=Interpolation.BILINEAR
            )
            small.append(frame.to_ndarray())
    model, params = loaded
    x = streamzoo.preprocess(np.stack(small)[None], tiny.CARD)
    _, want = jax.jit(model.apply)(params, model.init_carry(1), x)

    got = lines_of(lines)
    assert [line["frame"] for line in got] == list(range(12)) and figures["frames"] == 12
    np.testing.assert_allclose([line["time"] for line in got], np.arange(12) / 25, atol=1e-4)
    scores = np.asarray(jax.nn.softmax(want.logits[0]))
    of_persons = np.asarray(jax.nn.softmax(want.box_logits[0]))
    for t, line in enumerate(got):
        assert list(line["classes"].values()) == sorted(line["classes"].values(), reverse=True)
        ordered = [line["classes"][name] for name in tiny.CLASSES]
        np.testing.assert_allclose(ordered, scores[t], atol=2e-4)
        kept = np.flatnonzero(want.box_valid[0, t])
        assert len(line["persons"]) == len(kept) > 0
        for person, k in zip(line["persons"], kept, strict=False):
            np.testing.assert_allclose(person["box"], want.boxes[0, t, k], atol=2e-4)
            ordered = [person["classes"][name] for name in tiny.CLASSES]
            np.testing.assert_allclose(ordered, of_persons[t, k], atol=2e-4)

    drawn, originals = pictures(video), pictures(clip)
    assert len(drawn) == 12 and drawn[0].shape == (96 + 64, 160, 3)
    for t in range(12):  # a frame off would differ by 10 or more: the clip moves
        difference = np.abs(drawn[t][:96].astype(int) - originals[t]).mean(axis=-1)
        assert np.median(difference) < 5
        assert drawn[t][96:].mean() < 90  # the strip is dark
    assert figures["latency_p99"] >= figures["latency_p50"] >= figures["model_ms"] > 0
    assert figures["carry_bytes"] == session.carry_bytes > 0


@pytest.mark.parametrize("multi_label", [False, True])
def test_scores_follow_the_card(step, loaded, multi_label):
    if multi_label:
        step = Step(loaded[0], loaded[1], dataclasses.replace(tiny.CARD, multi_label=True))
    with Session(step) as session:
        result = session.push(np.full((*tiny.SIZE, 3), 90, np.uint8))
    squash = jax.nn.sigmoid if multi_label else jax.nn.softmax
    np.testing.assert_allclose(tiny.scored(result), squash(result.output.logits), atol=1e-6)
    persons = result.persons()
    assert len(persons) > 0
    for person, logits in zip(persons, result.output.box_logits, strict=False):
        np.testing.assert_allclose(person["scores"], squash(logits), atol=1e-6)
    big = dataclasses.replace(result.output, logits=np.array([-500.0, 0.0, 500.0]))
    with np.errstate(over="raise"):
        extreme = tiny.scored(dataclasses.replace(result, output=big))
    np.testing.assert_allclose(extreme, [0, 0.5, 1] if multi_label else [0, 0, 1], atol=1e-6)


@pytest.mark.slow
def test_event_and_anomaly_of_a_live_model_are_written_and_drawn(tmp_path):
    model, params = streamzoo.load("live-mi-lite0/handover")
    card = streamzoo.model_card("live-mi-lite0/handover")
    clip, lines = make_clip(tmp_path / "clip.mp4", frames=3, size=(96, 160)), tmp_path / "out.jsonl"
    view = LiveView()
    with Session(Step(model, params, card)) as session:
        with open_source(clip, size=card.input_size, keep_original=True) as source:
            watch(session, source, view=view, video=tmp_path / "out.mp4", lines=lines)
    with open_source(clip, size=card.input_size) as source:
        film = np.stack([frame.image for frame in source])
    x = streamzoo.preprocess(film[None], card)
    _, want = jax.jit(model.apply)(params, model.init_carry(1), x)
    for t, line in enumerate(lines_of(lines)):
        for name in ("event", "anomaly"):
            assert line[name] == pytest.approx(float(getattr(want, name)[0, t]), abs=2e-4)
            assert view.history.samples[t][1][name] == line[name]


class Frames(FrameSource):
    """Grey frames at given times; something may happen when one is read."""

    name, fps, original_size = "made", 25.0, (40, 64)

    def __init__(self, times, at=None, happen=None):
        self.left, self.at, self.happen, self.given = list(times), at, happen, 0

    def read(self, timeout=None):
        if not self.left:
            return None
        if self.given == self.at:
            assert self.happen is not None
            self.happen()
        self.given += 1
        image = np.full((*tiny.SIZE, 3), self.given, np.uint8)
        big = np.full((40, 64, 3), self.given, np.uint8)
        frame = self.left.pop(0), self.given - 1
        return Frame(image, *frame, (40, 64), time.monotonic(), big)


@pytest.fixture
def guarded():
    """Signals that nobody catches are listed; otherwise one that is late ends the test runner."""
    missed = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _: missed.append(number)) for number in numbers]
    yield missed
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
    assert not missed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_nothing_lost(tmp_path, session, number, guarded):
    before = signal.getsignal(number)
    source = Frames(np.arange(50) / 25, 6, lambda: os.kill(os.getpid(), number))
    video, lines = tmp_path / "v.mp4", tmp_path / "l.jsonl"
    figures = watch(session, source, video=video, lines=lines)
    assert figures["stopped"] == number and figures["frames"] == 7  # the one in hand is finished
    assert len(lines_of(lines)) == len(pictures(video)) == 7
    assert signal.getsignal(number) is before


def test_a_second_signal_gives_up_at_once_and_files_are_whole(tmp_path, session, guarded):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    video, lines = tmp_path / "v.mp4", tmp_path / "l.jsonl"
    with pytest.raises(KeyboardInterrupt):
        watch(session, Frames(np.arange(50) / 25, 6, twice), video=video, lines=lines)
    assert len(lines_of(lines)) == len(pictures(video)) == 6


def test_frames_closer_than_a_clock_tick(tmp_path, session):
    times = [0.0, 1e-6, 2e-6, 0.04, 0.04 + 1e-7]
    figures = watch(session, Frames(times), video=tmp_path / "v.mp4")
    assert figures["frames"] == len(pictures(tmp_path / "v.mp4")) == 5


def test_limits(tmp_path, session):
    assert watch(session, Frames(np.arange(50) / 25), max_frames=4)["frames"] == 4
    assert watch(session, Frames(np.arange(50) / 25), seconds=1.0)["frames"] == 25  # of video


def test_a_change_of_resolution(tmp_path, session):
    first = make_clip(tmp_path / "a.ts", frames=6, size=(48, 64))
    second = make_clip(tmp_path / "b.ts", frames=6, size=(96, 80))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    video, lines = tmp_path / "v.mp4", tmp_path / "l.jsonl"
    with opened(joined) as source:
        watch(session, source, video=video, lines=lines)
    shapes = {picture.shape for picture in pictures(video)}
    assert len(lines_of(lines)) == len(pictures(video)) >= 11 and shapes == {(48 + 64, 64, 3)}


def test_meter_agrees_with_numpy():
    meter = Meter(window=8)
    for i in range(20):
        meter.add(float(i), 2.0 * i)
    figures = meter.figures()
    assert meter.frames == 20 and figures["model_ms"] == np.median(np.arange(12, 20))
    assert figures["latency_p99"] == pytest.approx(np.percentile(2.0 * np.arange(12, 20), 99))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_board_in_a_terminal_and_elsewhere(session, monkeypatch):
    out = Terminal()
    board = Board("a [red]name", out)
    watch(session, Frames(np.arange(5) / 25), board=board)
    text = out.getvalue()
    assert "a [red]name" in text  # a name is not taken for markup
    for row in ("frames", "fps", "model", "latency p50", "p99", "carry"):
        assert row in text
    assert text.rstrip().endswith("\x1b[?25h")  # the cursor is back

    plain, now = io.StringIO(), [100.0]
    monkeypatch.setattr("streamzoo.streaming.watch.time.monotonic", lambda: now[0])
    board = Board("name", plain)
    for _ in range(50):
        now[0] += 0.1
        board.update({"fps": "3"})
    assert plain.getvalue() == "fps 3\nfps 3\n"

    monkeypatch.setitem(sys.modules, "rich.console", None)
    with pytest.raises(ImportError, match=re.escape(how_to_install("demo"))):
        Board("name", Terminal())


def test_rtsp_server_dies_and_comes_back_and_seconds_stop(tmp_path, step, capsys):
    pytest.importorskip("aio_rtsp_toolkit")
    make_clip(tmp_path / "cam.mp4", frames=600, gop=10)
    server = RtspServer(tmp_path).start()
    video, lines = tmp_path / "v.mp4", tmp_path / "l.jsonl"

    def accident():
        while not lines.exists() or len(lines_of(lines)) < 10:
            time.sleep(0.02)
        server.signal(signal.SIGKILL)
        time.sleep(0.3)
        server.start()

    thread = threading.Thread(target=accident)
    try:
        with Session(step) as session, opened(server.address, read_timeout=1.0) as source:
            thread.start()
            figures = watch(
                session, source, video=video, lines=lines, max_frames=50, seconds=40,
                board=Board("cam", io.StringIO()),
            )  # fmt: skip
        thread.join()
        assert figures["frames"] == 50 and figures["reconnects"] >= 1
        assert len(pictures(video)) == len(lines_of(lines)) == 50
        times = [line["time"] for line in lines_of(lines)]
        assert (np.diff(times) > 0).all() and np.diff(times).max() > 0.25  # the outage is seen

        start = time.monotonic()
        out = str(tmp_path / "out")
        options = ["--model", tiny.NAME, "--seconds", "2", "--delay", "0", "--out", out]
        assert main(["watch", server.address, *options]) == 0
        assert time.monotonic() - start < 15
        text = capsys.readouterr().out
        count = len(lines_of(tmp_path / "out" / "cam.jsonl"))
        assert text.startswith(f"{count} frames at") and "0 reconnects" in text
        assert 20 <= count <= 60 and len(pictures(tmp_path / "out" / "cam.mp4")) == count
    finally:
        thread.join()
        server.signal(signal.SIGKILL)
