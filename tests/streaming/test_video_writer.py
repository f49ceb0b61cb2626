"""The writers: what they leave is read back with plain PyAV and json."""

import json
import signal
import subprocess
import sys

import av
import numpy as np
import pytest

from streamzoo.streaming.video_writer import JsonLines, OutputError, VideoWriter


def read_back(path):
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        codec = container.streams.video[0].codec_context.name
    return codec, [f.time for f in frames], [f.to_ndarray(format="rgb24") for f in frames]


@pytest.mark.parametrize("codec, name", [(None, "h264"), ("mpeg4", "mpeg4")])
def test_colours_sizes_and_times_come_back(tmp_path, codec, name):
    times = [5.0, 5.04, 5.1, 5.9, 7.0, 7.001]  # starts anywhere, irregular
    colours = [(200, 40, 60), (10, 220, 30), (30, 60, 240), (128,) * 3, (250,) * 3, (5,) * 3]
    path = tmp_path / "a:b.mp4"
    with VideoWriter(path, 25, (48, 64), codec=codec) as writer:
        for t, colour in zip(times, colours, strict=False):
            writer.write(np.full((48, 64, 3), colour, np.uint8), t)
    found, back, images = read_back(path)
    assert found == name
    np.testing.assert_allclose(back, np.array(times) - 5.0, atol=1e-4)
    for image, colour in zip(images, colours, strict=True):
        assert image.shape == (48, 64, 3)
        assert np.abs(image.mean((0, 1)) - colour).max() < 6


@pytest.mark.parametrize("fps", [25, 30000 / 1001, 29.97, 7.5])
def test_default_times_follow_the_rate(tmp_path, fps):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, fps, (16, 16)) as writer:
        for i in range(10):
            writer.write(np.full((16, 16, 3), i * 20, np.uint8))
    np.testing.assert_allclose(read_back(path)[1], np.arange(10) / fps, atol=2e-4)


def test_odd_sizes_are_padded_with_the_edge(tmp_path):
    path = tmp_path / "odd.mp4"
    image = np.zeros((33, 47, 3), np.uint8)
    image[:, 20:] = 255
    with VideoWriter(path, 10, (33, 47)) as writer:
        for _ in range(3):
            writer.write(image)
    back = read_back(path)[2][0]
    assert back.shape == (34, 48, 3)
    assert back[:, -1].min() > 240 and back[-1, :18].max() < 15


def test_plays_after_kill_9(tmp_path):
    path, lines = tmp_path / "killed.mp4", tmp_path / "killed.jsonl"
    program = f"""
import time, numpy as np
from streamzoo.streaming.video_writer import VideoWriter, JsonLines
video, lines = VideoWriter({str(path)!r}, 25, (48, 64)), JsonLines({str(lines)!r})
for i in range(100):
    video.write(np.full((48, 64, 3), 2 * i, np.uint8))
    lines.write(dict(index=i))
print("ready", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    _, times, images = read_back(path)
    assert 100 - len(times) <= 0.5 * 25 + 2  # half a second and what the encoder held
    for i, image in enumerate(images):
        assert abs(float(image.mean()) - 2 * i) < 4
    assert [json.loads(line)["index"] for line in lines.read_text().splitlines()] == [*range(100)]


def test_close_is_idempotent_and_an_empty_video_is_not_left(tmp_path):
    path = tmp_path / "none.mp4"
    writer = VideoWriter(path, 25, (16, 16))
    writer.close()
    writer.close()
    assert not path.exists()
    with pytest.raises(OutputError, match="closed"):
        writer.write(np.zeros((16, 16, 3), np.uint8))


def test_bad_output_and_bad_frames_are_clear(tmp_path):
    with pytest.raises(OutputError, match="nowhere does not exist; make it"):
        VideoWriter(tmp_path / "nowhere" / "a.mp4", 25, (16, 16))
    with pytest.raises(OutputError, match="is a folder"):
        VideoWriter(tmp_path, 25, (16, 16))
    with pytest.raises(OutputError, match="fps"):
        VideoWriter(tmp_path / "a.mp4", 0, (16, 16))
    with pytest.raises(OutputError, match="no_such_codec"):
        VideoWriter(tmp_path / "a.mp4", 25, (16, 16), codec="no_such_codec")
    with pytest.raises(OutputError, match="nowhere does not exist"):
        JsonLines(tmp_path / "nowhere" / "a.jsonl")
    image = np.zeros((16, 16, 3), np.uint8)
    with VideoWriter(tmp_path / "b.mp4", 25, (16, 16)) as writer:
        writer.write(image, 1.0)
        with pytest.raises(OutputError, match="order"):
            writer.write(image, 1.0)
        with pytest.raises(OutputError, match="nan"):
            writer.write(image, float("nan"))
        with pytest.raises(OutputError, match=r"float32 \[16, 16, 3\]"):
            writer.write(image.astype(np.float32))
        with pytest.raises(OutputError, match=r"\[8, 16, 3\]"):
            writer.write(image[:8])
        writer.write(image, 2.0)  # a refused frame does no harm
    assert len(read_back(tmp_path / "b.mp4")[1]) == 2


def test_no_permission(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere
    with pytest.raises(OutputError, match="permission"):
        VideoWriter(tmp_path / "a.mp4", 25, (16, 16))


def test_json_lines_are_there_at_once_and_plain(tmp_path):
    path = tmp_path / "a.jsonl"
    writer = JsonLines(path)
    writer.write({"t": np.float32(0.5), "boxes": np.eye(2), "n": np.int64(3), "label": "Velo é"})
    assert json.loads(path.read_text()) == {
        "t": 0.5, "boxes": [[1.0, 0.0], [0.0, 1.0]], "n": 3, "label": "Velo é",
    }  # fmt: skip
    writer.write({"score": float("nan"), "more": [np.float32("inf"), 1]})
    assert json.loads(path.read_text().splitlines()[1]) == {"score": None, "more": [None, 1]}
    with pytest.raises(OutputError, match="not JSON"):
        writer.write({"x": object()})
    writer.close()
    writer.close()
    assert writer.lines == 2 and len(path.read_text().splitlines()) == 2
    with pytest.raises(OutputError, match="closed"):
        writer.write({})
