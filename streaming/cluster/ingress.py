"""The cluster's door, behind Ray Serve's proxy: it holds the directory and says where to go.

    POST /v1/sessions {"token", "resume", "group", "failed"}, each of them optional
      -> 201 {"token", "endpoint", "epoch", "moved"}
    GET /v1/cluster
    GET /healthz

The client opens a WebSocket at ``endpoint``/ws with that token, in an "open" message; after a
disconnect it asks again with the token, and is sent to whoever has the session, or to another
replica that goes on from the store. ``resume``: false for a token that the client has made itself,
a secret of 24 letters or more. ``failed``: an endpoint that did not answer; it is tried from here
before it counts as dead.
"""

import os
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from ray import serve

from ...layers.streaming import Json
from ..serve.access import Tokens, bearer
from ..serve.app import STATUS, read_body
from ..serve.door import Door, Guard, process_door, set_process_door
from ..serve.limits import ServeError
from ..serve.store import Store
from .directory import Directory
from .messages import Beat, Held, Load
from .placing import direct

app = FastAPI(title="streamzoo cluster", openapi_url=None, docs_url=None, redoc_url=None)
app.add_middleware(Guard, door=process_door)


@app.exception_handler(ServeError)
async def _(request: Request, error: ServeError) -> JSONResponse:
    del request
    body = {"error": {"code": error.code, "message": str(error)}}
    return JSONResponse(body, STATUS.get(error.code, 400))


@serve.ingress(app)  # copies what is above as it is now: nothing that it uses may come later
class Ingress:
    """One process: placing a session takes microseconds, and no frame comes through here."""

    def __init__(
        self, store: str, tokens: Tokens, lease: float, engines: Any, door: Door, share: int
    ):
        """share: slots that are kept at once for one client, by its token or address."""
        del engines  # they call us; that they are an argument makes Serve run them
        set_process_door(door)
        self._share = share
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

    def _check(self, request: Request) -> str:
        host = request.client.host if request.client else "?"
        return self._tokens.owner(bearer(request.headers), host)

    @app.get("/healthz")
    async def health(self) -> JSONResponse:
        up = len(self._directory.report()["replicas"])
        return JSONResponse({"status": "ok" if up else "empty"}, 200 if up else 503)

    @app.get("/v1/cluster")
    async def state(self, request: Request) -> Json:
        self._check(request)
        report = self._directory.report()
        self._pids = {n: p for n, p in self._pids.items() if n in report["replicas"]}
        for name, replica in report["replicas"].items():
            replica["pid"] = self._pids.get(name)
        return {"pid": os.getpid(), **report}

    @app.post("/v1/sessions", status_code=201)
    async def place(self, request: Request) -> Json:
        owner, body = self._check(request), await read_body(request)
        return await direct(self._directory, body, owner, self._share)
