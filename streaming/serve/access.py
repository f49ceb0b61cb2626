"""Who may talk to the server: tokens, and browsers only from its own pages."""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import secrets
from collections.abc import Iterable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .limits import ServeError

log = logging.getLogger("streamzoo.serve")


class Tokens:
    """The tokens that open the door; without any, everybody who reaches it may come in."""

    def __init__(self, tokens: Iterable[str] = ()):
        self._tokens = [t.encode() for t in tokens]
        if any(len(t) < 8 for t in self._tokens):
            raise ValueError("a token has at least 8 characters; `openssl rand -hex 16` makes one")

    def __bool__(self) -> bool:
        return bool(self._tokens)

    @classmethod
    def read(cls, path: str | Path) -> Tokens:
        """One token a line. Raises ValueError: no such file, or an empty one."""
        try:
            tokens = Path(path).read_text().split()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"token file {path}: {error}") from None
        if not tokens:
            raise ValueError(f"token file {path} is empty; write one token a line")
        return cls(tokens)

    def owner(self, given: Any, address: str) -> str:
        """A name for the client. Raises ServeError "unauthorised"."""
        if not self._tokens:
            return address
        given = given.encode() if isinstance(given, str) else b""
        # All are compared, so that the time tells nothing.
        if not any([secrets.compare_digest(given, token) for token in self._tokens]):
            log.warning("%s: refused, %s token", address, "wrong" if given else "no")
            raise ServeError("unauthorised", "a valid token is needed (Authorization: Bearer ...)")
        return hashlib.sha256(given).hexdigest()[:12]


def bearer(headers: Any) -> str | None:
    """The token of an Authorization header."""
    kind, _, token = (headers.get("authorization") or "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that is bound to ``host``."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class SameOrigin:
    """ASGI middleware: refuses what other sites' pages make a browser send, and large bodies."""

    def __init__(self, app: Any, body: int = 1 << 16):
        self.app, self.body = app, body

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            log.warning("refused: a page of %r asked for %s", origin, scope["path"])
            return await self._refuse(scope, receive, send, 403)
        length = headers.get("content-length", "0")
        chunked = "transfer-encoding" in headers
        if scope["type"] == "http" and (
            chunked or not length.isdecimal() or int(length) > self.body
        ):
            return await self._refuse(scope, receive, send, 413)
        await self.app(scope, receive, send)

    @staticmethod
    async def _refuse(scope: Any, receive: Any, send: Any, status: int) -> None:
        if scope["type"] == "websocket":
            await receive()  # the handshake; a close before its acceptance is a 403
            return await send({"type": "websocket.close", "code": 1008})
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})
