"""Results have one owner, are replaced only when asked, and keep their times across any gap."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest

from streamzoo.streaming import results
from streamzoo.streaming.cli import main
from streamzoo.streaming.results import Claim, OutputError
from streamzoo.streaming.sources.base import Frame, FrameSource
from streamzoo.streaming.video_writer import JsonLines, VideoWriter
from streamzoo.streaming.watch import watch

from . import tiny
from .rtsp import make_clip

HOLDER = """
import sys, time
from streamzoo.streaming.results import Claim
claim = Claim(sys.argv[1])
claim.path.write_text("half a line") if len(sys.argv) > 2 else None
print("held", flush=True)
time.sleep(600)
"""


def holder(path, *words):
    """Another process that holds a claim."""
    program = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), *words], stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None and program.stdout.readline() == "held\n"
    return program


def test_one_process_at_a_time_and_a_dead_one_is_in_nobodys_way(tmp_path):
    path = tmp_path / "a.jsonl"
    other = holder(path, "writes")
    try:
        for overwrite in (False, True):
            with pytest.raises(OutputError, match="another run is writing it"):
                Claim(path, overwrite)
            with pytest.raises(OutputError, match="another run is writing it"):
                JsonLines(path, overwrite)
            with pytest.raises(OutputError, match="another run is writing it"):
                VideoWriter(path, 25, (8, 8), overwrite=overwrite)
        assert path.read_text() == "half a line"
        other.send_signal(signal.SIGKILL)
        other.wait()
        with pytest.raises(OutputError, match="results of an earlier run.*--overwrite"):
            Claim(path)  # what it had written is still its
        with JsonLines(path, overwrite=True) as lines:
            assert path.read_text() == ""
            lines.write({"a": 1})
        assert path.read_text() == '{"a": 1}\n'
    finally:
        other.kill()
        other.wait()


def test_two_writers_of_one_process_are_two_as_well(tmp_path):
    for make in (
        lambda p: JsonLines(p, True),
        lambda p: VideoWriter(p, 25, (8, 8), overwrite=True),
    ):
        path = tmp_path / "x"
        with make(path), pytest.raises(OutputError, match="another run"):
            make(path)
        assert not path.exists()  # nothing was written: nothing is left
        with make(path):
            pass


def test_what_is_there_stays_unless_it_is_asked_for(tmp_path):
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 25, (8, 8)) as video:
        video.write(np.zeros((8, 8, 3), np.uint8))
    before = path.read_bytes()
    for make in (VideoWriter, lambda p, *_: JsonLines(p)):
        with pytest.raises(OutputError, match="--overwrite replaces them"):
            make(path, 25, (8, 8))
    assert path.read_bytes() == before
    with VideoWriter(path, 25, (8, 8), overwrite=True) as video:
        video.write(np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "empty").touch()  # of a run that died before its first line
    with JsonLines(tmp_path / "empty") as lines:
        lines.write({})
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null"):
        Claim(path).release()
    assert (tmp_path / "pipe").exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_files_cannot_be_locked_a_new_one_is_still_ones_own(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, "no locks here")

    monkeypatch.setattr(results.fcntl, "flock", refuse)
    with Claim(tmp_path / "a"), pytest.raises(OutputError, match="results of an earlier run"):
        Claim(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def run(*words):
    return main([*map(str, words), "--model", tiny.NAME, "--no-video"])


def count(path):
    return len(path.read_text().splitlines())


@pytest.mark.slow
def test_runs_of_one_name_do_not_overwrite_each_other(home, tmp_path, capsys):
    """Sources of one name, in one folder: one after the other, and while another runs."""
    clips = [tmp_path / name / "stream1.mp4" for name in ("one", "two")]
    for clip, frames in zip(clips, (3, 5), strict=False):
        clip.parent.mkdir()
        make_clip(clip, frames=frames)
    out = tmp_path / "out"
    lines = out / "stream1.jsonl"
    assert run("watch", clips[0], "--out", out) == 0 and count(lines) == 3
    assert run("watch", clips[1], "--out", out) == 2 and count(lines) == 3
    err = capsys.readouterr().err.splitlines()[-1]
    assert str(lines) in err and "--overwrite" in err and "compiling" not in err
    assert run("watch", clips[1], "--out", out, "--overwrite") == 0 and count(lines) == 5
    assert run("watch", clips[0], "--out", tmp_path / "other") == 0
    lines.unlink()
    other = holder(lines)
    try:
        assert run("watch", clips[0], "--out", out, "--overwrite") == 2
        assert "another run is writing it" in capsys.readouterr().err
        assert lines.exists()  # it has written nothing yet, and the file is its
    finally:
        other.kill()
        other.wait()
    long = make_clip(tmp_path / f"{'x' * 240}.mp4", frames=2)
    assert run("watch", long, "--out", out) == 0
    assert [count(p) for p in out.glob("xxx*.jsonl")] == [2]


class Gaps(FrameSource):
    """A camera that is away for a night, a weekend, a year."""

    name, live, fps, size, original_size = "gaps", False, 10.0, tiny.SIZE, tiny.SIZE

    def __init__(self, times):
        self._times = list(times)

    def read(self, timeout=None):
        if not self._times:
            return None
        at, shade = self._times.pop(0), len(self._times) * 20
        image = np.full((*tiny.SIZE, 3), shade, np.uint8)
        return Frame(image, at, 0, tiny.SIZE, time.monotonic(), image)

    def close(self):
        pass


HOUR, DAY = 3600.0, 86400.0


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("gap", [9.5 * HOUR, 10 * HOUR, 3 * DAY, 400 * DAY])
def test_times_are_kept_across_any_gap(tmp_path, gap, codec):
    times = [0.0, 0.1, 0.1 + gap, 0.2 + gap, 0.2 + 2 * gap]
    with VideoWriter(tmp_path / "v.mp4", 10, (16, 16), codec=codec) as video:
        for k, at in enumerate(times):
            video.write(np.full((16, 16, 3), 40 * k, np.uint8), at)
        assert video.frames == len(times)
        with pytest.raises(OutputError, match="ten years"):
            video.write(np.zeros((16, 16, 3), np.uint8), times[-1] + 4000 * DAY)
    shown = []  # (from when, brightness)
    with av.open(str(tmp_path / "v.mp4")) as container:
        for frame in container.decode(video=0):
            value = frame.to_ndarray(format="rgb24").mean()
            if not shown or abs(shown[-1][1] - value) > 8:
                shown.append((frame.time, value))
    np.testing.assert_allclose([at for at, _ in shown], times, atol=1e-4)
    np.testing.assert_allclose([v for _, v in shown], [0, 40, 80, 120, 160], atol=6)


def test_both_results_of_a_run_agree_on_the_times(home, tmp_path):
    import streamzoo
    from streamzoo.streaming import Session, Step

    times = [0.0, 0.1, 11 * HOUR, 11 * HOUR + 0.1, 60 * HOUR]
    video, lines = tmp_path / "v.mp4", tmp_path / "l.jsonl"
    with Session(Step(*streamzoo.load(tiny.NAME), tiny.CARD)) as session:
        figures = watch(session, Gaps(times), video=video, lines=lines)
    assert figures["end"] == times[-1]
    told = [json.loads(line)["time"] for line in lines.read_text().splitlines()]
    assert told == times
    with av.open(str(video)) as container:
        stamps = {round(f.time, 3) for f in container.decode(video=0) if f.time is not None}
    assert set(told) <= stamps
