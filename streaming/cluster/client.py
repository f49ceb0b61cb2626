"""The typed client for a cluster: it asks the ingress where to go, at every connection.

async with ClusterClient("http://ingress:8000", fps=15, policy="lossless") as client: ...

The rest is :class:`..serve.client.Client`: frames that no replica has saved yet are sent again,
wherever the session goes on.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
import urllib.error
import urllib.request
from typing import Any

from websockets.asyncio.client import ClientConnection

from ...layers.streaming import Json
from ..serve.client import Client, ClientError


class ClusterClient(Client):
    """See the module.

    Args:
      url: of the ingress.
      group: streams with one name here go to the same replica, as a model needs that looks
        across them.
      options: as of :class:`Client`.

    Attributes:
      places: the ingress's answers, oldest first.
      restarts: reconnections that found no saved state; frames that were not kept here any more
        count in ``lost``.
    """

    def __init__(self, url: str, *, group: str | None = None, **options: Any):
        super().__init__(url, **options)
        self._door, self._group = self._url.replace("ws", "http", 1).removesuffix("/ws"), group
        self._failed: str | None = None
        self._token = secrets.token_urlsafe(24)  # ours from the start: one client, one session
        self.places: list[Json] = []
        self.restarts = 0

    async def _address(self) -> str:
        failed, self._failed = self._failed, None  # said once: it may have been for a moment
        body = {
            "token": self._token, "resume": bool(self.opened), "group": self._group,
            "failed": failed,
        }  # fmt: skip
        place = await asyncio.to_thread(self._ask, body)
        self._failed = place["endpoint"]  # until it has answered
        self.places.append(place)
        return place["endpoint"].replace("http", "ws", 1) + "/ws"

    def _ask(self, body: Json) -> Json:
        headers = {"Content-Type": "application/json"}
        if self._auth is not None:
            # as UTF-8; urllib would refuse what is beyond Latin-1
            headers["Authorization"] = f"Bearer {self._auth}".encode().decode("latin-1")
        request = urllib.request.Request(
            f"{self._door}/v1/sessions", json.dumps(body).encode(), headers
        )
        tls = self._tls if isinstance(self._tls, ssl.SSLContext) else None
        try:
            with urllib.request.urlopen(request, timeout=5, context=tls) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            try:
                said = json.load(error)["error"]
            except (ValueError, KeyError, TypeError):
                raise OSError(f"the ingress answered {error.code}") from None
            if said["code"] == "refused":  # there may be room soon
                raise OSError(said["message"]) from None
            raise ClientError(said["code"], said["message"]) from None

    def _first(self) -> Json:
        return {**self._open, "token": self._token, "after": self._seq}

    async def _greet(self, line: ClientConnection) -> None:
        again = bool(self.opened)
        try:
            await super()._greet(line)
        except ClientError as error:
            if error.code in ("refused", "draining"):  # another replica may take it
                raise OSError(str(error)) from None
            raise
        self._failed = None
        self.restarts += again and not self.opened["resumed"]
