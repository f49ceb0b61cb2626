"""The server's page: what it is told, and the page itself in a Chromium."""

import asyncio
import contextlib
import io
import json
import shutil
import struct

import numpy as np
import pytest
from PIL import Image
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from streamzoo.layers.install import how_to_install
from streamzoo.streaming.serve import Sessions
from streamzoo.streaming.serve.access import Tokens
from streamzoo.streaming.serve.dashboard import EDGES, Dashboard, jpeg, summarise
from streamzoo.streaming.serve.dashboard_events import Timeline
from streamzoo.streaming.serve.dashboard_watch import STREAMS
from streamzoo.streaming.serve.server import Server, Settings
from streamzoo.streaming.serve.spec import Spec
from streamzoo.streaming.sources import SourceError

from .serving import engine, run
from .stub import CARD, SIZE, video
from .test_serve_web import TOKEN, hear, rest, say, settings

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), "")
FLAGS = [
    "--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
    "--allow-loopback-in-peer-connection", "--disable-features=WebRtcHideLocalIpsWithMdns",
]  # fmt: skip


def look(server):
    return connect(server.address.replace("http", "ws") + "/watch", proxy=None, open_timeout=20)


def board_of(server):
    return server._web.config.app.state.dashboard


async def ask(socket, streams, after=0, rev=0):
    """(header, JPEGs) of the next message."""
    await say(socket, type="next", after=after, rev=rev, streams=streams)
    data = await asyncio.wait_for(socket.recv(), 20)
    length = int.from_bytes(data[:4], "big")
    header, at, pictures = json.loads(data[4 : 4 + length]), 4 + length, []
    for tile in header["tiles"]:
        pictures.append(data[at : at + tile["bytes"]])
        at += tile["bytes"]
    assert at == len(data)
    return header, pictures


@contextlib.asynccontextmanager
async def pushing(sessions, name, fps=20, **spec):
    """A session that gets frames all the time; their first pixel counts them."""
    session = sessions.open(Spec(fps, budget=60, **spec), name=name, lasting=True)

    async def push():
        for k in range(10**6):
            frame = np.full((*SIZE, 3), k % 200, np.uint8)
            if session.stream.credits:
                session.offer(session.next, frame)
            await asyncio.sleep(1 / fps)

    task = asyncio.create_task(push())
    try:
        yield session
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(true, seconds=20):
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


def test_timeline_of_moments_and_spans():
    now = [1000.0]
    line = Timeline(4, clock=lambda: now[0], alarms=("event", "anomaly"))
    for _ in range(4):
        line.record("a", {"output": {"event": 0.7, "anomaly": 0.2}, "classes": {"run": 0.4}})
        now[0] += 1
    now[0] += 5
    line.record("a", {"output": {"event": 0.9}, "classes": {"run": 0.6}, "reset": True})
    items = line.after(0)
    assert [(i["kind"], i["start"], i["end"], i["count"], i["peak"]) for i in items] == [
        ("event", 1000, 1003, 4, 0.7), ("error", 1009, 1009, 1, None),
        ("event", 1009, 1009, 1, 0.9), ("label", 1009, 1009, 1, 0.6),
    ]  # fmt: skip
    rev = line.rev
    line.span("a", "label", "run", peak=0.8)
    (changed,) = line.after(rev)
    assert changed["id"] == items[-1]["id"] and changed["peak"] == 0.8 and changed["count"] == 2
    for k in range(50):  # bounded, whatever comes; the longest untouched ones go
        line.span("b", "error", f"{k} " + "x" * 1000)
    assert [i["text"][:2] for i in line.after(0)] == ["46", "47", "48", "49"]
    assert len(line._open) == 4 and all(len(i["text"]) <= 200 for i in line.after(0))


def test_tiles_and_percentiles():
    x = np.linspace(20, 230, 700)
    image = np.stack(np.broadcast_arrays(x[None], x[::2, None], 128.0), -1).astype(np.uint8)
    tile = np.asarray(Image.open(io.BytesIO(jpeg(image))).convert("RGB")).astype(float)
    assert tile.shape == (160, 320, 3)
    want = np.asarray(Image.fromarray(image).resize((320, 160), Image.Resampling.BILINEAR))
    assert np.abs(tile - want).mean() < 4
    seconds = np.random.default_rng(0).lognormal(-4, 1, 501)
    total, (one, none) = summarise([list(seconds), []])
    ordered = np.sort(1e3 * seconds)
    assert total["p50"] == pytest.approx(ordered[250], abs=0.01) and none == {}
    assert total["p99"] == one["p99"] == pytest.approx(ordered[495], abs=0.01)
    assert sum(total["counts"]) == total["count"] == 501
    k = np.searchsorted(EDGES, 16.0)
    assert total["counts"][k] == ((ordered >= EDGES[k]) & (ordered < EDGES[k + 1])).sum()


def test_a_page_asks_and_nobody_waits_for_it():
    async def main():
        async with engine() as e, Server(e, settings()) as server:
            sessions, board = server.sessions, board_of(server)
            async with (
                pushing(sessions, "a") as a, pushing(sessions, "b") as b, look(server) as socket
            ):  # fmt: skip
                await say(socket, type="watch")
                hello = await hear(socket, "watching")
                assert hello["model"] == CARD.name and hello["size"] == list(SIZE)
                header, pictures = await ask(socket, ["a", "nobody"])
                state = header["state"]
                assert [s["name"] for s in state["streams"]] == ["a", "b"]
                after, seen = header["after"], []
                for _ in range(4):
                    header, pictures = await ask(socket, ["a"], after, header["rev"])
                    assert header["after"] > after
                    assert [t["stream"] for t in header["tiles"]] == ["a"]
                    after = header["after"]
                    seen.append(header["tiles"][0]["index"])
                    pixel = np.asarray(Image.open(io.BytesIO(pictures[0]))).mean()
                    assert abs(pixel - seen[-1] % 200) < 4  # the answer's own picture
                assert seen == sorted(set(seen)) and not b.stream.show
                # It stops asking: the streams go on, and not one more picture is kept.
                await until(lambda: not a.stream.show)
                before, tiles = a.recent.last, dict(board.tiles)
                await until(lambda: a.recent.last > before + 10)
                assert board.tiles == tiles and {*tiles} == {a}
                # It is away for long: one message has all it needs, the newest tile of each.
                header, pictures = await ask(socket, ["a", "b"], after)
                assert len(header["tiles"]) == len({t["stream"] for t in header["tiles"]})
                sessions.remove(b)
                while not any(i["text"] == "gone: removed" for i in header["events"]):
                    header, _ = await ask(socket, ["a"], header["after"], header["rev"])
                latency = board._past[a].recent(asyncio.get_running_loop().time())
                assert len(latency) > 10 and board._past.keys() == {a}
            await until(lambda: not board.watchers)

    run(main())


def test_a_page_that_is_not_ours():
    async def main():
        async with engine() as e, Server(e, settings(tokens=Tokens([TOKEN]))) as server:
            for first in ({"type": "watch"}, {"type": "watch", "auth": "wrong"}):
                async with look(server) as socket:
                    await say(socket, **first)
                    assert (await hear(socket, "error"))["code"] == "unauthorised"
            for path, method in (("/offer", "POST"), ("/streams", "POST"), ("/streams", "GET")):
                assert (await rest(server, path, method, {} if method == "POST" else None))[
                    0
                ] == 401
            good = {"type": "watch", "auth": TOKEN}
            for bad in (
                "{", b"short", struct.pack("!BBHHxxQd", 1, 0, 0, 0, 0, 0.0) + b"x",
                json.dumps({"type": "next", "streams": ["x"] * (STREAMS + 1)}),
                json.dumps({"type": "next", "streams": [], "after": -1, "rev": 0}),
                json.dumps({"type": "close"}),
            ):  # fmt: skip
                async with look(server) as socket:
                    await say(socket, **good)
                    await hear(socket, "watching")
                    with pytest.raises(ConnectionClosed):
                        await socket.send(bad)
                        await asyncio.wait_for(socket.recv(), 5)
            await until(lambda: not board_of(server).watchers)
            bearer = {"Authorization": f"Bearer {TOKEN}"}
            for body in ({}, {"sdp": 1}, {"sdp": "v=0", "fps": "x"}):
                status, answer = await rest(server, "/offer", "POST", body, bearer)
                assert status == 400 and not server.sessions.by_name, answer

    run(main())


def test_the_pages_files():
    import urllib.request

    async def main():
        async with engine() as e, Server(e, settings(tokens=Tokens([TOKEN]))) as server:
            text = (await rest(server, "/"))[1]
            for name, kind in (("", "text/html"), ("page.css", "text/css"),
                               ("page.charts.js", "text/javascript")):  # fmt: skip
                with await asyncio.to_thread(
                    urllib.request.urlopen, f"{server.address}/{name}"
                ) as answer:
                    assert answer.headers["Content-Type"] == f"{kind}; charset=utf-8"
                    assert answer.headers["X-Content-Type-Options"] == "nosniff"
                    policy = answer.headers["Content-Security-Policy"]
                    assert "script-src 'self'" in policy and "unsafe" not in policy
                    text += answer.read().decode()
            assert "innerHTML" not in text and "://" not in text.replace("rtsp://", "").replace(
                "http://www.w3.org/2000/svg", ""
            ).replace("https?)://", "")  # nothing from elsewhere
            for path in ("/page.py", "/page.", "/page.../app.py", "/app.py"):
                assert (await rest(server, path))[0] == 404

    run(main())


def test_a_peer_is_admitted_first_and_leaves_nothing_behind(monkeypatch):
    offers = []

    def answer_offer(sdp, stream, size):
        offers.append((sdp, stream, size))
        raise SourceError("the offer has no video")

    monkeypatch.setattr("streamzoo.streaming.serve.dashboard_peer.answer_offer", answer_offer)

    async def main():
        async with engine(slots=1) as e, Server(e, settings()) as server:
            status, answer = await rest(server, "/offer", "POST", {"sdp": "v=0", "fps": 5})
            assert (status, answer["error"]["code"]) == (400, "bad_offer"), answer
            assert not server.sessions.by_name and not e.streams
            async with pushing(server.sessions, "a"):
                status, answer = await rest(server, "/offer", "POST", {"sdp": "v=0"})
                assert (status, answer["error"]["code"]) == (503, "refused")
            assert offers == [("v=0", "s0", SIZE)]  # for the refused one no process is started
            kinds = [item["kind"] for item in board_of(server).timeline.after(0)]
            assert "refused" in kinds

    run(main())


@contextlib.asynccontextmanager
async def browser():
    playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("there is no Chromium (chromium, chromium-browser or google-chrome)")
    async with playwright.async_playwright() as driver:
        chromium = await driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield chromium
        finally:
            await chromium.close()


async def visit(chromium, server, errors, **options):
    page = await chromium.new_page(**options)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: asyncio.ensure_future(dialog.accept()))
    await page.goto(server.address)
    return page


async def holds(page, expression, *arg):
    """Until it is true in the page, whose policy forbids what Playwright would do for it."""
    async with asyncio.timeout(20):
        while not await page.evaluate(expression, *arg):
            await asyncio.sleep(0.05)


OK = "document.querySelector('#status').textContent == 'ok'"
SHOWS = """([name, pixels]) => {
  const tile = [...document.querySelectorAll(".tile")].find(t => t.dataset.name === name);
  const canvas = tile?.querySelector("canvas");
  return !!canvas && canvas.width > 0 && canvas.getContext("2d")
    .getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data[0] > pixels;
}"""


def test_page_shows_pauses_and_removes_and_is_not_fooled_by_names():
    async def main():
        errors = []
        evil = "<img src=x onerror=window.fooled=1>"
        async with browser() as chromium, engine() as e, Server(e, settings()) as server:
            board = board_of(server)
            page = await visit(chromium, server, errors, viewport={"width": 390, "height": 800})
            await page.wait_for_selector("#none:not([hidden])")
            async with pushing(server.sessions, "a") as a, pushing(server.sessions, "b") as b:
                board.timeline.note(evil, "event", evil)
                b.name = evil  # as if a check were missing
                server.sessions.by_name[evil] = server.sessions.by_name.pop("b")
                await holds(page, SHOWS, ["a", 1])
                row = page.locator("#streams tbody tr", has=page.get_by_text("a", exact=True))
                await row.locator(".pause").click()
                await page.get_by_role("button", name="Go on").wait_for()
                assert a.stream.paused and not b.stream.paused
                await page.get_by_role("button", name="Go on").click()
                await until(lambda: not a.stream.paused)
                await holds(page, "document.querySelector('#lat99').textContent != '–'")
                assert await page.locator("#timeline rect").count() >= 2
                assert await page.locator("#histogram rect").count() == len(EDGES) - 1
                assert evil in await page.inner_text("#events")
                assert evil in await page.inner_text("#streams")
                assert not await page.evaluate("window.fooled")
                wide = await page.evaluate("document.documentElement.scrollWidth")
                assert wide <= 390  # a phone does not scroll sideways
                received = int(await page.locator("#books dd").first.inner_text())
                assert received > 0
                await row.locator(".remove").click()
                await until(lambda: "a" not in server.sessions.by_name)
                await holds(page, "document.querySelectorAll('.tile').length == 1")
                await page.evaluate("scrollTo(0, 0)")  # only tiles that are in sight are asked for
                serial = board._serial
                await until(lambda: board._serial > serial + 1)
                # A hidden page does not ask; it goes on when it is seen again.
                await page.evaluate("""() => {
                  Object.defineProperty(document, "hidden", {value: true, configurable: true});
                }""")
                await asyncio.sleep(0.5)
                assert not b.stream.show
                serial = board._serial
                await asyncio.sleep(0.5)
                assert board._serial == serial and b.recent.last > 0
                await page.evaluate("""() => {
                  delete document.hidden;
                  document.dispatchEvent(new Event("visibilitychange"));
                }""")
                await until(lambda: board._serial > serial)
            assert not errors

    run(main())


def test_page_with_a_token_and_a_server_that_goes_and_comes():
    async def main():
        errors = []
        async with browser() as chromium, engine() as e:
            async with Server(e, settings(tokens=Tokens([TOKEN]))) as server:
                port = int(server.address.rpartition(":")[2])
                page = await visit(chromium, server, errors)
                for given in ("wrong token", TOKEN):
                    await page.wait_for_selector("#door[open]")
                    await page.fill("#token", given)
                    await page.click("#key button")
                await holds(page, OK)
                assert CARD.name in await page.inner_text("#model")
            await page.wait_for_selector("#notice:not([hidden])")
            assert "does not answer" in await page.inner_text("#notice")
            async with Server(e, Settings(port=port, tokens=Tokens([TOKEN]))) as server:
                await page.wait_for_selector("#notice", state="hidden")
                await until(lambda: board_of(server).watchers)
            assert not errors

    run(main())


@pytest.mark.slow
@pytest.mark.parametrize("over", ["webrtc", "socket"])
def test_page_publishes_a_camera(over, monkeypatch):
    if over == "webrtc":
        pytest.importorskip("aiortc", reason="the extra `webrtc` is not installed")
    else:  # as where it is not installed
        find = "streamzoo.streaming.serve.dashboard.importlib.util.find_spec"
        monkeypatch.setattr(find, lambda name: None)

    async def main():
        errors = []
        async with browser() as chromium, engine() as e, Server(e, settings()) as server:
            monkeypatch.undo()
            page = await visit(chromium, server, errors)
            await holds(page, OK)
            assert await page.input_value("#over") == over
            missing = how_to_install("webrtc") in await page.inner_text("#published")
            assert missing == (over == "socket")
            await page.fill("#fps", "5")
            await page.click("#start")
            await holds(
                page, "document.querySelector('#published').textContent.includes('publishing as')"
            )
            (session,) = server.sessions.by_name.values()
            assert (session.feed is not None) == (over == "webrtc")
            await until(lambda: session.recent.last > 5)
            await holds(
                page, "name => document.querySelector('.tile canvas')?.height > 200", session.name
            )
            ratio = "canvas => canvas.width / canvas.height"
            assert abs(await page.locator(".tile canvas").evaluate(ratio) - 4 / 3) < 0.02
            await page.click("#stop")
            await until(lambda: not server.sessions.by_name)
            if session.feed is not None:
                assert await session.feed.wait() is None
            assert not errors

    run(main())


def test_dashboard_costs_little_while_nobody_looks():
    """Bounded by construction; here: no picture, no encoding, at most a minute of numbers."""

    async def main():
        async with engine() as e:
            sessions = Sessions(e)
            board = Dashboard(sessions)
            session = sessions.open(Spec(100, 60, "lossless"), lasting=True)
            for k, frame in enumerate(video(0, 30)):
                while not session.stream.credits:
                    await asyncio.sleep(0.001)
                session.offer(k, frame)
            await until(lambda: session.recent.last == 30)
            assert not board.tiles and not session.stream.show
            assert len(board._past[session].latencies) == 30
            sessions.close()
            assert not board._past

    run(main())
