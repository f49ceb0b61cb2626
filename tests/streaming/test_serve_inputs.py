"""Streams that the server fetches itself: added, paused, removed, lost and found again."""

import asyncio
import functools
import http.server
import threading
from typing import Any

import av
import numpy as np
import pytest

from streamzoo.streaming.serve import ServeError, Sessions
from streamzoo.streaming.serve.dashboard import Dashboard
from streamzoo.streaming.serve.inputs import Thinned, add_all, add_source, check_address, named
from streamzoo.streaming.serve.server import Server, Settings
from streamzoo.streaming.sources import open_source
from streamzoo.streaming.sources.jitter import NETWORK_DELAY

from .rtsp import free_port, make_clip
from .serving import engine, run
from .test_serve_web import rest


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=25)


async def answered(session, count):
    while session.recent.last < count:
        assert session.ended is None, session.report()
        await asyncio.sleep(0.01)
    return [r["output"]["n"] for r in session.recent.after(0)[1]]


def test_a_file_plays_as_a_camera_and_its_carry_survives_a_restart(clip, tmp_path):
    async def main():
        settings = Settings(port=0, store=tmp_path / "store", every=0.05)
        async with engine() as e, Server(e, settings) as server:
            session = await add_source(server.sessions, str(clip), name="door")
            twin = await add_source(server.sessions, str(clip))  # not stored: whose carry is it?
            seen = await answered(session, 10)
            assert seen == list(range(1, len(seen) + 1)) and session.spec.fps == 25
            for token in (session.token, "source:" + str(clip)):  # a client cannot get at it
                with pytest.raises(ServeError, match="no session has this token"):
                    await server.sessions.find(token)
            report = session.report()
            assert report["source"]["state"] == "live" and report["name"] == "door"
            assert session.feed.source.stream == "door"
            twin.pause()
            assert twin.report()["state"] == "paused"
            server.sessions.remove(twin)
            await asyncio.wait_for(twin.feed.wait(), 10)
            assert await server.drain() and session.ended
            last = session.saved
        assert last >= 10
        async with engine() as e, Server(e, settings) as server:
            (name,) = [] if await add_all(server.sessions, [str(clip)]) else ["door"]
            session = server.sessions.get(name)
            while not session.recent.last > last:
                await asyncio.sleep(0.01)
            records = session.recent.after(0)[1]
            assert [r["output"]["n"] for r in records] == [r["seq"] for r in records]
            assert records[0]["index"] < last < records[-1]["index"] + 1

    run(main())


def test_names_of_streams_that_a_server_starts_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.mp4").touch()
    asked = "http://127.0.0.1/cam?id=3"
    assert named(["gate=rtsp://127.0.0.1/cam", asked, "a=b.mp4", "me=0", f"q={asked}"]) == [
        ("gate", "rtsp://127.0.0.1/cam"), ("cam1", asked), ("cam2", "a=b.mp4"), ("me", "0"),
        ("q", asked),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="gate names two streams"):
        named(["gate=0", "gate=1"])


def test_a_named_stream_tells_its_results_over_http(clip):
    async def main():
        async with engine() as e, Server(e, Settings(port=0)) as server:
            await add_all(server.sessions, [f"gate={clip}"])
            await answered(server.sessions.get("gate"), 3)
            body: Any
            status, body = await rest(server, "/streams/gate/results?after=1")
            assert status == 200 and body["missed"] == 0
            assert [r["seq"] for r in body["results"]][:2] == [2, 3]
            two, three = body["results"][:2]
            path = "/streams/gate/results?time="
            between = (two["time"] + three["time"]) / 2
            assert (await rest(server, f"{path}{between!r}"))[1]["results"] == [two]
            late = await rest(server, f"{path}{between!r}&shown={three['time']!r}")
            assert late == (200, {"missed": 0, "results": []})
            assert (await rest(server, f"{path}soon"))[0] == 400

    run(main())


def test_frames_that_change_much_are_events_of_the_servers_own_cameras(clip, tmp_path):
    """A still film whose last quarter is another shot: what follows the cut is never shed."""
    with av.open(str(tmp_path / "cut.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for i in range(40):
            image = np.full((48, 64, 3), 60 if i < 30 else 200, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode(None))

    async def main():
        async with engine() as e:
            session = await add_source(Sessions(e), str(tmp_path / "cut.mp4"))
            assert session.spec.policy == "events"
            await answered(session, 38)
            records = session.recent.after(0)[1]
            assert [r["index"] for r in records if r.get("event")][:1] == [30]

    run(main())


def test_what_cannot_be_opened_and_what_is_tried_again(clip, tmp_path):
    port = free_port()
    url = f"http://127.0.0.1:{port}/clip.mp4"

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    async def main():
        async with engine() as e:
            sessions = Sessions(e)
            with pytest.raises(ServeError, match="nothing.mp4"):
                await add_all(sessions, [str(tmp_path / "nothing.mp4")])
            (task,) = await add_all(sessions, [url])  # nobody serves it yet
            assert not sessions.by_name
            handler = functools.partial(Handler, directory=clip.parent)
            web = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
            threading.Thread(target=web.serve_forever, daemon=True).start()
            await asyncio.wait_for(task, 30)
            await answered(sessions.get("cam0"), 3)
            sessions.remove(sessions.get("cam0"))
            async with Server(e, Settings(port=0)) as server:
                body = {"url": url, "name": "web", "fps": 25, "policy": "lossless"}
                status, report = await rest(server, "/streams", "POST", body)
                assert status == 201 and report["name"] == "web" and report["fps"] == 25
                assert (await rest(server, "/streams", "POST", body))[0] == 409
                await answered(server.sessions.get("web"), 3)
                assert server.sessions.get("web").feed.report()["delay"] == NETWORK_DELAY
                assert (await rest(server, "/streams/web", "DELETE"))[0] == 200
                assert (await rest(server, "/"))[1].startswith("<!doctype html>")
            web.shutdown()
            web.server_close()
            assert not e.streams

    run(main())


def test_a_source_with_more_frames_than_asked_for_is_thinned(clip):
    with open_source(clip) as source:
        thinned = Thinned(source, 10.0)
        assert thinned.fps == 25 and not thinned.live and thinned.drops == {}
        times = []
        while (frame := thinned.read()) is not None:
            times.append(frame.time)
        assert thinned.drops == {"thinned": 15}
        thinned.keyframes_only = True  # reaches the decoder
        assert source.keyframes_only and thinned.keyframes_only
    np.testing.assert_allclose(times, [0, 0.12, 0.2, 0.32, 0.4, 0.52, 0.6, 0.72, 0.8, 0.92])
    with open_source(clip) as source:
        thinned = Thinned(source, 60.0)
        assert sum(1 for _ in iter(thinned.read, None)) == 25


def test_addresses_that_clients_may_name():
    assert check_address("rtsp://cam/1") == "rtsp://cam/1"
    for bad in ("/etc/passwd", "file:///x", "0", 0, None, "concat:a|b", "ftp://x"):
        with pytest.raises(ServeError, match="given where it is started"):
            check_address(bad)


def test_a_cameras_secret_stands_in_nothing_that_is_told_or_kept(clip, tmp_path, caplog):
    caplog.set_level("DEBUG", "streamzoo")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path):
            return str(clip)

        def log_message(self, format, *args):
            pass

    async def main():
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
            threading.Thread(target=web.serve_forever, daemon=True).start()
            host = f"127.0.0.1:{web.server_port}"
            good = f"http://admin:hunter2@{host}/live/hunter2/clip.mp4?pwd=hunter2"
            bad = f"rtsp://hunter2@127.0.0.1:{free_port()}/user=a_password=hunter2_x"
            settings = Settings(port=0, store=tmp_path / "store", every=0.05)
            async with engine() as e, Server(e, settings) as server:
                body = {"url": good, "name": "cam", "fps": 25, "budget_ms": 60000}
                told = [await rest(server, "/streams", "POST", body)]
                for url in (bad, good[1:]):
                    told.append(await rest(server, "/streams", "POST", {"url": url}))
                assert [status for status, _ in told] == [201, 400, 400]
                waiting = await add_all(server.sessions, [bad])
                await answered(server.sessions.get("cam"), 3)
                for path in ("/streams", "/streams/cam", "/streams/cam/results", "/metrics"):
                    told.append(await rest(server, path))
                board = Dashboard(server.sessions)
                told += [await board.state(), board.timeline.after(0), board.hello()]
                for task in waiting:
                    task.cancel()
                names = [thread.name for thread in threading.enumerate()]
                await asyncio.sleep(0.2)
            web.shutdown()
        for text in (*map(str, told), *names, *map(str, caplog.messages)):
            assert "hunter2" not in text, text
        assert host in str(told)
        kept = [p for p in (tmp_path / "store").rglob("*") if p.is_file()]
        assert kept and not any(b"hunter2" in str(p).encode() + p.read_bytes() for p in kept)

    run(main())
