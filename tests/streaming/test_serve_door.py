"""The server's doors: hosts, origins, tokens, deadlines, and clients that leave as clients do."""

import asyncio
import contextlib
import json

import grpc
import grpc.aio
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from streamzoo.streaming.serve.access import Tokens, bearer
from streamzoo.streaming.serve.door import Door
from streamzoo.streaming.serve.limits import ServeError
from streamzoo.streaming.serve.server import Server, Settings

from .raw import grpc_opens, request, status, talk
from .serving import engine, run
from .test_serve_web import hear, line, rest, say, settings

SITE = Origin("https://cams.example.com:8443")


# Hosts and origins.

EVIL = (
    "evil.example",
    "evil.example:{port}",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "evillocalhost",
    "127.0.0.1@evil.example",
    "10.1.2.3:{port}",
    "evil.example#127.0.0.1",
    "[::2]",
    "x y",
)
OWN = (
    "localhost",
    "LOCALHOST:{port}",
    "127.0.0.1",
    "127.0.0.1:{port}",
    "127.8.9.1",
    "[::1]:{port}",
    "localhost.",
    "cam.localhost:1",
)


def test_only_this_machines_names_reach_a_server_of_this_machine():
    async def main():
        async with engine() as e, Server(e, settings()) as server:
            port = server.address.rpartition(":")[2]
            act = json.dumps({"url": "http://127.0.0.1:1/x"}).encode()
            for host in (h.format(port=port) for h in EVIL):
                for method, body in (("GET", b""), ("POST", act)):
                    answer = await talk(server, request(method, body=body, Host=host))
                    assert status(answer) == 403 and b"--allow-host" in answer, host
                page = request(Host=host, Origin=f"http://{host}")
                assert status(await talk(server, page)) == 403
            for host in (h.format(port=port) for h in OWN):
                assert status(await talk(server, request(Host=host))) == 200, host
                page = request(Host=host, Origin=f"http://{host}".lower())
                assert status(await talk(server, page)) == 200, host
            old = b"GET /healthz HTTP/1.0\r\n\r\n"  # of a load balancer
            assert status(await talk(server, old)) == 200
            assert not server.sessions.by_name

    run(main())


def test_a_websocket_is_no_way_around():
    async def main():
        async with engine() as e, Server(e, settings(allow_origins=(SITE,))) as server:
            host, port = server.address.removeprefix("http://").split(":")
            for name, url, site in (
                ("evil.example", f"ws://evil.example:{port}/ws", f"http://evil.example:{port}"),
                ("own", f"ws://127.0.0.1:{port}/ws", "https://evil.example"),
                ("page", f"ws://evil.example:{port}/watch", None),
            ):
                with pytest.raises(InvalidStatus) as caught:
                    page = Origin(site) if site else None
                    await connect(url, host=host, port=int(port), origin=page, proxy=None)
                assert caught.value.response.status_code == 403, name
            url = f"ws://cams.example.com:{port}/ws"
            async with connect(url, host=host, port=int(port), origin=SITE, proxy=None) as socket:
                await say(socket, type="open")
                await hear(socket, "opened")

    run(main())


def test_sites_and_names_that_are_allowed():
    door = Door.of("127.0.0.1", ["cam.lan:8765"], [SITE, "http://Other.example/"])
    head = lambda host, origin=None: [(b"Host", host), *([(b"Origin", origin)] if origin else [])]
    for host, origin in (
        (b"127.0.0.1:8765", SITE.encode()), (b"cams.example.com", SITE.encode()),
        (b"cams.example.com:8443", SITE.encode()), (b"other.example", b"http://other.example:80"),
        (b"cam.lan", None), (b"cam.lan:8765", b"http://cam.lan:8765"),
    ):  # fmt: skip
        assert door.refusal(head(host, origin)) is None, (host, origin)
    for host, origin in (
        (b"127.0.0.1", b"https://evil.example"), (b"127.0.0.1", b"https://cams.example.com"),
        (b"127.0.0.1", b"http://cams.example.com:8443"), (b"127.0.0.1", b"null"), (b"x.lan", None),
        (b"127.0.0.1", b"http://127.0.0.1:9999"), (b"localhost", b"http://127.0.0.1"),
        (b"127.0.0.1", b"https://cams.example.com:8443.evil.example"),
    ):  # fmt: skip
        assert door.refusal(head(host, origin)) is not None, (host, origin)
    assert Door.of("127.0.0.1").refusal([(b"host", b"localhost"), (b"host", b"evil")]) is not None
    # Reached from elsewhere by whatever name; pages of other sites are still not let in.
    public = Door.of("0.0.0.0")
    assert public.refusal(head(b"box.lan:1", b"http://box.lan:1")) is None
    assert public.refusal(head(b"box.lan:1", b"http://evil.example")) is not None
    for word in (
        "*",
        "cams.example.com",
        "https://",
        "https://a/b",
        "https://u:p@a",
        "ftp://a",
        "",
    ):
        with pytest.raises(ValueError, match="--allow-origin: write it as https://HOST"):
            Settings(allow_origins=(word,))
    for word in ("*", "*.lan", "a/b", "", "u@h", "http://a"):
        with pytest.raises(ValueError, match="--allow-host: write it as HOST"):
            Settings(allow_hosts=(word,))


def test_a_proxys_word_counts_only_where_it_is_trusted():
    async def main(trusted):
        async with engine() as e, Server(e, settings(trusted_proxies=trusted)) as server:
            seen = []
            owner = Tokens.owner
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Tokens, "owner", lambda *a: seen.append(a[2]) or owner(*a))
                await talk(server, request(X_Forwarded_For="203.0.113.9"))
            return seen

    for trusted, want in (
        ((), "127.0.0.1"),
        (("127.0.0.1",), "203.0.113.9"),
        (("::2",), "127.0.0.1"),
    ):
        got = []

        got.append(asyncio.run(asyncio.wait_for(main(trusted), 60)))
        assert got == [[want]]


# Tokens.

PHRASE, CHINESE, LATIN = (
    "sunshine everyday morning!!",
    "晴天每天早上都很好",
    "très bien à l'été "[:-1],
)


def test_a_token_is_a_whole_line_in_any_script(tmp_path):
    path = tmp_path / "tokens"
    path.write_bytes(f"\ufeff{PHRASE}\r\n\n{CHINESE}\n{LATIN}".encode())
    tokens = Tokens.read(path)
    forms = [f(t) for t in (PHRASE, CHINESE, LATIN) for f in (str, str.encode)]
    owners = {given: tokens.owner(given, "me") for given in [*forms, LATIN.encode("latin-1")]}
    assert len(set(owners.values())) == 3 and owners[LATIN] == owners[LATIN.encode("latin-1")]
    given = [
        "sunshine",
        "morning!!",
        PHRASE + "\n",
        f" {PHRASE}",
        CHINESE[:8],
        "",
        None,
        7,
        "\ud800",
    ]
    for wrong in [*given, [], PHRASE.upper(), f"\ufeff{PHRASE}", PHRASE.encode() + b"\0"]:
        with pytest.raises(ServeError):
            tokens.owner(wrong, "me")
    assert Tokens.of(None, f"{PHRASE}\n").owner(PHRASE, "me") == owners[PHRASE]
    assert not Tokens.of(None, None) and not Tokens.of(None, "")
    for text, words in (
        (b"", "is empty"),
        (b"\xff\xfe1\0", "not UTF-8"),
        (b"short\n", "at least 8 characters"),
        (b"a token with a space \n", "begins or ends"),
        (b"tab\0zero and more", "control character"),
        ("晴天每天早上很".encode(), "at least 8 characters"),
    ):
        path.write_bytes(text)
        with pytest.raises(ValueError, match=words):
            Tokens.read(path)


def test_tokens_are_compared_as_digests_all_of_them(monkeypatch):
    """No comparison stops early, at a length or at a token."""
    from streamzoo.streaming.serve import access

    seen, compare = [], access.secrets.compare_digest
    monkeypatch.setattr(
        access.secrets, "compare_digest", lambda a, b: seen.append((a, b)) or compare(a, b)
    )
    tokens = Tokens([PHRASE, CHINESE, LATIN])
    for given in (PHRASE, "x", LATIN):
        seen.clear()
        with contextlib.suppress(ServeError):
            tokens.owner(given, "me")
        assert len(seen) == 6 and all(
            isinstance(a, bytes) and len(a) == len(b) == 32 for a, b in seen
        )
    assert bearer({"authorization": "bearer  à  "}) == b"\xe0"  # not the \xa0 of UTF-8 "\xc3\xa0"
    assert bearer({"authorization": "Bearer x\xc3\xa0"}) == b"x\xc3\xa0"


def test_phrases_open_every_door():
    async def main():
        guarded = Settings(port=0, grpc_port=0, tokens=Tokens([PHRASE, CHINESE]))
        async with engine() as e, Server(e, guarded) as server:
            for token, code in ((PHRASE, 200), (CHINESE, 200), ("sunshine", 401), (None, 401)):
                words = None if token is None else f"Bearer {token}".encode().decode("latin-1")
                assert (
                    await rest(
                        server, "/streams", headers={"Authorization": words} if words else {}
                    )
                )[0] == code
                async with line(server) as socket:
                    await say(socket, type="open", auth=token)
                    await hear(socket, "opened" if code == 200 else "error")
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc.port}") as link:
                for metadata, code in (
                    ({"authorization": f"Bearer {PHRASE}"}, None),
                    ({"authorization-bin": f"Bearer {CHINESE}".encode()}, None),
                    ({"authorization": "Bearer sunshine"}, grpc.StatusCode.UNAUTHENTICATED),
                    ({"authorization": f"Bearer {PHRASE}", "origin": "http://evil.example"},
                     grpc.StatusCode.PERMISSION_DENIED),
                ):  # fmt: skip
                    assert await grpc_opens(link, tuple(metadata.items())) is code

    run(main())
