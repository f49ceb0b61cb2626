"""The cluster's door, behind Ray Serve's proxy: it holds the directory and says where to go.

    POST /v1/sessions {"token": null, "group": null, "failed": null}
      -> 201 {"token", "endpoint", "epoch", "moved"}
    GET /v1/cluster
    GET /healthz

The client opens a WebSocket at ``endpoint``/ws with that token; after a disconnect it asks again
with the token, and is sent to whoever has the session, or to another replica that goes on from
the store. ``failed``: an endpoint that did not answer; it is tried from here before it counts as
dead.
"""

import asyncio
import secrets
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from ray import serve

from ..serve.access import Tokens, bearer
from ..serve.app import STATUS, read_body
from ..serve.limits import ServeError
from ..serve.spec import token_key
from ..serve.store import Store
from .directory import Beat, Directory, Full, Held, Load, Settling

app = FastAPI(title="streamzoo cluster", openapi_url=None, docs_url=None, redoc_url=None)
PROBE = 1.0  # seconds


@app.exception_handler(ServeError)
async def _(request: Request, error: ServeError) -> JSONResponse:
    del request
    body = {"error": {"code": error.code, "message": str(error)}}
    return JSONResponse(body, STATUS.get(error.code, 400))


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


def text(body: dict[str, Any], key: str) -> str | None:
    """A short string of a request. Raises ServeError "bad_request"."""
    value = body.get(key)
    if value is not None and (not isinstance(value, str) or not 0 < len(value) <= 200):
        raise ServeError("bad_request", f"{key}={value!r}: a text of up to 200 letters")
    return value


@serve.ingress(app)  # copies what is above as it is now: nothing that it uses may come later
class Ingress:
    """One process: placing a session takes microseconds, and no frame comes through here."""

    def __init__(self, store: str, tokens: Tokens, lease: float, engines: Any):
        del engines  # they call us; that they are an argument makes Serve run them
        # The store's epochs outlive every process; here they number the directories.
        generation = Store(store).claim("generation").epoch
        self._directory = Directory(generation, lease=lease)
        self._tokens = tokens
        self._pids: dict[str, int] = {}

    # For replicas, through Serve.

    async def beat(
        self, name: str, endpoint: str, load: Load, held: dict[str, Held], pid: int
    ) -> Beat:
        self._pids[name] = pid
        return self._directory.heartbeat(name, endpoint, load, held)

    async def drain(self, name: str) -> None:
        self._directory.drain(name)

    async def leave(self, name: str) -> None:
        self._directory.leave(name)

    # For clients, over HTTP.

    def _check(self, request: Request) -> None:
        host = request.client.host if request.client else "?"
        self._tokens.owner(bearer(request.headers), host)

    @app.get("/healthz")
    async def health(self) -> JSONResponse:
        up = len(self._directory.report()["replicas"])
        return JSONResponse({"status": "ok" if up else "empty"}, 200 if up else 503)

    @app.get("/v1/cluster")
    async def state(self, request: Request) -> dict[str, Any]:
        self._check(request)
        report = self._directory.report()
        self._pids = {n: p for n, p in self._pids.items() if n in report["replicas"]}
        for name, replica in report["replicas"].items():
            replica["pid"] = self._pids.get(name)
        return report

    @app.post("/v1/sessions", status_code=201)
    async def place(self, request: Request) -> dict[str, Any]:
        self._check(request)
        body = await read_body(request)
        token, group = text(body, "token"), text(body, "group")
        failed, avoid = text(body, "failed"), set()
        if token is not None and len(token) < 24:
            raise ServeError("bad_request", "token: the one that this gave you")
        if failed is not None and (name := self._directory.at(failed)) is not None:
            avoid.add(name)
            if not await answers(failed):
                self._directory.leave(name)
        known, token = token is not None, token or secrets.token_urlsafe(24)
        try:
            place = self._directory.place(token_key(token), group, known=known, avoid=avoid)
        except (Full, Settling) as error:
            raise ServeError("refused", str(error)) from None
        return {
            "token": token, "endpoint": place.endpoint, "epoch": place.epoch, "moved": place.moved,
        }  # fmt: skip
