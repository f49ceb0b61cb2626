"""Frame sources against PyAV's own decode, against damage, and against a server that dies."""

import functools
import http.server
import os
import signal
import socket
import threading
import time
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation, VideoReformatter

from streamzoo.streaming.export.loop import frames_of
from streamzoo.streaming.sources import SourceError, open_source

from .odd_files import write
from .rtsp import RtspServer, free_port, make_clip


def reference(path, size=None):
    """PyAV's own decode and reformat: list of uint8 images."""
    swscale = VideoReformatter()
    images = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            height, width = size or (frame.height, frame.width)
            images.append(
                swscale.reformat(
                    frame, width, height, "rgb24", interpolation=Interpolation.BILINEAR
                ).to_ndarray()
            )
    return images


def open_files():
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


@pytest.mark.parametrize("size", [None, (32, 40), (96, 31)])
def test_file_equals_pyav(tmp_path, size):
    clip = make_clip(tmp_path / "clip.mp4")
    expected = reference(clip, size)
    with open_source(clip, size=size) as source:
        assert (source.fps, source.frame_count, source.live) == (25.0, 30, False)
        assert source.size == (size or (48, 64)) and source.original_size == (48, 64)
        frames = list(source)
    assert len(frames) == len(expected) == 30
    for i, (frame, image) in enumerate(zip(frames, expected, strict=False)):
        np.testing.assert_array_equal(frame.image, image)
        assert frame.image.dtype == np.uint8 and frame.image.flags.c_contiguous
        assert frame.index == i and frame.original_size == (48, 64) and frame.original is None
        assert frame.time == pytest.approx(i / 25, abs=1e-6)
    assert source.warning is None and source.corrupt == 0


def test_original_is_kept_beside_the_resized(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", frames=3)
    with open_source(clip, size=(24, 24), keep_original=True) as source:
        for frame, big, small in zip(
            source, reference(clip), reference(clip, (24, 24)), strict=False
        ):
            np.testing.assert_array_equal(frame.original, big)
            np.testing.assert_array_equal(frame.image, small)


def test_what_is_said_of_a_recorded_frame(tmp_path):
    """Capture times count from the recording's date, or from its start where it has none."""
    clip, dated = make_clip(tmp_path / "clip.mp4", frames=3), tmp_path / "dated.mp4"
    with av.open(str(clip)) as source, av.open(str(dated), "w") as out:
        out.metadata["creation_time"] = "2024-05-01T12:00:00.000000Z"
        track = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = track
                out.mux(packet)
    for path, epoch in ((clip, 0.0), (dated, 1714564800.0)):
        with open_source(path, stream="cam") as source:
            frames = list(source)
        np.testing.assert_allclose([f.captured - epoch for f in frames], [0, 0.04, 0.08], atol=1e-6)
        assert {(f.stream, f.fps) for f in frames} == {("cam", 25.0)}
    with open_source(clip) as source:
        assert source.stream == source.read().stream == source.name == str(clip)


def test_damaged_transport_stream_is_read_to_its_end(tmp_path):
    """Damage invents tracks that PyAV does not know."""
    clip = make_clip(tmp_path / "a.ts", frames=120)
    data, rng = bytearray(clip.read_bytes()), np.random.default_rng(0)
    middle = slice(len(data) // 4, len(data) // 2)
    noise = rng.integers(0, 256, middle.stop - middle.start, np.uint8)
    keep = rng.random(len(noise)) > 0.3
    data[middle] = np.where(keep, np.frombuffer(data[middle], np.uint8), noise).tobytes()
    clip.write_bytes(data)
    with open_source(clip, size=(24, 32)) as source:
        frames = list(source)
    assert 60 < len(frames) <= 120 and frames[-1].time == pytest.approx(119 / 25, abs=0.1)
    assert (np.diff([f.time for f in frames]) > 0).all()


def test_odd_size_and_irregular_times(tmp_path):
    ticks = [0, 40, 100, 101, 500, 1700]
    clip = make_clip(tmp_path / "odd.mkv", frames=6, size=(47, 63), pts=ticks)
    with open_source(clip) as source:
        frames = list(source)
    assert source.size == (47, 63) and frames[0].image.shape == (47, 63, 3)
    np.testing.assert_allclose([f.time for f in frames], np.array(ticks) / 1000, atol=1e-6)


def test_rotated_as_the_container_says(tmp_path):
    """ISO 14496-12 6.2.2: matrix a=0 b=1 c=-1 d=0 shows the picture turned 90 degrees clockwise."""
    clip = make_clip(tmp_path / "phone.mp4", frames=2)
    lying = reference(clip)
    data = bytearray(clip.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: 40 bytes before the matrix
    one, minus = (0x10000).to_bytes(4, "big"), (-0x10000).to_bytes(4, "big", signed=True)
    data[at : at + 20] = bytes(4) + one + bytes(4) + minus + bytes(4)
    clip.write_bytes(data)
    with open_source(clip) as source:
        frame = source.read()
    assert source.size == frame.original_size == (64, 48)
    np.testing.assert_array_equal(frame.image, np.rot90(lying[0], -1))
    with open_source(clip, size=(30, 20)) as source:
        assert source.read().image.shape == (30, 20, 3)


def test_resolution_change_midstream(tmp_path):
    first = make_clip(tmp_path / "a.ts", frames=6, size=(48, 64))
    second = make_clip(tmp_path / "b.ts", frames=6, size=(96, 80))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    with open_source(joined, size=(32, 32)) as source:
        frames = list(source)
    assert {f.original_size for f in frames} == {(48, 64), (96, 80)}
    assert {f.image.shape for f in frames} == {(32, 32, 3)}
    times = [f.time for f in frames]
    assert len(frames) >= 11 and (np.diff(times) > 0).all()
    np.testing.assert_array_equal(frames[0].image, reference(first, (32, 32))[0])
    np.testing.assert_array_equal(frames[-1].image, reference(second, (32, 32))[-1])


def test_the_loop_without_jax_gives_what_a_cut_file_has_too(tmp_path, capsys):
    clip = make_clip(tmp_path / "clip.mp4", frames=60, options={"movflags": "faststart"})
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 2 // 3])
    count = len(list(frames_of(str(clip))))
    assert 10 < count < 60
    assert f"truncated or damaged: {count} frames decoded" in capsys.readouterr().err


def test_truncated_file_gives_what_it_has_and_says_so(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", frames=60, options={"movflags": "faststart"})
    expected = reference(clip)
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) * 2 // 3])
    with open_source(clip) as source:
        frames = list(source)
    assert 10 < len(frames) < 60
    np.testing.assert_array_equal(frames[10].image, expected[10])
    assert (
        source.warning
        and str(clip) in source.warning
        and "60" in source.warning
        and "\n" not in source.warning
    )


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.flv", "a.avi", "sound.mkv"])
@pytest.mark.parametrize("part", [0.65, 0.8])
def test_a_cut_file_says_so_whatever_its_container(tmp_path, name, part):
    """By the length that its header announces, to a second, or by a packet that is cut."""
    more: dict[str, Any] = {"codec": "libvpx"} if name.endswith("webm") else {}
    sound = (0, 12) if name == "sound.mkv" else None
    clip = write(tmp_path / name, frames=150, sound=sound, **more)
    with open_source(clip) as source:
        assert len(list(source)) == 150 and source.warning is None
    os.truncate(clip, int(part * clip.stat().st_size))
    with open_source(clip) as source:
        assert 0 < len(list(source)) < 150
    assert source.warning and f"{clip}: truncated or damaged" in source.warning


def test_sound_that_is_longer_than_the_picture_is_no_cut(tmp_path):
    for name, sound in (("longer.mkv", (0, 5)), ("late.mkv", (3, 2)), ("longer.flv", (0, 5))):
        with open_source(write(tmp_path / name, frames=20, sound=sound)) as source:
            assert len(list(source)) == 20
        assert source.warning is None, name


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "no such file"),
        (b"", "empty"),
        (b"just some words\n" * 200, "not a video"),
        ("no index", "cut off"),
        ("no pictures", "no video track"),
        ("header only", "cut off"),
    ],
)
def test_unusable_files_are_one_clear_line(tmp_path, content, words):
    path = tmp_path / "bad.mp4"
    if content == "no index":  # the index of a plain MP4 stands at the end
        data = make_clip(tmp_path / "good.mp4").read_bytes()
        path.write_bytes(data[: len(data) // 2])
    elif content == "header only":
        data = make_clip(tmp_path / "g.mp4", options={"movflags": "faststart"}).read_bytes()
        path.write_bytes(data[: data.index(b"mdat") + 4])
    elif content == "no pictures":
        with av.open(str(path), "w") as out:
            stream = out.add_stream("aac", rate=8000)
            tone = np.zeros((1, 1024), np.float32)
            sound = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            sound.sample_rate = 8000
            out.mux(stream.encode(sound))
            out.mux(stream.encode(None))
    elif content is not None:
        path.write_bytes(content)
    files = open_files()
    with pytest.raises(SourceError, match=words) as caught:
        open_source(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError) and open_files() == files


def test_folder_camera_and_arguments(tmp_path):
    with pytest.raises(SourceError, match="folder"):
        open_source(tmp_path)
    with pytest.raises(SourceError, match="/dev/video977: no such camera"):
        open_source(977)
    with pytest.raises(SourceError, match="/dev/video978"):
        open_source("978")
    with pytest.raises(SourceError, match="size"):
        open_source("x.mp4", size=(0, 4))


def test_close_is_idempotent_and_leaks_nothing(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4")
    files, threads = open_files(), threading.active_count()
    for live in (False, True):
        source = open_source(clip, live=live)
        assert source.live is live and source.read() is not None
        source.close()
        source.close()
        assert source.read() is None and list(source) == []
    assert open_files() == files and threading.active_count() == threads


def test_file_played_live_drops_for_a_slow_reader_and_goes_on_at_its_end(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", frames=15)
    with open_source(clip, live=True, queue=2) as source:
        time.sleep(0.5)  # about 12 frames into a queue of 2
        assert 5 <= source.dropped <= 13
        frames = [source.read(timeout=2) for _ in range(25)]
        assert source.reconnects >= 1 and source.last_fault == "the stream ended"
        pace = (frames[20].received - frames[2].received) / (frames[20].time - frames[2].time)
    times, indices = [f.time for f in frames], [f.index for f in frames]
    assert (np.diff(times) > 0).all() and (np.diff(indices) > 0).all()
    assert indices[0] > 4 and indices[-1] >= 25  # latest wins
    assert 0.8 < pace < 1.25


@pytest.mark.parametrize("scheme, path", [("rtsp", "cam.mp4"), ("http", "live.m3u8")])
def test_unreachable_address(scheme, path):
    address = f"{scheme}://user:secret@127.0.0.1:{free_port()}/{path}"
    threads, start = threading.active_count(), time.monotonic()
    with pytest.raises(SourceError, match="3 attempts.*connection refused") as caught:
        open_source(address, connect_retries=2)
    assert 0.3 <= time.monotonic() - start < 3  # pauses of 0.1 and 0.2 s
    assert "127.0.0.1" in str(caught.value) and "secret" not in str(caught.value)
    assert threading.active_count() == threads


def test_silent_server_hits_the_open_timeout():
    """A server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        start = time.monotonic()
        with pytest.raises(SourceError, match="no answer in 0.5 s"):
            open_source(
                f"rtsp://127.0.0.1:{server.getsockname()[1]}/x", open_timeout=0.5,
                connect_retries=0,
            )  # fmt: skip
        assert 0.4 < time.monotonic() - start < 3


@pytest.fixture
def rtsp(tmp_path):
    pytest.importorskip("aio_rtsp_toolkit")
    make_clip(tmp_path / "cam.mp4", frames=100, gop=10)
    server = RtspServer(tmp_path).start()
    yield server
    server.signal(signal.SIGKILL)


def test_rtsp_reads_survives_a_kill_and_notices_silence(rtsp):
    threads, files = threading.active_count(), open_files()
    source = open_source(rtsp.address, size=(24, 32), read_timeout=2.0)
    try:
        frames = [source.read(timeout=5) for _ in range(20)]
        assert source.live and source.fps == 25 and source.original_size == (48, 64)
        assert all(f.image.shape == (24, 32, 3) for f in frames)
        assert source.state == "live"

        reconnects = source.reconnects  # 0, unless the machine is so busy that the server stalls
        rtsp.signal(signal.SIGKILL)  # to FFmpeg: a plain end of the stream
        while source.read(timeout=0.5) is not None:
            pass
        gone = time.monotonic()
        assert source._thread.is_alive() and source.last_fault is not None
        rtsp.start()
        after = [source.read(timeout=8) for _ in range(10)]
        assert source.reconnects > reconnects
        outage = after[0].received - frames[-1].received
        jump = after[0].time - frames[-1].time
        assert jump == pytest.approx(outage, abs=0.6) and after[0].received - gone < 8
        times = [f.time for f in frames + after]
        assert (np.diff(times) > 0).all()

        reconnects, stalls, stopped = source.reconnects, source.stalls, time.monotonic()
        rtsp.signal(signal.SIGSTOP)  # the connection stays, nothing comes
        while source.stalls == stalls and time.monotonic() - stopped < 12:
            time.sleep(0.02)
        assert source.stalls > stalls and 1.9 < time.monotonic() - stopped < 6.0
        assert source.state == "stalled"
        rtsp.signal(signal.SIGCONT)
        while source.read(timeout=0) is not None:
            pass
        assert source.read(timeout=8).time > times[-1]
        assert source.reconnects > reconnects
    finally:
        source.close()
    assert threading.active_count() == threads and open_files() == files


def test_rtsp_gives_up_when_told_to(rtsp):
    with open_source(rtsp.address, max_retries=1) as source:
        assert source.read() is not None
        rtsp.signal(signal.SIGKILL)
        with pytest.raises(SourceError, match="no video after 2 attempts"):
            for _ in range(200):
                source.read(timeout=5)


def test_hls_over_http(tmp_path):
    """A finished HLS playlist on loopback: every frame, in order, resized, timed from 0."""
    with av.open(str(tmp_path / "list.m3u8"), "w", format="hls", options={"hls_time": "1"}) as out:
        stream = out.add_stream("libx264", rate=25, options={"g": "25"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(50):
            picture = np.full((64, 96, 3), 4 * i, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/list.m3u8"
        with open_source(address, size=(32, 48)) as source:
            frames = list(source)
        server.shutdown()
    assert len(frames) == 50 and all(f.image.shape == (32, 48, 3) for f in frames)
    np.testing.assert_allclose([f.time for f in frames], np.arange(50) / 25, atol=1e-3)
    levels = np.array([f.image.mean() for f in frames])
    assert (np.diff(levels) > 0).all()
