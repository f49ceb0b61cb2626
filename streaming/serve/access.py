"""Who may talk to the server: the tokens that let clients in."""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .limits import ServeError

log = logging.getLogger("streamzoo.serve")


class Tokens:
    """The tokens that open the door; without any, everybody who reaches it may come in.

    A token is a text of 8 characters or more in any script, spaces inside it included; it begins
    and ends with none, as HTTP drops those.
    """

    def __init__(self, tokens: Iterable[str] = ()):
        """Raises ValueError: one is too short, or could never arrive as it is."""
        self._tokens: list[bytes] = []
        for number, token in enumerate(tokens, 1):
            if len(token) < 8:
                raise ValueError(
                    f"token {number} has {len(token)} characters and needs at least 8 characters; "
                    "`openssl rand -hex 16` makes one"
                )
            if token != token.strip() or any(ord(c) < 32 or ord(c) == 127 for c in token):
                raise ValueError(
                    f"token {number} begins or ends with a space, or has a control character in "
                    "it: it would not arrive like that; take it out"
                )
            self._tokens.append(token.encode())
        self._digests = [hashlib.sha256(t).digest() for t in self._tokens]
        self._owners: dict[bytes, str] = {}

    def __bool__(self) -> bool:
        return bool(self._tokens)

    @classmethod
    def read(cls, path: str | Path) -> Tokens:
        """Every line of a UTF-8 file is a token, as it stands; ends of lines (LF or CRLF), a byte
        order mark and empty lines are none. Raises ValueError: no such file, or no such token."""
        try:
            tokens = lines(Path(path).read_bytes().decode())
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ValueError(f"token file {path}: {why}") from None
        if not tokens:
            raise ValueError(f"token file {path} is empty; write one token a line")
        try:
            return cls(tokens)
        except ValueError as error:
            raise ValueError(f"token file {path}: {error}") from None

    @classmethod
    def of(cls, path: str | Path | None, variable: str | None) -> Tokens:
        """Of a file, else of an environment variable's value, which is one token."""
        return cls.read(path) if path is not None else cls(lines(variable or ""))

    def owner(self, given: Any, address: str) -> str:
        """A name for the client, from which its token cannot be found.

        Args:
          given: the token, text or the bytes of a header; else None.
          address: the client's, its name where there are no tokens.

        Raises:
          ServeError: "unauthorised".
        """
        if not self._tokens:
            return address
        given = given.encode("utf-8", "surrogatepass") if isinstance(given, str) else given or b""
        given = given if isinstance(given, bytes) else b""
        # Digests of one length, and all of them: the time tells nothing. A header may bring what
        # is beyond ASCII as UTF-8 or, as browsers and urllib write it, in Latin-1.
        other = given.decode("latin-1").encode()
        matches = [
            token
            for form in (given, other)
            for token, digest in zip(self._tokens, self._digests, strict=True)
            if secrets.compare_digest(hashlib.sha256(form).digest(), digest)
        ]
        if not matches:
            log.warning("%s: refused, %s token", address, "wrong" if given else "no")
            raise ServeError("unauthorised", "a valid token is needed (Authorization: Bearer ...)")
        token = matches[0]
        if token not in self._owners:  # slow by design: it is in logs and snapshots
            name = hashlib.pbkdf2_hmac("sha256", token, b"streamzoo owner", 100_000, dklen=6)
            self._owners[token] = name.hex()
        return self._owners[token]


def lines(text: str) -> list[str]:
    """The lines of a text, without their ends, a byte order mark and empty ones."""
    found = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    return [line for line in found if line]


def bearer(headers: Any) -> bytes | None:
    """The token of an Authorization header, as it came."""
    kind, _, token = (headers.get("authorization") or "").partition(" ")
    return token.strip(" \t").encode("latin-1") if kind.lower() == "bearer" else None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that is bound to ``host``."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
