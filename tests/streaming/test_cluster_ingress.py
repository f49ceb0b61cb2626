"""The cluster's ingress has a replica's guards; without Ray's processes."""

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.requests import Request

ray = pytest.importorskip("ray", reason="needs the extra cluster")

from streamzoo.streaming.cluster import Load, ingress
from streamzoo.streaming.cluster.launch import Cluster, application
from streamzoo.streaming.serve import door
from streamzoo.streaming.serve.access import Tokens
from streamzoo.streaming.serve.door import Door
from streamzoo.streaming.serve.limits import ServeError
from streamzoo.streaming.serve.server import Settings

from .serving import run

SITE = "https://cams.example.com"


async def ask(method, path, body=b"", **headers: Any):
    """(status, body) of the app, past its guards: behind them nobody is at home here."""
    head = {"host": "localhost", "content-length": str(len(body))} | headers
    head = [(k.replace("_", "-").encode(), v.encode()) for k, v in head.items()]
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "headers": head,
        "query_string": b"", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
        "scheme": "http", "http_version": "1.1", "asgi": {"version": "3.0"}, "root_path": "",
    }  # fmt: skip
    said = []

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(message):
        said.append(message)

    try:
        await ingress.app(scope, receive, send)
    except TypeError:  # a method without its object: it has gone past the guards
        return 200, b""
    return said[0]["status"], b"".join(m.get("body", b"") for m in said)


@pytest.fixture
def closed(monkeypatch):
    """The door of a cluster on this machine that one site may ask."""
    monkeypatch.setattr(door, "_process", [Door.of("127.0.0.1", ["lan"], [SITE])])


def test_large_bodies_and_foreign_pages_go_no_further(closed):
    async def main():
        for method, path in (
            ("POST", "/v1/sessions"),
            ("GET", "/v1/cluster"),
            ("HEAD", "/healthz"),
        ):
            for status, headers in (
                (413, {"content_length": "99999"}), (413, {"transfer_encoding": "chunked"}),
                (403, {"origin": "https://evil.example"}), (403, {"host": "evil.example"}),
            ):  # fmt: skip
                got, body = await ask(method, path, b"", **headers)
                assert got == status and len(body) < 1000, (method, path, headers)
                assert (method == "HEAD") == (not body)
        for headers in ({"origin": SITE}, {"host": "lan"}, {"host": "cams.example.com"}):
            got, body = await ask("GET", "/nowhere", b"", **headers)
            assert got == 404 and json.loads(body)

    run(main())


def test_the_door_reaches_the_copies_that_serve_makes(monkeypatch, tmp_path):
    """The app is copied when the module is read, the class when it is sent to its process."""
    monkeypatch.setattr(door, "_process", [Door()])
    settings = Settings(store=tmp_path, allow_origins=(SITE,), allow_hosts=("lan",))
    bound = application(Cluster(settings), cast(Any, lambda: None))._bound_deployment
    _, tokens, lease, _, given, share = bound.init_args
    assert given == settings.door != Door() and share == 16
    pickle = ray.cloudpickle
    app, Copy = pickle.loads(pickle.dumps(ingress.app)), pickle.loads(pickle.dumps(ingress.Ingress))
    (guard,) = app.user_middleware
    Copy.__mro__[1].__init__(
        SimpleNamespace(), str(tmp_path / "d"), tokens, lease, None, given, share
    )
    assert guard.kwargs["door"]() == given


def test_slots_are_kept_for_one_client_up_to_its_share_alone(monkeypatch, tmp_path):
    """By its address, where there are no tokens; texts that are too long are not repeated."""
    monkeypatch.setattr(door, "_process", [Door()])
    Real: Any = ingress.Ingress.__mro__[1]
    rest = Tokens(), 60.0, None, Door(), 2

    def asked(client, **body):
        data = json.dumps(body).encode()

        async def receive():
            return {"type": "http.request", "body": data}

        head = [(b"content-type", b"application/json")]
        return Request({"type": "http", "headers": head, "client": (client, 1)}, receive)

    async def main():
        real = Real(str(tmp_path / "d"), *rest)
        await real.beat("a", "http://a", Load(8), {}, 1)
        for _ in range(2):
            assert (await real.place(asked("10.0.0.1")))["endpoint"] == "http://a"
        with pytest.raises(ServeError, match="2 slots are kept for you already"):
            await real.place(asked("10.0.0.1"))
        assert (await real.place(asked("10.0.0.2")))["endpoint"] == "http://a"
        with pytest.raises(ServeError, match="1 to 200 letters") as caught:
            await real.place(asked("10.0.0.3", group="g" * 201))
        assert "gg" not in str(caught.value)

    run(main())
