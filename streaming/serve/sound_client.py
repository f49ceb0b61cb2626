"""A client that sends sound and gets words, over every disconnect.

async with SoundClient("http://127.0.0.1:8765") as client:
    async def send():
        for samples in recording:                # int16 [T] at 16 kHz
            await client.send(samples)
        await client.finish()
    sending = asyncio.create_task(send())
    async for record in client:                  # records as the server sends them
        print(record["words"])
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from ...layers.streaming import Json
from .client import FATAL, ClientError
from .wire import PCM, FrameMessage, pack

PIECE = 8000  # samples of a message at most


class SoundClient:
    """One stream of sound. It reconnects by itself, resumes, and sends again what was lost.

    Args:
      url: of the server, http(s):// or ws(s)://.
      name: of the stream; None takes the server's.
      auth: its token.
      patience: seconds without a connection after which it gives up.

    Attributes:
      opened: the server's answer; ``end``: its last word, with the books.
      maybe: the newest text that may still change.
      reconnects: connections after the first.

    Raises:
      ClientError: while it is used: the server said no, or was not found in time.
    """

    def __init__(
        self, url: str, *, name: str | None = None, auth: str | None = None, patience: float = 30.0
    ):
        scheme, _, rest = url.rstrip("/").partition("://")
        scheme = {"http": "ws", "https": "wss"}.get(scheme, scheme)
        if scheme not in ("ws", "wss") or not rest:
            raise ValueError(f"url {url!r}: give http://HOST:PORT or https://HOST:PORT")
        self._url, self._auth, self._patience = f"{scheme}://{rest}/ws", auth, patience
        self._open: Json = {"type": "open", "sound": True, "name": name}
        self._sound = np.zeros(0, np.int16)  # not durable yet; its first is number ``_first``
        self._first = self._next = self._limit = self._seq = 0
        self._finished = False
        self._changed, self._work = asyncio.Event(), asyncio.Event()
        self._records: asyncio.Queue[Json | BaseException | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self.opened: Json = {}
        self.end: Json | None = None
        self.maybe: Json = {}
        self.reconnects = -1

    async def __aenter__(self) -> SoundClient:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def send(self, samples: Any, waiting: int = 16_000 * 10) -> None:
        """Takes int16 [T]; waits while more than ``waiting`` samples are not sent yet.

        Raises:
          ValueError: samples of another kind.
        """
        samples = np.asarray(samples)
        if samples.ndim != 1 or samples.dtype != np.int16:
            raise ValueError(f"sound is int16 [T], got {samples.dtype} {list(samples.shape)}")
        self._sound = np.concatenate([self._sound, samples])
        self._work.set()
        while self._first + len(self._sound) - self._next > waiting and not self._gone:
            self._changed.clear()
            await self._changed.wait()

    @property
    def _gone(self) -> bool:
        return self._task is None or self._task.done()

    async def finish(self) -> None:
        """No more samples will come."""
        self._finished = True
        self._work.set()

    def __aiter__(self) -> AsyncIterator[Json]:
        return self

    async def __anext__(self) -> Json:
        record = await self._records.get()
        if isinstance(record, BaseException):
            raise record
        if record is None:
            raise StopAsyncIteration
        return record

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        try:
            while self.end is None:
                with contextlib.suppress(OSError, InvalidHandshake, ConnectionClosed, TimeoutError):
                    async with connect(self._url, max_size=None, open_timeout=5) as line:
                        try:
                            await self._talk(line)
                        finally:  # also where the line broke
                            last = loop.time()
                if self.end is None:
                    if loop.time() - last > self._patience:
                        raise ClientError("away", f"no connection for {self._patience:g} s")
                    await asyncio.sleep(0.1)
            await self._records.put(None)
        except ClientError as error:
            await self._records.put(error)
        finally:
            self._changed.set()

    async def _talk(self, line: ClientConnection) -> None:
        hello = dict(self._open)
        if self.opened:
            hello = {"type": "resume", "sound": True, "token": self.opened["token"],
                     "after": self._seq}  # fmt: skip
        await line.send(json.dumps(hello | {"auth": self._auth}))
        answer = json.loads(await line.recv())
        if answer["type"] == "error":
            if answer["code"] in FATAL:
                raise ClientError(answer["code"], answer["message"])
            return
        self.opened, self.reconnects = answer, self.reconnects + 1
        self._next, self._limit = answer["next"], answer["limit"]
        if self._next < self._first:
            raise ClientError("lost", f"the server lost samples from {self._next} on")
        self._durable(answer["durable"])
        sending = asyncio.create_task(self._send(line))
        try:
            async for text in line:
                await self._hear(line, json.loads(text))
                if self.end is not None:
                    return
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, line: ClientConnection) -> None:
        told = False
        while True:
            self._work.clear()
            ready = min(self._limit, self._first + len(self._sound))
            while self._next < ready:
                start = self._next - self._first
                part = self._sound[start : start + min(PIECE, ready - self._next)]
                await line.send(pack(FrameMessage(PCM, self._next, part.astype("<i2").tobytes())))
                self._next += len(part)
                self._changed.set()
            if self._finished and not told and self._next == self._first + len(self._sound):
                await line.send(json.dumps({"type": "finish"}))
                told = True
            await self._work.wait()

    async def _hear(self, line: ClientConnection, message: Json) -> None:
        kind = message["type"]
        if "limit" in message:
            self._limit = max(self._limit, message["limit"])
            self._durable(message["durable"])
            self._work.set()
        if kind == "result" and message["seq"] > self._seq:
            self._seq = message["seq"]
            await self._records.put(message)
            await line.send(json.dumps({"type": "ack", "seq": self._seq}))
        elif kind == "maybe":
            self.maybe = message
        elif kind == "error":
            raise ClientError(message["code"], message["message"])
        elif kind == "end" and message["reason"] not in ("draining", "removed"):
            self.end = message

    def _durable(self, sample: int) -> None:
        gone = min(sample, self._next) - self._first
        if gone > 0:
            self._sound, self._first = self._sound[gone:], self._first + gone
