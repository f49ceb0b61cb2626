"""From where the server may be asked: which hosts' names, which sites' pages, and how much at once.

A page that somebody's browser has loaded from elsewhere can ask a server on this machine too. What
gives it away is the Origin that the browser adds, and the Host, which is the page's own name: also
where that name has meanwhile been made to lead to 127.0.0.1 (DNS rebinding).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from .access import is_loopback

log = logging.getLogger("streamzoo.serve")
PORTS = {"http": 80, "https": 443}
Headers = Iterable[tuple[bytes, bytes]]
HOST = (
    "Host names a machine that this server does not know as itself; --allow-host NAME, where it is "
    "started, lets the name in"
)
ORIGIN = (
    "a page of another site asked, and is not let in; --allow-origin https://HOST[:PORT], where "
    "the server is started, lets that site's pages in"
)


@dataclasses.dataclass(frozen=True)
class Door:
    """Who is let in by the headers of a request.

    Attributes:
      local: the server listens on loopback only: Host is this machine's, or one of ``hosts``.
      hosts: names in Host that are let in besides.
      origins: (scheme, host, port) of sites whose pages are; their hosts are let in too.
    """

    local: bool = False
    hosts: frozenset[str] = frozenset()
    origins: frozenset[tuple[str, str, int]] = frozenset()

    @classmethod
    def of(cls, host: str, hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> Door:
        """Of the address that is listened on, and the options' words. Raises ValueError."""
        sites = frozenset(read_origin(text) for text in origins)
        names = {read_host(text) for text in hosts} | {name for _, name, _ in sites}
        return cls(is_loopback(host), frozenset(names), sites)

    def refusal(self, headers: Headers) -> str | None:
        """Why these headers are not let in; None: they are."""
        hosts = [v.decode("latin-1") for k, v in headers if k.lower() == b"host"]
        # Without one it is HTTP/1.0, of a load balancer's check: browsers always send it.
        if self.local and not all(self._known(_authority(host)[0]) for host in hosts):
            return HOST
        for origin in (v.decode("latin-1") for k, v in headers if k.lower() == b"origin"):
            try:
                scheme, name, port = read_origin(origin)
            except ValueError:  # "null" too, of a page without a site
                return ORIGIN
            same = bool(hosts)
            for host in hosts:
                other, number = _authority(host)
                same &= (other, number or PORTS[scheme]) == (name, port)
            if not same and (scheme, name, port) not in self.origins:
                return ORIGIN
        return None

    def _known(self, host: str) -> bool:
        return is_loopback(host) or host.endswith(".localhost") or host in self.hosts


def _authority(text: str) -> tuple[str, int | None]:
    """(host in lower case, port) of a Host header; ("", None) for what is none."""
    try:
        url = urlsplit("//" + text.strip())
        if url.path or url.query or url.fragment or "@" in text:
            return "", None
        return (url.hostname or "").rstrip("."), url.port
    except ValueError:
        return "", None


def read_origin(text: str) -> tuple[str, str, int]:
    """(scheme, host, port) of `https://HOST[:PORT]`. Raises ValueError."""
    scheme, mark, rest = text.strip().removesuffix("/").partition("://")
    scheme = scheme.lower()
    host, port = _authority(rest)
    if not mark or scheme not in PORTS or not host or "*" in host:
        raise ValueError(
            "--allow-origin: write it as https://HOST[:PORT], what the browser shows for the page "
            "up to the path, one for each site"
        )
    return scheme, host, port or PORTS[scheme]


def read_host(text: str) -> str:
    """The name in `HOST[:PORT]`. Raises ValueError."""
    host, _ = _authority(text)
    if not host or "*" in host:
        raise ValueError("--allow-host: write it as HOST, a name or an address, one for each")
    return host


_process = [Door()]


def process_door() -> Door:
    """The door of this process, for an app that goes to its process as a copy, before its door is
    known. It stands here, as what Ray Serve copies has globals of its own."""
    return _process[-1]


def set_process_door(door: Door) -> None:
    """From now on :func:`process_door` gives this one."""
    _process.append(door)


class Guard:
    """ASGI middleware: what the door does not let in, and large bodies, go no further; a HEAD is
    a GET without the body; a client that leaves in the middle is no error."""

    def __init__(self, app: ASGIApp, door: Door | Callable[[], Door] = Door(), body: int = 1 << 16):
        """door: or what gives it, when the first request comes. body: most bytes of a body."""
        self.app, self._door, self._body = app, door, body

    @property
    def door(self) -> Door:
        return self._door if isinstance(self._door, Door) else self._door()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        with contextlib.suppress(ClientDisconnect, WebSocketDisconnect):
            if (why := self.door.refusal(scope["headers"])) is not None:
                log.warning("%s: refused: %s", (scope.get("client") or "?")[0], why)
                return await _refuse(scope, receive, send, 403, why)
            if scope["type"] == "http" and not self._fits(scope["headers"]):
                why = f"a body has a Content-Length of up to {self._body} bytes"
                return await _refuse(scope, receive, send, 413, why)
            if scope.get("method") == "HEAD":
                scope, send = {**scope, "method": "GET"}, _bodiless(send)
            await self.app(scope, receive, send)

    def _fits(self, headers: Headers) -> bool:
        lengths = [v for k, v in headers if k.lower() == b"content-length"]
        chunked = any(k.lower() == b"transfer-encoding" for k, _ in headers)
        small = lambda v: v.isdigit() and len(v) < 20 and int(v) <= self._body
        return not chunked and all(map(small, lengths))


def _bodiless(send: Send) -> Send:
    async def head(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return head


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, why: str) -> None:
    if scope["type"] == "websocket":
        await receive()  # the handshake; a close before its acceptance is a 403
        return await send({"type": "websocket.close", "code": 1008})
    code = "forbidden" if status == 403 else "too_large"
    body = json.dumps({"error": {"code": code, "message": why}}).encode()
    if scope["method"] == "HEAD":
        send = _bodiless(send)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
