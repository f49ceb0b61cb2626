"""The WebSocket and REST of a server in this process, with the typed client and without."""

import asyncio
import io
import json
import shutil
import ssl
import struct
import subprocess
import urllib.error
import urllib.request
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.websockets import WebSocketState
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from streamzoo.streaming.serve import Limits
from streamzoo.streaming.serve.access import Tokens
from streamzoo.streaming.serve.app import Line
from streamzoo.streaming.serve.client import Client, ClientError
from streamzoo.streaming.serve.conversation import Conversation
from streamzoo.streaming.serve.metrics import Metrics
from streamzoo.streaming.serve.server import Server, Settings, bind
from streamzoo.streaming.serve.sessions import Sessions
from streamzoo.streaming.serve.wire import JPEG, RAW, FrameMessage, pack, unpack

from .serving import alone, engine, logits, run
from .stub import SIZE, video

TOKEN = "correct horse"


def settings(**kwargs):
    return Settings(port=0, **kwargs)


async def rest(server, path, method="GET", body=None, headers=None):
    """(status, JSON or text)."""
    head = {"Content-Type": "application/json"} | (headers or {})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.address + path, data, head, method=method)

    def call():
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    status, text = await asyncio.to_thread(call)
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text


def line(server):
    return connect(server.address.replace("http", "ws") + "/ws", proxy=None, open_timeout=20)


async def say(socket, **message):
    await socket.send(json.dumps(message))


async def hear(socket, kind):
    """The next message of a kind; others are passed over."""
    while True:
        message = json.loads(await asyncio.wait_for(socket.recv(), 20))
        if message["type"] == kind:
            return message


async def send_all(client, frames):
    for frame in frames:
        await client.send(frame)
    await client.finish()


def lossless(server, **kwargs):
    return Client(server.address, policy="lossless", budget_ms=60000, **kwargs)


def jpeg(image):
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=95)
    return out.getvalue()


def test_a_frame_message_there_and_back():
    for time, event in ((None, False), (1.5, True)):
        message = FrameMessage(RAW, 7, b"abc", time, event, 4, 6)
        got = unpack(pack(message))
        assert (got.index, got.time, got.event, got.height, got.width) == (7, time, event, 4, 6)
        assert bytes(got.picture) == b"abc" and got.kind == RAW
    # The layout, byte by byte, as a client in another language writes it.
    assert (
        pack(message)
        == bytes([2, 1, 0, 4, 0, 6, 0, 0, *[0] * 7, 7]) + struct.pack(">d", 1.5) + b"abc"
    )


def test_client_lossless_over_a_lost_connection_and_a_second_client():
    frames = video(1, 40)

    async def main():
        async with engine() as e, Server(e, settings()) as server:
            async with lossless(server) as client, lossless(server) as other:
                sending = asyncio.create_task(send_all(client, frames))
                others = asyncio.create_task(send_all(other, video(2, 30)))
                got = []
                async for result in client:
                    got.append(result)
                    if len(got) in (5, 20):  # the network goes; nobody says goodbye
                        client._line.transport.abort()
                got_other = [r async for r in other]
                await sending, await others
                assert client.opened["size"] == list(SIZE) and client.reconnects >= 1
                assert client.end["frames"]["completed"] == 40 and client.missed == 0
            assert [r.index for r in got] == list(range(40))
            assert [r.seq for r in got] == list(range(1, 41))
            np.testing.assert_array_equal(logits([r.output for r in got]), logits(alone(frames)))
            np.testing.assert_array_equal(
                logits([r.output for r in got_other]), logits(alone(video(2, 30)))
            )
            for _ in range(100):
                if not e.streams:
                    break
                await asyncio.sleep(0.01)
            assert not e.streams and not server.sessions.by_name

    run(main())


def test_jpeg_of_any_size_is_the_picture_at_the_models_size():
    ramp = np.broadcast_to(np.linspace(30, 220, 60)[None, :, None], (40, 60, 3)).astype(np.uint8)

    async def main():
        seen = []
        async with engine() as e, Server(e, settings()) as server:
            async with lossless(server) as client:
                session = next(iter(server.sessions.by_name.values()))
                offer = session.stream.offer
                session.stream.offer = lambda f, *a, **k: (seen.append(f), offer(f, *a, **k))[1]
                await client.send(jpeg(ramp))
                await client.send(ramp)
                await client.finish()
                assert len([r async for r in client]) == 2
        want = ramp.reshape(4, 10, 6, 10, 3).mean((1, 3))
        for image in seen:
            assert image.shape == (*SIZE, 3) and image.dtype == np.uint8
            assert np.abs(image - want).max() < 8

    run(main())


def test_a_stalled_reader_misses_results_and_its_neighbour_does_not():
    async def main():
        limits = Limits(keep=4)
        async with engine() as e, Server(e, settings(limits=limits)) as server:
            async with line(server) as socket, lossless(server) as other:
                await say(socket, type="open", fps=15, budget_ms=60000, capacity=64)
                opened = await hear(socket, "opened")
                session = server.sessions.get(opened["session"])
                for index, frame in enumerate(video(0, 12)):
                    await socket.send(pack(FrameMessage(RAW, index, frame.tobytes(), None, False,
                                                        *SIZE)))  # fmt: skip
                task = asyncio.create_task(send_all(other, video(1, 20)))
                assert [r.index async for r in other] == list(range(20))
                await task
                while session.recent.last < 12:
                    await asyncio.sleep(0.01)
                socket.transport.abort()
            # Back with the token, from the very beginning: what is kept, and how many are not.
            async with line(server) as socket:
                await say(socket, type="resume", token=opened["token"], after=0)
                again = await hear(socket, "opened")
                assert again["next"] == 12 and again["resumed"] and again["last"] == 12
                assert (await hear(socket, "missed"))["count"] == 8
                indices = [(await hear(socket, "result"))["index"] for _ in range(4)]
                assert indices == [8, 9, 10, 11]
                await say(socket, type="close")
                assert (await hear(socket, "end"))["reason"] == "removed"

    run(main())


def test_bad_messages_get_an_error_and_the_stream_goes_on():
    frames = video(3, 4)
    good = lambda k: pack(FrameMessage(RAW, k, frames[k].tobytes(), None, False, *SIZE))

    async def main():
        limits = Limits(errors=12, message=4096, pixels=10_000)
        async with engine() as e, Server(e, settings(limits=limits)) as server:
            async with lossless(server) as other:
                async with line(server) as socket:
                    await say(socket, type="open", policy="lossless", budget_ms=60000)
                    token = (await hear(socket, "opened"))["token"]
                    await socket.send(good(0))
                    head = jpeg(frames[0])
                    huge = head.replace(
                        struct.pack(">HH", *SIZE), struct.pack(">HH", 60000, 60000), 1
                    )
                    for data, code in [
                        ("{", "bad_request"), ("[]", "bad_request"),
                        ('{"type": "?"}', "bad_request"),
                        ('{"type": "ack", "seq": -1}', "bad_request"), (b"short", "bad_request"),
                        (pack(FrameMessage(9, 1, b"")), "bad_request"),
                        (good(3), "gap"),
                        (pack(FrameMessage(JPEG, 1, b"no picture")), "bad_frame"),
                        (pack(FrameMessage(JPEG, 2, huge)), "bad_frame"),
                    ]:  # fmt: skip
                        await socket.send(data)
                        error = await hear(socket, "error")
                        assert error["code"] == code, error
                    await socket.send(good(3))
                    while (await hear(socket, "result"))["index"] != 3:
                        pass
                    with pytest.raises(ConnectionClosed):
                        await socket.send(b"x" * 5000)  # larger than a message may be
                        await hear(socket, "never")
                async with line(server) as socket:  # the session has survived it
                    await say(socket, type="resume", token=token, after=2)
                    await hear(socket, "opened")
                    with pytest.raises(ConnectionClosed):
                        for _ in range(50):
                            await socket.send("{")
                        while True:
                            await hear(socket, "error")
                task = asyncio.create_task(send_all(other, video(1, 3)))
                results = [r async for r in other]
                assert len(results) == 3, (other.end, other.errors)
                await task

    run(main())


def test_who_may_come_in():
    async def main():
        limits = Limits(streams_per_client=1, handshake=0.3)
        protected = settings(tokens=Tokens([TOKEN, "another one"]), limits=limits)
        async with engine() as e, Server(e, protected) as server:
            for auth in (None, "wrong token", "corrécthorse"):
                with pytest.raises(ClientError) as caught:
                    async with lossless(server, auth=auth):
                        pass
                assert caught.value.code == "unauthorised"
            for path in ("/streams", "/metrics"):
                assert (await rest(server, path))[0] == 401
                bearer = {"Authorization": f"Bearer {TOKEN}"}
                assert (await rest(server, path, headers=bearer))[0] == 200
            assert await rest(server, "/healthz") == (200, {"status": "ok"})
            async with lossless(server, auth=TOKEN):
                with pytest.raises(ClientError) as caught:
                    async with lossless(server, auth=TOKEN):
                        pass
                assert caught.value.code == "too_many"
                async with lossless(server, auth="another one"):
                    pass
            # A page of another site; a connection that says nothing, and one that never asks.
            evil = {"Origin": "http://evil.example"}
            assert (await rest(server, "/healthz", headers=evil))[0] == 403
            with pytest.raises(Exception, match="403"):
                await connect(
                    server.address.replace("http", "ws") + "/ws", proxy=None,
                    additional_headers=evil,
                )  # fmt: skip
            async with line(server) as socket:
                with pytest.raises(ConnectionClosed):
                    await asyncio.wait_for(socket.recv(), 5)
            host, port = server.address.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /healthz HTTP/1.1\r\n")
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()

    run(main())


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match="reached from other machines"):
        Settings(host="0.0.0.0")
    with pytest.raises(ValueError, match="TLS needs both"):
        Settings(certificate="x.pem")
    with pytest.raises(ValueError, match="at least 8 characters"):
        Tokens(["short"])
    with pytest.raises(ValueError, match="ttl=0"):
        Limits(ttl=0)
    sock = bind("127.0.0.1", 0)
    with pytest.raises(ValueError, match="cannot be bound"):
        bind("127.0.0.1", sock.getsockname()[1])
    sock.close()


def test_rest_and_metrics():
    async def main():
        async with engine() as e, Server(e, settings()) as server:
            async with lossless(server, name="cam") as client:
                await client.send(video(0, 1)[0])
                assert (await anext(client)).index == 0
                status, listed = await rest(server, "/streams")
                assert status == 200 and [s["name"] for s in listed["streams"]] == ["cam"]
                assert listed["streams"][0]["frames"]["completed"] == 1
                assert client.token not in json.dumps(listed)
                status, got = await rest(server, "/streams/cam/results?after=0")
                assert [r["index"] for r in got["results"]] == [0] and got["missed"] == 0
                assert (await rest(server, "/streams/cam/results?after=x"))[0] == 400
                assert (await rest(server, "/streams/cam/pause", "POST"))[1]["state"] == "paused"
                await client.send(video(0, 1)[0])
                await asyncio.sleep(0.05)
                assert (await rest(server, "/streams/cam"))[1]["frames"]["waiting"] == 1
                _, text = await rest(server, "/metrics")
                for want in (
                    "streamzoo_frames_received_total 2.0", "streamzoo_frames_completed_total 1.0",
                    'streamzoo_queue_depth{stream="cam"} 1.0', "streamzoo_slots_used 1.0",
                    'streamzoo_frames_dropped_total{reason="late"} 0.0',
                    'streamzoo_stage_seconds_count{stage="engine"} 1.0',
                    'streamzoo_stage_seconds_count{stage="decode"} 2.0',
                ):  # fmt: skip
                    assert want in text, want
                assert (await rest(server, "/streams/cam/resume", "POST"))[1]["state"] == "live"
                assert (await anext(client)).index == 1
                assert (await rest(server, "/streams/none"))[0] == 404
                for body, code in [
                    ({"url": "/etc/passwd"}, "bad_source"), ({"url": "file:///x"}, "bad_source"),
                    ({}, "bad_source"), ([], "bad_request"),
                    ({"url": "http://127.0.0.1:9/x", "fps": 0}, "bad_request"),
                ]:  # fmt: skip
                    status, answer = await rest(server, "/streams", "POST", body)
                    assert status == 400 and answer["error"]["code"] == code
                large = {"url": "x" * 100_000}
                assert (await rest(server, "/streams", "POST", large))[0] == 413
                assert (await rest(server, "/streams/cam", "DELETE"))[0] == 200
                with pytest.raises(ClientError, match="has ended: removed"):
                    for _ in range(100):
                        await client.send(video(0, 1)[0])
                        await asyncio.sleep(0.01)
            assert not e.streams

    run(main())


def test_tls(tmp_path):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make a certificate with")
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext"
    words = [openssl, *words.split(), "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out"]
    subprocess.run([*words, certificate], check=True, capture_output=True)

    async def main():
        secure = settings(certificate=certificate, key=key)
        async with engine() as e, Server(e, secure) as server:
            assert server.address.startswith("https://")
            trust = ssl.create_default_context(cafile=str(certificate))
            async with lossless(server, tls=trust) as client:
                await client.send(video(0, 1)[0])
                assert (await anext(client)).index == 0
            with pytest.raises(ClientError) as caught:  # a certificate that nobody vouches for
                async with lossless(server):
                    pass
            assert caught.value.code == "tls"

    run(main())


class Gone:
    """A WebSocket whose client sent all of this and left: nothing can be sent back."""

    client = None

    def __init__(self, *messages):
        self.headers, self._messages, self.told = {}, list(messages), []
        self.client_state = self.application_state = WebSocketState.DISCONNECTED

    async def receive(self):
        await asyncio.sleep(0.01)  # as a frame is read
        if not self._messages:
            return {"type": "websocket.disconnect", "code": 1006}
        message = self._messages.pop(0)
        text = isinstance(message, str)
        return {"type": "websocket.receive", "text" if text else "bytes": message}

    async def send_text(self, text):
        if self.told:
            raise RuntimeError("the socket is closed")
        self.told.append(text)

    async def close(self, *_):
        pass


def test_who_closes_behind_frames_and_leaves_keeps_no_session():
    frames = [
        pack(FrameMessage(RAW, k, image.tobytes(), k / 15, height=SIZE[0], width=SIZE[1]))
        for k, image in enumerate(video(8, 12))
    ]
    hello = json.dumps({"type": "open", "fps": 15, "policy": "lossless"})
    close = json.dumps({"type": "close"})

    async def main():
        async with engine() as e:
            sessions = Sessions(e, Limits(ttl=60))
            socket: Any = Gone(hello, *frames, close)
            talk = lambda owner, _first: Conversation(sessions, owner)
            await Line(socket, 1, Tokens(), talk, Metrics(sessions)).serve()
            assert len(socket.told) == 1 and not sessions.by_name
            sessions.close()

    run(main())
