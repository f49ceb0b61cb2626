"""Live sources against a camera that misbehaves: MPEG-TS over TCP, from this process."""

import http.server
import itertools
import os
import random
import threading
import time

import av
import numpy as np
import pytest

from streamzoo.streaming.sources import SourceError, live, open_source

from .rtsp import FPS, Camera, ts


def opened(camera, **options):
    options = {"size": (24, 32), "read_timeout": 0.5, "queue": 200, **options}
    return open_source(camera.address, **options)


def read_until(source, condition, seconds=8.0):
    frames, end = [], time.monotonic() + seconds
    while not condition(frames) and time.monotonic() < end:
        frame = source.read(timeout=0.1)
        frames += [] if frame is None else [frame]
    assert condition(frames), (len(frames), source.last_fault)
    return frames


def test_resolution_change_and_what_is_said_of_each_frame(tmp_path):
    script = [(ts(tmp_path / "a.ts", 30), 0.6), (ts(tmp_path / "b.ts", 60, (96, 80)), 1.2)]
    start = time.time()
    with Camera([*script, 5.0]) as camera, opened(camera, stream="gate") as source:
        frames = read_until(source, lambda f: len(f) > 60)
        assert source.original_size == (96, 80) and source.size == (24, 32)
        assert source.reconnects == source.corrupt == source.dropped == 0
    assert {f.original_size for f in frames} == {(48, 64), (96, 80)}
    assert {f.image.shape for f in frames} == {(24, 32, 3)}
    assert [f.index for f in frames] == list(range(len(frames)))
    assert (np.diff([f.time for f in frames]) > 0).all()
    captured = np.array([f.captured for f in frames])
    assert start < captured[0] and (np.diff(captured) >= 0).all() and captured[-1] < time.time()
    offset = time.time() - time.monotonic()
    assert all(f.captured <= f.received + offset + 1e-3 for f in frames)
    assert {(f.stream, f.fps) for f in frames} == {("gate", float(FPS))}
    assert source.epoch == pytest.approx(frames[-1].captured - frames[-1].time, abs=1.0)


@pytest.mark.parametrize("fault", ["reset", "end", "stall"])
def test_recovers_by_itself(tmp_path, fault):
    clip = ts(tmp_path / "a.ts", 40)
    first = [(clip, 0.4)] + {"reset": ["reset"], "end": [], "stall": [1.5]}[fault]
    with Camera(first, [(clip, 0.8)] * 9) as camera, opened(camera) as source:
        frames = read_until(source, lambda f: source.reconnects == 1 and len(f) > 60)
        assert camera.connections == 2 and source.stalls == (fault == "stall")
        assert source.last_fault is not None and source.state == "live"
    times, received = (np.array([getattr(f, k) for f in frames]) for k in ("time", "received"))
    assert (np.diff(times) > 0).all() and source.dropped == 0
    gap = np.argmax(np.diff(received))
    assert times[gap + 1] - times[gap] == pytest.approx(received[gap + 1] - received[gap], abs=0.3)
    assert received[gap + 1] - received[gap] < 2.5
    # What the camera would have sent meanwhile; nobody saw it, so it is an estimate.
    if fault != "stall":  # there this camera takes the connection before it sends
        again = next(at for at, connection, _ in camera.log if connection == 1)
        assert source.missed == pytest.approx((again - received[gap]) * FPS, abs=0.2 * FPS)
    assert source.missed > 0


def test_a_short_stall_is_hidden_by_the_jitter_buffer(tmp_path):
    """0.6 s of silence, then what was missed at once: read at an even pace, nothing lost."""
    clip = ts(tmp_path / "a.ts", 100)
    cut = len(clip) // 2 // 188 * 188
    late = cut + (len(clip) - cut) // 2
    script = [(clip[:cut], 1.0), 0.6, (clip[cut:late], 0.04), (clip[late:], 0.5), 5.0]
    with Camera(script) as camera, opened(camera, delay=None, read_timeout=2.0, queue=2) as source:
        assert source.delay == 1.0  # what every address gets in the commands and the server
        read_at = []
        frames = []
        for frame in itertools.islice(source, 90):
            frames.append(frame)
            read_at.append(time.monotonic())
        assert source.dropped == source.reconnects == source.stalls == source.missed == 0
    assert [f.index for f in frames] == list(range(90))
    assert np.diff([f.received for f in frames]).max() > 0.5  # they did come late
    waited = np.array(read_at) - [f.captured - (time.time() - time.monotonic()) for f in frames]
    assert np.abs(np.median(waited) - 1.0) < 0.1 and np.percentile(np.diff(read_at), 95) < 0.2


class Playlist(http.server.BaseHTTPRequestHandler):
    """HLS without an end: half a second per segment, the last four of them listed."""

    segments: list[bytes] = []
    start = 0.0

    def do_GET(self):
        if self.path.endswith(".m3u8"):
            last = min(4 + int((time.monotonic() - self.start) / 0.5), len(self.segments))
            lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:1"]
            lines += [f"#EXT-X-MEDIA-SEQUENCE:{last - 4}"]
            lines += [f"#EXTINF:0.5,\n{k}.ts" for k in range(last - 4, last)]
            body = "\n".join([*lines, ""]).encode()
        else:
            body = self.segments[int(self.path[1:].split(".")[0])]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


def test_hls_comes_in_bursts_and_is_given_at_its_pace(tmp_path):
    pattern = str(tmp_path / "%d.ts")
    options = {"segment_time": "0.5", "segment_format": "mpegts", "segment_time_delta": "0.01"}
    with av.open(pattern, "w", format="segment", options=options) as out:
        track = out.add_stream("libx264", rate=FPS, options={"g": "25", "preset": "ultrafast"})
        track.width, track.height, track.pix_fmt = 64, 48, "yuv420p"
        for k in range(10 * FPS):
            image = np.full((48, 64, 3), k % 250, np.uint8)
            out.mux(track.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(track.encode(None))
    count = len(list(tmp_path.glob("*.ts")))
    assert count == 20
    segments = [(tmp_path / f"{k}.ts").read_bytes() for k in range(count)]
    handler = type("Handler", (Playlist,), dict(segments=segments, start=time.monotonic()))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/live.m3u8"
        with open_source(address, size=(24, 32), queue=50, read_timeout=3.0) as source:
            assert source.live
            frames = read_until(source, lambda f: len(f) > 120)
            assert source.dropped == source.reconnects == 0
        server.shutdown()
    times, received = (np.array([getattr(f, k) for f in frames]) for k in ("time", "received"))
    np.testing.assert_allclose(np.diff(times), 1 / FPS, atol=1e-3)
    assert np.percentile(np.diff(received), 90) < 3 / FPS  # not half a second, and then all at once
    assert (received[-1] - received[0]) == pytest.approx(times[-1] - times[0], rel=0.25)


def test_reconnecting_leaks_nothing(tmp_path):
    clip = ts(tmp_path / "a.ts", 8)

    def open_things():
        files = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
        return threading.active_count(), len(files)

    with Camera([(clip, 0.05)]) as camera:
        before = open_things()
        with opened(camera) as source:
            read_until(source, lambda f: source.reconnects == 3)
            running = open_things()
            read_until(source, lambda f: source.reconnects == 9)
            assert abs(open_things()[1] - running[1]) <= 3 and open_things()[0] == running[0]
        time.sleep(0.2)
        assert open_things() == before


def test_corrupt_bytes_are_survived(tmp_path):
    clip, rng = ts(tmp_path / "a.ts", 120), random.Random(0)
    bad = bytearray(clip)
    for at in range(len(clip) // 4, len(clip) // 2):
        if rng.random() < 0.3:
            bad[at] = rng.randrange(256)
    with Camera([(bytes(bad), 1.2)], [(clip, 2.4)] * 5) as camera, opened(camera) as source:
        frames = read_until(source, lambda f: len(f) > 130)
        assert source.state != "closed" and source.missed > 0 < source.corrupt + source.reconnects
    assert (np.diff([f.time for f in frames]) > 0).all()
    assert {f.image.shape for f in frames} == {(24, 32, 3)}


class Packet:
    is_keyframe = True

    def __init__(self, stream, size):
        self.stream, self.size = stream, size


class Container:
    """Two tracks; pictures for a while, then packets of which no picture comes, or only sound."""

    def __init__(self, tail, pictures):
        clip_stream = type("Video", (), dict(average_rate=25, index=0, time_base=1))()
        clip_stream.codec_context = self
        self.streams = type("Streams", (), dict(video=[clip_stream]))()
        self.sound = type("Sound", (), dict(index=1))()
        self.tail, self.pictures, self.closed = tail, list(pictures), False

    def demux(self):
        for k in itertools.count():
            time.sleep(0.01)
            silent = self.tail == "sound" and k >= 10
            yield Packet(self.sound if silent else self.streams.video[0], 100)

    def decode(self, packet):
        return [self.pictures.pop(0)] if self.pictures else []

    def close(self):
        self.closed = True


@pytest.mark.parametrize(
    "tail, words", [("sound", "no picture came for 0.2 s"), ("mush", "data comes, but no picture")]
)
def test_the_watchdog_looks_at_pictures_not_at_data(monkeypatch, tail, words):
    pictures = [av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8)) for _ in range(5)]
    made = []

    def connect(*_):
        if made:
            raise ConnectionRefusedError("no more")
        made.append(Container(tail, pictures))
        return made[0]

    monkeypatch.setattr(live, "connect", connect)
    start = time.monotonic()
    with open_source(
        "tcp://camera", queue=9, read_timeout=0.2, open_timeout=0.2, max_retries=0
    ) as source:
        with pytest.raises(SourceError, match=words):
            read_until(source, lambda f: False, 6)
        assert source.stalls == (tail == "sound") and source.state == "closed"
    assert made[0].closed and time.monotonic() - start < 3


def test_a_delay_that_makes_no_sense(tmp_path):
    with pytest.raises(SourceError, match="delay=7.0: give 0 up to 5 seconds"):
        open_source(tmp_path / "x.ts", delay=7.0)
