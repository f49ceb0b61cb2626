"""What a session has, be it of frames or of sound: a name, a token, and one client at a time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Container
from typing import Any

from .limits import Limits, ServeError
from .spec import token_key

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Held:
    """A session that outlives its connections; a subclass says what is sent to it."""

    name: str
    token: str
    attached: Any  # its client's hold, with ``replaced`` and the event ``news``
    timer: asyncio.TimerHandle | None  # until it is removed for want of a client
    _task: asyncio.Task[None]  # what reads its answers

    @property
    def key(self) -> str:
        """Names the session on disk: the token, which is a secret, stays off it."""
        return token_key(self.token)

    def end(self, why: str) -> None:
        """Nothing more will come; the first reason stays."""
        raise NotImplementedError

    def close(self) -> None:
        """Lets go of everything; again without harm."""
        self.end("removed")
        self._task.cancel()
        if self.timer is not None:
            self.timer.cancel()

    def _wake(self) -> None:
        if self.attached is not None:
            self.attached.news.set()

    def _free(self) -> None:
        """Nobody holds it, and it need not wait: a client is about to."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.attached is not None:
            self.attached.replaced = True
            self._wake()


def named(name: str | None, taken: Container[str], prefix: str, first: int = 0) -> str:
    """The name of a new session; for None the first that is free of ``prefix`` and a number from
    ``first`` on.

    Raises:
      ServeError: "bad_request": it is none; "taken".
    """
    if name is None:
        while (name := f"{prefix}{first}") in taken:
            first += 1
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ServeError(
            "bad_request", f"name {name!r}: up to 64 letters, digits, '_', '-' and '.'"
        )
    if name in taken:
        raise ServeError("taken", f"there is a session {name!r}; take another name")
    return name


def check_share(held: int, limits: Limits) -> None:
    """Raises ServeError "too_many": a client holds as many sessions as one may."""
    if held >= limits.streams_per_client:
        raise ServeError(
            "too_many", f"{held} streams are yours and that is the limit; close one of them"
        )
