"""Clients as they are: slow ones, ones that leave in the middle, and monitors."""

import asyncio
import contextlib
import json
import logging
import struct
import time

import grpc
import grpc.aio

from streamzoo.streaming.serve import Limits
from streamzoo.streaming.serve.limits import ServeError
from streamzoo.streaming.serve.server import Server, Settings

from .raw import grpc_opens, request, status, talk
from .serving import engine, run
from .test_serve_web import hear, line, say, settings


def test_whatever_a_client_owes_has_a_deadline():
    whole = request("GET", "/healthz", Connection="keep-alive")
    body = request("POST", body=b"x" * 99)
    drops = [bytes([c]) for c in request("GET", "/healthz") + b"x" * 400]
    upgrade = request(Connection="Upgrade", Upgrade="websocket")
    cases = {
        "nothing": ([], 0),
        "half a first request": ([b"GET /hea"], 0),
        "a first request in drops": (drops[:60], 0.05),
        "half a second request": ([whole, b"GET /h"], 0.1),
        "a second request in drops": ([whole, *drops[:60]], 0.05),
        "half a second request behind the first": ([whole + b"GET /hea"], 0),
        "half a body": ([body[:-60]], 0),
        "a body in drops": ([body[:-90], *drops[:60]], 0.05),
        "half a second body": ([whole, body[:-60]], 0.1),
        "no third request": ([whole, whole], 0.1),
        "a body that is refused": ([request("POST", Content_Length="9999999"), *drops[:60]], 0.05),
        "half an upgrade": ([upgrade[:-9]], 0),
        "an upgrade without a key": ([upgrade], 0),
        "blank lines": ([b"\r\n"], 0),
    }

    async def main():
        async with engine() as e, Server(e, settings(limits=Limits(handshake=0.5))) as server:

            async def closed(parts, pause):
                start = time.monotonic()
                with contextlib.suppress(ConnectionError):
                    await talk(server, *parts, pause=pause)
                return time.monotonic() - start

            took = await asyncio.gather(*(closed(*case) for case in cases.values()))
            print(dict(zip(cases, took, strict=False)))
            assert max(took) < 15  # a busy machine; without deadlines it is for ever

    run(main())


def test_the_servers_own_time_is_no_clients_fault(monkeypatch):
    """An answer may take longer than a request may."""

    async def main():
        async with engine() as e, Server(e, settings(limits=Limits(handshake=0.3))) as server:
            from streamzoo.streaming.serve import app

            async def slow(*args, **kwargs):
                await asyncio.sleep(1.0)
                raise ServeError("bad_source", "late")

            monkeypatch.setattr(app, "add_source", slow)
            body = json.dumps({"url": "http://127.0.0.1:1/x"}).encode()
            for half in (False, True):  # also of a client that has said that it sends no more
                answer = await talk(server, request("POST", body=body), half=half)
                assert status(answer) == 400 and b"late" in answer

    run(main())


# Clients as they are.


def test_head_is_get_without_the_body():
    async def main():
        async with engine() as e, Server(e, settings()) as server:
            for path in ("/", "/healthz", "/metrics", "/streams", "/page.js", "/nowhere"):
                head, get = [
                    (await talk(server, request(method, path))).partition(b"\r\n\r\n")
                    for method in ("HEAD", "GET")
                ]
                lengths = [
                    [line for line in h[0].lower().split(b"\r\n") if b"content-length" in line]
                    for h in (head, get)
                ]
                assert status(head[0]) == status(get[0]) and not head[2] and get[2], path
                assert path == "/metrics" or lengths[0] == lengths[1] != []
            answer = await talk(server, request("HEAD", Host="evil.example"))
            assert status(answer) == 403 and answer.endswith(b"\r\n\r\n")

    run(main())


async def leave(server, *parts):
    """Says this and is gone, without a goodbye."""
    host, port = server.address.rpartition("/")[2].split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    for part in parts:
        writer.write(part)
        await asyncio.sleep(0.05)
    sock = writer.get_extra_info("socket")
    sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER: a reset
    writer.transport.abort()


def test_clients_that_leave_are_no_stack_trace(caplog):
    caplog.set_level(logging.DEBUG, "streamzoo.serve")
    upgrade = (
        request(Path="", Connection="Upgrade", Upgrade="websocket")
        .replace(
            b"\r\n\r\n",
            b"\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + b"A" * 22 + b"==\r\n\r\n",
        )
        .replace(b"/streams", b"/ws")
    )
    text = lambda data: bytes([0x81, 0x80 | len(data), 0, 0, 0, 0]) + data
    hello = text(b'{"type": "open", "fps": 5}')
    body = request("POST", body=b"{" * 99)
    keep = request("GET", "/healthz", Connection="keep-alive")
    leaves = [
        (),
        (b"GET /he",),
        (body[:-50],),
        (keep, keep[:9]),
        (b"\0\1\2\3",),
        (keep + b"\0\1\2\r\n\r\n",),
        (keep * 30,),
        (request("GET", "/metrics") * 3,),
        (upgrade,),
        (upgrade, hello),
        (upgrade, hello[:9]),
        (upgrade, text(b"\xff\xfe")),
        (upgrade, text(b'"\\ud800"')),
        (upgrade, text(b'{"type": "open", "auth": "\\ud800", "token": "\\ud800%s"}' % (b"x" * 30))),
        (upgrade, text(b'{"type": "resume", "token": "\\udfff"}')),
        (upgrade, b"\xff\xff\xff\xff"),
        (upgrade, hello, b"\x88\x80\0\0\0\0"),
        (request("POST", "/offer", b'{"sdp": 1}'),),
        (request("BREW", "/%zz"),),
        (request(Host=None),),
        (request("POST", Transfer_Encoding="chunked"),),
    ]

    async def main():
        guarded = Settings(port=0, grpc_port=0, limits=Limits(handshake=0.3))
        async with engine() as e, Server(e, guarded) as server:
            for parts in leaves:
                await leave(server, *parts)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc.port}") as link:
                assert await grpc_opens(link) is None  # and is cancelled
                for data in (b"\xff\xff\xff", b"", b"\x0a"):
                    assert await grpc_opens(link, data=data) is grpc.StatusCode.INVALID_ARGUMENT
            # Half closed: no more will be sent, and an answer is waited for.
            for half in (keep, request()):
                assert status(await talk(server, half, half=True)) == 200
            assert await talk(server, body[:-50], half=True) == b""
            await asyncio.sleep(0.5)
            assert status(await talk(server, request("GET", "/healthz"))) == 200

    run(main())
    for entry in caplog.records:
        assert not entry.exc_info and "Traceback" not in entry.getMessage(), entry.getMessage()
        assert entry.levelno < logging.ERROR, entry.getMessage()


def test_reloaded_pages_do_not_use_up_a_clients_share():
    async def main():
        limits = Limits(streams_per_client=2, parked=3)
        async with engine(slots=4) as e, Server(e, settings(limits=limits)) as server:
            tokens = []
            for _ in range(9):
                async with line(server) as socket:
                    await say(socket, type="open", fps=1, budget_ms=900)
                    tokens.append((await hear(socket, "opened"))["token"])
                    socket.transport.abort()
                while any(s.attached for s in server.sessions.by_name.values()):
                    await asyncio.sleep(0.01)
            assert len(server.sessions.by_name) == 4 + 3  # in slots, and parked
            async with line(server) as one, line(server) as two, line(server) as three:
                for socket in (one, two):
                    await say(socket, type="open")
                    await hear(socket, "opened")
                await say(three, type="open")  # who is here does count
                assert (await hear(three, "error"))["code"] == "too_many"
            async with line(server) as socket:  # the newest is still there, the oldest is not
                await say(socket, type="resume", token=tokens[-1])
                assert (await hear(socket, "opened"))["resumed"]
            async with line(server) as socket:
                await say(socket, type="resume", token=tokens[0])
                assert (await hear(socket, "error"))["code"] == "unknown_token"

    run(main())


def test_a_client_that_leaves_many_sessions_pushes_out_its_own():
    async def main():
        limits = Limits(streams_per_client=9, parked=3)
        async with engine(slots=2) as e, Server(e, settings(limits=limits)) as server:
            sessions = server.sessions
            mine = await sessions.admit(owner="me")
            mine.attach().detach()
            for _ in range(8):
                (await sessions.admit(owner="you")).attach().detach()
            assert sessions.by_name[mine.name] is mine
            assert await sessions.find(mine.token) is mine and mine.parked is None

    run(main())


def test_an_error_repeats_little_of_what_came():
    async def main():
        async with engine() as e, Server(e, settings()) as server:
            for first in ({"policy": "p" * 10**6}, {"name": "n" * 10**6}, {"fps": "f" * 10**6}):
                async with line(server) as socket:
                    await say(socket, type="open", **first)
                    assert len(json.dumps(await hear(socket, "error"))) < 1000
            answer = await talk(server, request(path="/streams/" + "x" * 9000))
            assert status(answer) == 404 and len(answer) < 2000

    run(main())
