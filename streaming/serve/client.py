"""A typed client: frames in, results out, over every disconnect.

async with Client("http://127.0.0.1:8765", fps=15, policy="lossless") as client:
    async def send():
        for picture in video:                    # JPEG bytes, or uint8 RGB [h, w, 3]
            await client.send(picture)
        await client.finish()
    sending = asyncio.create_task(send())
    async for result in client:
        print(result.index, result.classes)
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from ...layers.streaming import Json
from ..views import view_class
from .wire import JPEG, RAW, FrameMessage, pack

FATAL = {"unauthorised", "unknown_token", "taken", "too_many", "bad_request"}


class ClientError(RuntimeError):
    """The server said no, or was not found in time; ``code`` as in the protocol."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


@dataclasses.dataclass(frozen=True)
class Result:
    """The server's answer for one frame.

    Attributes:
      seq: number of the result, without gaps; index: of the frame, as it was sent.
      time: seconds, as sent, or the server's clock.
      latency_ms: arrival at the server to answer; model_ms: of the step.
      classes: best names and probabilities of the frame.
      persons: each with box (x1, y1, x2, y2 in [0, 1]), score, and classes where there are any.
      output: whatever else the model answers.
      error: why there is no answer; reset: the stream began anew with this frame.
      task: of the server's model: whose view makes rows of it and draws it.
    """

    seq: int
    index: int
    time: float
    latency_ms: float
    model_ms: float = 0.0
    classes: Mapping[str, float] = dataclasses.field(default_factory=dict)
    persons: list[Json] = dataclasses.field(default_factory=list)
    output: Json = dataclasses.field(default_factory=dict)
    event: bool = False
    reset: bool = False
    error: str | None = None
    task: str = ""

    def rows(self) -> list[Json]:
        """A table of what was found, as of :meth:`streamzoo.streaming.Result.rows`."""
        view, record = view_class(self.task)(), dataclasses.asdict(self)
        return list(view.rows_of(self.index, self.time, view.told(record)))

    def draw(self, picture: Any) -> np.ndarray:
        """The picture that was sent, uint8 [h, w, 3], with what the server found in it: boxes and
        labels. Maps and masks are not sent, so they are not drawn.

        Raises ImportError, with the remedy, without Pillow.
        """
        view, record = view_class(self.task)(), dataclasses.asdict(self)
        return view.draw(np.asarray(picture), None, view.told(record))


FIELDS = {field.name for field in dataclasses.fields(Result)}


class Client:
    """One stream of a server. It reconnects by itself, resumes, and sends again what was lost.

    Args:
      url: of the server, http(s):// or ws(s)://.
      auth: its token.
      patience: seconds without a connection after which it gives up.
      window: sent frames that are kept to be sent again; without the policy "latest" a server
        that saves too rarely makes :meth:`send` wait.
      tls: for https with a certificate of one's own.
      name, fps, policy, budget_ms, capacity, worth: of the stream, see :meth:`Engine.add`.

    Attributes:
      opened: the server's answer: ``size``, ``classes``, ``model``, ``token``, ...
      reconnects: connections after the first.
      missed: results that the server did not keep for us; lost: frames that were not kept here.
      errors: what the server said about single frames, the newest 100.
      end: the server's last word, with the books.
    """

    def __init__(
        self,
        url: str,
        *,
        auth: str | None = None,
        name: str | None = None,
        fps: float = 15.0,
        policy: str = "latest",
        budget_ms: float = 120.0,
        capacity: int | None = None,
        worth: float = 1.0,
        patience: float = 30.0,
        window: int = 512,
        tls: ssl.SSLContext | None = None,
    ):
        scheme, _, rest = url.rstrip("/").partition("://")
        scheme = {"http": "ws", "https": "wss"}.get(scheme, scheme)
        if scheme not in ("ws", "wss") or not rest:
            raise ValueError(f"url {url!r}: give http://HOST:PORT or https://HOST:PORT")
        self._url, self._auth = f"{scheme}://{rest}/ws", auth
        self._tls = (tls or True) if scheme == "wss" else None
        self._open = {
            "type": "open", "name": name, "fps": fps, "policy": policy, "budget_ms": budget_ms,
            "capacity": capacity, "worth": worth,
        }  # fmt: skip
        self._patience, self._window, self._latest = patience, window, policy == "latest"
        self._frames: deque[FrameMessage] = deque()  # sent, or to be sent, oldest first
        self._count = 0  # frames taken from our caller
        self._next = 0  # number that goes to the server next
        self._limit = self._durable = 0
        self._seq, self._index, self._acked = 0, -1, 0
        self._finished = False
        self._changed, self._work = asyncio.Event(), asyncio.Event()  # the second: for the pump
        self._results: asyncio.Queue[Result | None] = asyncio.Queue()
        self._line: ClientConnection | None = None
        self._failure: ClientError | None = None
        self.opened: Json = {}
        self.end: Json | None = None
        self.reconnects = -1
        self.missed = self.lost = 0
        self.errors: deque[Json] = deque(maxlen=100)

    # What a caller does.

    async def __aenter__(self) -> Client:
        self._task = asyncio.create_task(self._run(), name="streamzoo client")
        try:
            await self._until(lambda: bool(self.opened))
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def token(self) -> str:
        """What the session is known by: a `resume` message with it goes on, after a restart too."""
        return self.opened["token"]

    @property
    def ready(self) -> bool:
        """Whether :meth:`send` would not wait: a camera skips a frame otherwise."""
        kept = self._latest or len(self._frames) < self._window
        return self._line is not None and self._count < self._limit and kept

    async def send(
        self, picture: bytes | np.ndarray, time: float | None = None, *, event: bool = False
    ) -> int:
        """Sends JPEG bytes or uint8 RGB [h, w, 3] as soon as there is a credit; its index.

        Raises:
          ClientError: the stream has ended, or the server is gone for good.
        """
        if isinstance(picture, np.ndarray):
            if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
                raise ValueError(f"frame {picture.dtype} {picture.shape}: uint8 [h, w, 3] is sent")
            kind, (height, width), data = RAW, picture.shape[:2], picture.tobytes()
        else:
            kind, height, width, data = JPEG, 0, 0, bytes(picture)
        await self._until(lambda: self.ready)
        index, self._count = self._count, self._count + 1
        self._frames.append(FrameMessage(kind, index, data, time, event, height, width))
        if self._latest and len(self._frames) > self._window:
            self._frames.popleft()
        self._change()
        return index

    async def finish(self) -> None:
        """No more frames: the iteration ends after the last result."""
        self._finished = True
        self._change()

    async def pause(self) -> None:
        await self._say({"type": "pause"})

    async def go(self) -> None:
        await self._say({"type": "go"})

    def __aiter__(self) -> Client:
        return self

    async def __anext__(self) -> Result:
        result = await self._results.get()
        if result is None:
            self._results.put_nowait(None)
            if self._failure is not None:
                raise self._failure
            raise StopAsyncIteration
        if result.seq - self._acked >= 8 or self._results.empty():
            self._acked = result.seq
            with contextlib.suppress(ConnectionClosed):
                await self._say({"type": "ack", "seq": result.seq})
        return result

    async def close(self) -> None:
        """Ends the session on the server too."""
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(1):
                await self._say({"type": "close"})
        await self._stop()

    async def vanish(self) -> None:
        """Drops the connection and nothing else: the session waits on the server."""
        await self._stop()

    async def _stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    # The connection.

    def _change(self) -> None:
        self._changed.set()
        self._work.set()

    async def _until(self, true: Callable[[], bool]) -> None:
        while not true():
            if self._failure is not None:
                raise self._failure
            if self.end is not None:
                raise ClientError("ended", f"the stream has ended: {self.end['reason']}")
            self._changed.clear()
            await self._changed.wait()

    async def _say(self, message: Json) -> None:
        if self._line is not None:
            await self._line.send(json.dumps(message))

    async def _run(self) -> None:
        try:
            while self.end is None:
                await self._connected(await self._connect())
        except ClientError as error:
            self._failure = error
        except Exception as error:
            self._failure = ClientError("client", repr(error))
        finally:
            self._results.put_nowait(None)
            self._change()

    async def _connect(self) -> ClientConnection:
        loop, pause = asyncio.get_running_loop(), 0.05
        end, why = loop.time() + self._patience, ""
        while loop.time() < end:
            try:
                line = await connect(
                    await self._address(), max_size=None, open_timeout=5, ssl=self._tls, proxy=None,
                    compression=None,
                )  # fmt: skip
                try:
                    await self._greet(line)
                    return line
                except BaseException:
                    await line.close()
                    raise
            except ssl.SSLError as error:
                raise ClientError("tls", f"{self._url}: {error}") from None
            except (OSError, TimeoutError, ConnectionClosed, InvalidHandshake) as error:
                why = str(error) or repr(error)
            except ClientError as error:
                if error.code in FATAL or not self.opened:
                    raise
                why = str(error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)
        raise ClientError("unreachable", f"{self._url}: not reached in {self._patience:g} s: {why}")

    async def _address(self) -> str:
        """Where to connect, this time."""
        return self._url

    def _first(self) -> Json:
        """The first message."""
        if self.opened:
            return {"type": "resume", "token": self.opened["token"], "after": self._seq}
        return self._open

    async def _greet(self, line: ClientConnection) -> None:
        hello = {k: v for k, v in self._first().items() if v is not None}
        if self._auth is not None:
            hello["auth"] = self._auth
        await line.send(json.dumps(hello))
        answer = json.loads(await asyncio.wait_for(line.recv(), 10))
        if answer["type"] == "error":
            raise ClientError(answer["code"], answer["message"])
        self.opened, self._next = answer, answer["next"]
        self._limit = answer["limit"]
        self._seq = min(self._seq, answer["last"])
        oldest = self._frames[0].index if self._frames else self._count
        if oldest > self._next:  # the server went further back than we can
            self.lost += oldest - self._next
            await line.send(json.dumps({"type": "skip", "to": oldest}))
            self._next = oldest
        self._forget(answer["durable"])
        self.reconnects += 1

    async def _connected(self, line: ClientConnection) -> None:
        self._line = line
        self._change()
        pump = asyncio.create_task(self._pump(line))
        try:
            async for text in line:
                self._hear(json.loads(text))
                if self.end is not None:
                    await line.send(json.dumps({"type": "close"}))
                    break
        except ConnectionClosed:
            pass
        finally:
            self._line = None
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
            await line.close()

    async def _pump(self, line: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            finished = False
            while True:
                self._work.clear()
                for frame in list(self._frames):
                    if self._next == frame.index < self._limit:
                        self._next += 1
                        await line.send(pack(frame))
                if self._finished and not finished and self._next == self._count:
                    finished = True
                    await line.send(json.dumps({"type": "finish"}))
                await self._work.wait()

    def _hear(self, message: Json) -> None:
        kind = message["type"]
        if kind == "result":
            self._seq = message["seq"]
            if message["index"] > self._index:  # a restored server computes some again
                self._index = message["index"]
                fields = {k: v for k, v in message.items() if k in FIELDS}
                self._results.put_nowait(Result(**fields, task=self.opened.get("task", "")))
        elif kind == "missed":
            self.missed += message["count"]
        elif kind == "error":
            self.errors.append(message)
        elif kind == "end" and message["reason"] not in ("draining", "moved"):
            self.end = message
        if "limit" in message:
            self._limit = max(self._limit, message["limit"])
            self._forget(message["durable"])
        self._change()

    def _forget(self, durable: int) -> None:
        while self._frames and self._frames[0].index < min(durable, self._next):
            self._frames.popleft()
