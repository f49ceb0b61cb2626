"""What a client asks of a cluster, and what it is told; no network and no Ray here."""

from __future__ import annotations

import asyncio
import secrets
from urllib.parse import urlsplit

from ...layers.streaming import Json
from ..serve.limits import ServeError
from ..serve.spec import token_key
from .directory import Directory
from .messages import Full, Settling

PROBE = 1.0  # seconds


async def answers(endpoint: str) -> bool:
    """Whether somebody listens there."""
    url = urlsplit(endpoint)
    try:
        async with asyncio.timeout(PROBE):
            _, writer = await asyncio.open_connection(url.hostname, url.port)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True


def text(body: Json, key: str) -> str | None:
    """A short string of a request. Raises ServeError "bad_request"."""
    value = body.get(key)
    if value is not None and (not isinstance(value, str) or not 0 < len(value) <= 200):
        raise ServeError("bad_request", f"{key}: give a text of 1 to 200 letters")
    return value


async def direct(
    directory: Directory, body: Json, owner: str = "", share: int | None = None
) -> Json:
    """Sends a client to a replica; see :mod:`.ingress` for the fields.

    Args:
      owner: the client; share: slots that may be kept for it until it comes, None: any number.

    Raises:
      ServeError: "refused": nothing is free, it is not known yet, or the client has its share;
        "bad_request".
    """
    token, group, failed = text(body, "token"), text(body, "group"), text(body, "failed")
    if token is not None and len(token) < 24:
        raise ServeError("bad_request", "token: the one that you were given here")
    avoid = set()
    if failed is not None and (name := directory.at(failed)) is not None:
        avoid.add(name)
        if not await answers(failed):  # a client's word alone would let it take a replica away
            directory.leave(name)
    known = body.get("resume", token is not None) is True
    token = token or secrets.token_urlsafe(24)
    try:
        place = directory.place(
            token_key(token), group, known=known, avoid=avoid, client=owner, share=share
        )
    except (Full, Settling) as error:
        raise ServeError("refused", str(error)) from None
    return {
        "token": token, "endpoint": place.endpoint, "epoch": place.epoch, "moved": place.moved,
    }  # fmt: skip
