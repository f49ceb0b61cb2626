"""The server's face on the web: the WebSocket, REST, health and metrics, as a FastAPI app."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable
from importlib import resources

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse, Response
from starlette.websockets import WebSocketState

from ...layers.streaming import Json
from .access import Tokens, bearer
from .conversation import NO_LANGUAGE, Closing, Message
from .dashboard import Dashboard
from .dashboard_peer import add_peer
from .dashboard_watch import Watching
from .door import Door, Guard
from .generating import Generating
from .inputs import add_source, check_address
from .limits import ServeError
from .metrics import Metrics
from .sessions import Sessions
from .sound_conversation import Talk, conversation
from .sounds import Sounds
from .spec import Spec
from .studio import Studio
from .talks import Talks
from .wire import count, parse, seconds, unpack

SCRIPTS = ("link", "tiles", "talk", "charts", "table", "publish")
PAGE = ("html", "css", "js", *(f"{name}.js" for name in SCRIPTS))
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
POLICY = (  # the page needs nothing from elsewhere, and nothing inline
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
log = logging.getLogger("streamzoo.serve")
STATUS = {
    "unauthorised": 401, "unknown_stream": 404, "unknown_token": 404, "no_language": 404,
    "taken": 409, "closed": 409, "too_many": 429, "language": 500,
    "refused": 503, "draining": 503, "busy": 503,
}  # fmt: skip


def make_app(
    sessions: Sessions,
    tokens: Tokens | None = None,
    door: Door = Door(),
    sounds: Sounds | None = None,
    studio: Studio | None = None,
    talks: Talks | None = None,
) -> FastAPI:
    """The app of a running engine's sessions, and of streams of sound, of video that is made and
    of conversations where there are any. It has no life of its own: see :mod:`.server`."""
    tokens = tokens or Tokens()
    app = FastAPI(title="streamzoo", openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, door=door)
    app.state.sessions, app.state.metrics = sessions, Metrics(sessions)
    app.state.dashboard = Dashboard(sessions, sounds, talks)

    def check(request: Request) -> str:
        host = request.client.host if request.client else "?"
        return tokens.owner(bearer(request.headers), host)

    @app.exception_handler(ServeError)
    async def _(request: Request, error: ServeError) -> JSONResponse:
        del request
        body = {"error": {"code": error.code, "message": str(error)}}
        return JSONResponse(body, STATUS.get(error.code, 400))

    for part in PAGE:  # public: without a token it shows nothing
        path = "/" if part == "html" else f"/page.{part}"
        app.add_api_route(path, _page(part), methods=["GET"])

    @app.get("/healthz")
    async def health() -> JSONResponse:
        state = "ok"
        if sessions.engine.failure is not None:
            state = "failed"
        elif sessions.draining:
            state = "draining"
        return JSONResponse({"status": state}, 200 if state == "ok" else 503)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        check(request)
        text = app.state.metrics.text()
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/streams")
    async def streams(request: Request) -> Json:
        check(request)
        report = sessions.engine.report()
        rows = [s.report() for s in sessions.by_name.values()]
        heard = {} if sounds is None else {"sounds": sounds.report()}
        return {k: report[k] for k in ("slots", "load", "total")} | {"streams": rows} | heard

    @app.post("/streams", status_code=201)
    async def add(request: Request) -> Json:
        check(request)
        body = await read_body(request)
        address = check_address(body.get("url"))
        spec = _spec(body) if "fps" in body else None
        session = await add_source(sessions, address, spec, name=body.get("name"))
        return session.report()

    @app.post("/offer", status_code=201)
    async def offer(request: Request) -> Json:
        """A WebRTC peer's video as a stream: {"sdp", "fps", "name"} -> {"sdp", "session"}."""
        owner, body = check(request), await read_body(request)
        answer, session = await add_peer(
            sessions, body.get("sdp"), _spec(body), owner=owner, name=body.get("name")
        )
        return {"sdp": answer, "session": session.name}

    @app.get("/streams/{name}")
    async def show(name: str, request: Request) -> Json:
        check(request)
        return sessions.get(name).report()

    @app.get("/streams/{name}/results")
    async def results(name: str, request: Request) -> Json:
        """The recent results after number ``?after=``; reading them takes nothing away. With
        ``?time=T`` the one result of the latest capture up to T (Unix seconds), none that is older
        than ``&shown=S``: to draw on a picture that is shown late."""
        check(request)
        if "time" in request.query_params:
            at = seconds(request.query_params["time"], "time")
            shown = seconds(request.query_params.get("shown", "0"), "shown")
            found = sessions.get(name).recent.at(at, shown)
            return {"missed": 0, "results": [] if found is None else [found]}
        after = request.query_params.get("after", "0")
        number = int(after) if after.isdecimal() and len(after) < 18 else None
        start = count({"type": "results", "after": number}, "after")
        missed, records = sessions.get(name).recent.after(start)
        return {"missed": missed, "results": records}

    @app.post("/streams/{name}/ask")
    async def ask(name: str, request: Request) -> Json:
        """{"text": "Who is there?"} -> the whole answer; it leaves no trace."""
        check(request)
        session, body = sessions.get(name), await read_body(request)
        if talks is None:
            raise ServeError("no_language", NO_LANGUAGE)
        return await talks.answer(session, body.get("text", ""))

    @app.delete("/streams/{name}")
    async def remove(name: str, request: Request) -> Json:
        check(request)
        session = sessions.get(name)
        sessions.remove(session)
        return session.report()

    @app.post("/streams/{name}/pause")
    async def pause(name: str, request: Request) -> Json:
        check(request)
        sessions.get(name).pause()
        return sessions.get(name).report()

    @app.post("/streams/{name}/resume")
    async def resume(name: str, request: Request) -> Json:
        check(request)
        sessions.get(name).resume()
        return sessions.get(name).report()

    async def converse(
        socket: WebSocket, talk: Callable[[str, Json], Talk | Watching | Generating]
    ) -> None:
        await socket.accept()
        handshake = sessions.limits.handshake
        await Line(socket, handshake, tokens, talk, app.state.metrics).serve()

    @app.websocket("/ws")
    async def ws(socket: WebSocket) -> None:
        observe = app.state.metrics.observe

        talk = lambda owner, first: conversation(first, owner, sessions, sounds, observe, talks)
        await converse(socket, talk)

    @app.websocket("/watch")
    async def watch(socket: WebSocket) -> None:
        await converse(socket, lambda _owner, _first: Watching(app.state.dashboard))

    @app.websocket("/generate")
    async def generate(socket: WebSocket) -> None:
        await converse(socket, lambda _owner, _first: Generating(studio))

    return app


def _page(part: str) -> Callable[[], Response]:
    kind = TYPES[part.rpartition(".")[2]] + "; charset=utf-8"

    def send() -> Response:
        text = resources.files(__package__ or "").joinpath(f"page.{part}").read_bytes()
        return Response(text, media_type=kind, headers=HEADERS)

    return send


def _spec(body: Json) -> Spec:
    budget = body.get("budget_ms", 120)
    if not isinstance(budget, (int, float)):
        raise ServeError("bad_request", f"budget_ms={budget!r}: give a number above 0")
    policy, worth = body.get("policy", "latest"), body.get("worth", 1.0)
    return Spec(body.get("fps", 15), budget / 1e3, policy, worth=worth)


async def read_body(request: Request) -> Json:
    """The JSON object of a request. Raises ServeError "bad_request"."""
    if "application/json" not in request.headers.get("content-type", ""):
        raise ServeError("bad_request", "the body is JSON (Content-Type: application/json)")
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise ServeError("bad_request", f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise ServeError("bad_request", 'the body is a JSON object: {"url": "rtsp://..."}')
    return body


class Line:
    """One WebSocket, until either side hangs up."""

    def __init__(
        self,
        socket: WebSocket,
        handshake: float,
        tokens: Tokens,
        talk: Callable[[str, Json], Talk | Watching | Generating],
        metrics: Metrics,
    ):
        """talk: makes, for the client's name and its first message, what takes its messages and
        has messages for it."""
        self._socket, self._tokens, self._metrics = socket, tokens, metrics
        self._handshake, self._talker = handshake, talk
        self._host = socket.client.host if socket.client else "?"
        self._lock = asyncio.Lock()  # replies and results share the socket

    async def serve(self) -> None:
        talk = None
        try:
            talk = await self._begin()
            if talk is not None:
                await self._talk(talk)
        except WebSocketDisconnect:
            pass
        except RuntimeError:  # Starlette's, for a socket that was gone before a send
            if WebSocketState.DISCONNECTED not in (
                self._socket.client_state,
                self._socket.application_state,
            ):
                raise
        except Closing as error:
            await self._hang_up(1008, str(error))
        finally:
            if talk is not None:
                talk.end()

    async def _begin(self) -> Talk | Watching | Generating | None:
        try:
            async with asyncio.timeout(self._handshake):
                first = parse(self._text(await self._receive()))
            owner = self._tokens.owner(
                bearer(self._socket.headers) or first.get("auth"), self._host
            )
            talk = self._talker(owner, first)
            await self._send(await talk.begin(first))
            return talk
        except TimeoutError:
            log.warning("%s: no first message in time", self._host)
            await self._hang_up(1008, "no first message in time")
        except ServeError as error:
            await self._send({"type": "error", "code": error.code, "message": str(error)})
            await self._hang_up(1008, error.code)
        return None

    async def _talk(self, talk: Talk | Watching | Generating) -> None:
        tasks = [asyncio.create_task(self._listen(talk)), asyncio.create_task(self._tell(talk))]
        listening, telling = tasks
        try:
            done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            # The last words of the other side. Who cannot be told any more may still have said
            # that it closes, behind frames that are not read yet.
            if rest and (telling in done or not listening.exception()):
                await asyncio.wait(rest, timeout=1)
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end
        await self._hang_up(1000, "")

    async def _listen(self, talk: Talk | Watching | Generating) -> None:
        while True:
            data = await self._receive()
            try:
                if isinstance(data, str):
                    message = parse(data)
                    reply = talk.control(message)
                    if message["type"] == "close":
                        return
                else:
                    reply = await talk.frame(unpack(data))
            except ServeError as error:
                reply = talk.error(error)
            if reply is not None:
                await self._send(reply)

    async def _tell(self, talk: Talk | Watching | Generating) -> None:
        async for message in talk.outgoing():
            start = time.perf_counter()
            await self._send(message)
            if isinstance(message, dict) and message["type"] == "result":
                self._metrics.observe("send", time.perf_counter() - start)

    async def _receive(self) -> str | bytes:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1006))
        text = message.get("text")
        return message["bytes"] if text is None else text

    @staticmethod
    def _text(data: str | bytes) -> str:
        if isinstance(data, bytes):
            raise ServeError("bad_request", 'the first message is text: "open" or "resume"')
        return data

    async def _send(self, message: Message | bytes) -> None:
        async with self._lock:
            if isinstance(message, bytes):
                await self._socket.send_bytes(message)
            else:
                await self._socket.send_text(json.dumps(message, allow_nan=False))

    async def _hang_up(self, code: int, reason: str) -> None:
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await self._socket.close(code, reason)
