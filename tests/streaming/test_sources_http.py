"""Over HTTP: recordings whose server pauses or breaks off, known ends, and JPEG cameras."""

import io
import json
import time

import av
import numpy as np
import pytest

from streamzoo.streaming.cli import main
from streamzoo.streaming.sources import SourceError, open_source

from . import odd_files, tiny
from .web_camera import Web, age

COUNT = 100


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Noise, so that 60 % of a file is more than what is read ahead: name -> bytes."""
    folder, found = tmp_path_factory.mktemp("films"), {}
    noise = np.random.default_rng(0)
    for name, codec in (("a.ts", "mpeg2video"), ("a.mkv", "mpeg2video"), ("a.webm", "libvpx")):
        with av.open(str(folder / name), "w") as out:
            stream = out.add_stream(codec, rate=25, options={"g": "12", "deadline": "realtime"})
            stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
            stream.bit_rate = 8_000_000
            for _ in range(COUNT):
                image = noise.integers(0, 255, (120, 160, 3), np.uint8)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
            out.mux(stream.encode(None))
        found[name] = (folder / name).read_bytes()
    return found


def all_of(web, name, **options):
    with open_source(f"{web.address}/{name}", size=(24, 32), **options) as source:
        assert not source.live
        frames = list(source)
        assert source.state == "closed" and source.read() is None
    return frames, source


@pytest.mark.parametrize("name", ["a.ts", "a.mkv"])
def test_a_pause_of_the_server_costs_nothing(data, name):
    with Web(data, pause=2.6) as web:  # longer than a live stream may be silent
        frames, source = all_of(web, name)
    assert len(frames) == COUNT and source.warning is None


@pytest.mark.parametrize("name", ["a.ts", "a.mkv", "a.webm"])
def test_what_broke_off_is_asked_for_again_by_range(data, name):
    with Web(data, breaks=1) as web:
        frames, source = all_of(web, name)
        assert web.asked >= 2
    assert len(frames) == COUNT and source.warning is None


@pytest.mark.parametrize(
    "server", [dict(ranges=False), dict(dead=True)], ids=["no ranges", "dead after that"]
)
def test_a_recording_that_cannot_be_gone_on_with_is_a_fault(data, server):
    with Web(data, breaks=1, **server) as web:
        count = 0
        with open_source(f"{web.address}/a.ts", size=(24, 32), read_timeout=2.0) as source:
            with pytest.raises(SourceError, match="the connection broke off .* after .* frames"):
                for _ in source:
                    count += 1
        assert source.read() is None
    assert 10 < count < COUNT


def test_the_command_that_read_it_says_so_and_fails(data, home, tmp_path, capsys):
    """Exit code 2, one line, and a result line for every frame that came."""
    with Web(data, breaks=1, ranges=False) as web:
        words = ["watch", f"{web.address}/a.ts", "--model", tiny.NAME, "--out", str(tmp_path)]
        assert main([*words, "--no-video"]) == 2
    err = capsys.readouterr().err
    broke = [line for line in err.splitlines() if "the connection broke off" in line]
    assert len(broke) == 1 and "Traceback" not in err
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert 10 < len(lines) < COUNT and json.loads(lines[-1])["frame"] == len(lines) - 1


def without_duration():
    class Pipe(io.RawIOBase):  # cannot seek: the muxer cannot fill in the duration
        def __init__(self):
            self.data = bytearray()

        def writable(self):
            return True

        def write(self, b):
            self.data += b
            return len(b)

    pipe = Pipe()
    with av.open(pipe, "w", format="webm") as out:
        stream = out.add_stream("libvpx", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(30):
            image = np.full((48, 64, 3), 8 * i, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        out.mux(stream.encode(None))
    return {"rec.webm": bytes(pipe.data)}


def test_a_length_in_bytes_is_an_end():
    for ranges in (True, False):
        with Web(without_duration(), ranges=ranges) as web:
            frames, _ = all_of(web, "rec.webm")
        assert len(frames) == 30


@pytest.mark.parametrize("chunked", [True, False])
def test_a_recording_without_any_length_ends_where_it_would_begin_again(chunked):
    with Web(without_duration(), ranges=False, length=False, chunked=chunked) as web:
        with open_source(f"{web.address}/rec.webm", queue=50) as source:
            frames, end = [], time.monotonic() + 20
            while source.state != "closed" and time.monotonic() < end:
                frames += [frame] if (frame := source.read(0.5)) is not None else []
            assert source.state == "closed"
        assert len(frames) == 30 and web.asked == 2


@pytest.mark.parametrize("rate", [5, 60])
def test_a_camera_of_jpeg_pictures_goes_by_arrival(rate):
    pytest.importorskip("PIL")
    with Web() as web, open_source(f"{web.address}/camera/{rate}") as source:
        assert source.live
        frames, start = [source.read(5)], time.monotonic()
        first = time.monotonic()
        while time.monotonic() < start + 3:
            frames += [frame] if (frame := source.read(1)) is not None else []
        assert age(frames[-1].image) < 1.0
        assert frames[-1].time - frames[0].time == pytest.approx(time.monotonic() - first, abs=0.6)
        ages = [f.received - (f.captured - time.time() + time.monotonic()) for f in frames]
        assert min(ages) > -0.01 and np.median(ages) < 0.5
        assert source.fps is None or source.fps == pytest.approx(rate, rel=0.4)


def test_pictures_that_are_decoded_too_slowly_are_dropped_and_not_old(monkeypatch):
    pytest.importorskip("PIL")
    from streamzoo.streaming.sources import live

    class Slow(live.PacketDecoder):
        def __call__(self, packet, keyframes_only):
            time.sleep(0.1)
            return super().__call__(packet, keyframes_only)

    monkeypatch.setattr(live, "PacketDecoder", Slow)
    with Web() as web, open_source(f"{web.address}/camera/50") as source:
        start, frame = time.monotonic(), source.read(5)
        while time.monotonic() < start + 3:
            frame = source.read(1) or frame
        assert age(frame.image) < 1.0 and source.drops["overflow"] > 20
        assert frame.received - (frame.captured - time.time() + time.monotonic()) > 0.05


def test_an_http_recording_is_stopped_while_its_server_is_silent(data):
    with Web(data, pause=20) as web:
        source = open_source(f"{web.address}/a.ts", size=(24, 32))
        while source.read(timeout=0.5) is not None:
            pass
        assert source.state == "stalled"
        start = time.monotonic()
        source.close()
        assert time.monotonic() - start < 3 and source.state == "closed"


def test_the_table_of_odd_files_is_readable_by_http_too(tmp_path):
    path = odd_files.FILES["irregular.mkv"](tmp_path / "x.mkv")
    with Web({"x.mkv": path.read_bytes()}) as web:
        frames, _ = all_of(web, "x.mkv")
    want = np.array(odd_files.IRREGULAR) / 1000
    np.testing.assert_allclose([f.time for f in frames], want, atol=2e-3)
