"""A page that looks on: it asks for one message, gets one, and asks again when it has painted it.

The page's first message is text, {"type": "watch", "auth": ...}, and the server answers
{"type": "watching", "model", "size", "webrtc", ...}. Then the page asks, as often as it likes:

    {"type": "next", "after": 17, "rev": 230, "streams": ["cam0", "cam1"]}

``after`` is the serial of its newest tile, ``rev`` the newest revision of the timeline that it
has, ``streams`` whose tiles it wants. The answer is binary: a length (4 bytes, big-endian), a JSON
header {"after", "rev", "tiles": [{"stream", "bytes", ...}], "events": [...], "state": {...}} and
the tiles' JPEGs. ``state`` comes once a second. A page that is slow asks less often; one that
is hidden does not ask, and costs nothing.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

from ...layers.streaming import Json
from .conversation import Closing, Message
from .dashboard import Dashboard
from .limits import ServeError
from .wire import FrameMessage, count

PAGES = 16  # that look on at once
STREAMS = 64  # tiles of one page
INTERVAL, TILES = 0.1, 40  # seconds between messages, at least; tiles a second, at most
GATHER = 0.03  # seconds: tiles that come together go together
STATE = 1.0  # seconds between states


class Watching:
    """One page; made for :class:`.app.Line`, as a Conversation is."""

    def __init__(self, board: Dashboard):
        self._board = board
        self._wanted: frozenset[str] = frozenset()
        self._after = self._rev = 0
        self._asked, self._news = asyncio.Event(), asyncio.Event()

    async def begin(self, message: Message) -> Message:
        """Raises ServeError: another message, or too many pages."""
        if message["type"] != "watch":
            raise ServeError("bad_request", 'the first message is "watch"')
        if len(self._board.watchers) >= PAGES:
            raise ServeError("too_many", f"{PAGES} pages look on and that is the limit; close one")
        self._board.watchers.add(self)
        self._board.wake()
        return self._board.hello()

    def control(self, message: Message) -> None:
        """Takes the page's question; a newer one takes the place of an older one."""
        names = message.get("streams")
        if message["type"] != "next" or not isinstance(names, list) or len(names) > STREAMS:
            raise ServeError("bad_request", f'a page sends "next", with up to {STREAMS} streams')
        self._wanted = frozenset(name for name in names if isinstance(name, str))
        self._after, self._rev = count(message, "after"), count(message, "rev")
        self._asked.set()

    async def frame(self, frame: FrameMessage) -> None:
        """Raises ServeError: pages that look on send none."""
        del frame
        raise ServeError("bad_request", "frames are sent over /ws")

    def error(self, error: ServeError) -> Message:
        """Raises Closing: only a page that is not ours makes mistakes here."""
        raise Closing(str(error))

    def told(self, name: str) -> None:
        """There is a new tile of a stream."""
        if name in self._wanted:
            self._news.set()

    async def outgoing(self) -> AsyncIterator[bytes]:
        """One message for every question."""
        sent = state_at = float("-inf")
        while True:
            await self._asked.wait()
            self._asked.clear()
            pause = max(INTERVAL, len(self._wanted) / TILES)
            await asyncio.sleep(max(0.0, sent + pause - time.monotonic()))
            await self._wait(state_at + STATE)
            due = time.monotonic() >= state_at + STATE
            message = await self._message(due)
            sent = time.monotonic()
            state_at = sent if due else state_at
            yield message

    async def _wait(self, until: float) -> None:
        """For a tile that the page wants, or until a state is due."""
        self._news.clear()
        self._board.show(self._wanted)
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                await self._news.wait()
                await asyncio.sleep(GATHER)
        except TimeoutError:
            pass

    async def _message(self, due: bool) -> bytes:
        board = self._board
        tiles = await board.newer(self._after, self._wanted)
        header: Json = {
            "after": max([self._after, *(t.serial for t in tiles)]),
            "rev": board.timeline.rev, "tiles": [t.header() for t in tiles],
            "events": board.timeline.after(self._rev),
        }  # fmt: skip
        if due:
            header["state"] = await board.state()
        text = json.dumps(header, allow_nan=False).encode()
        return b"".join([len(text).to_bytes(4, "big"), text, *(t.data for t in tiles)])

    def end(self) -> None:
        """The page is gone."""
        self._board.watchers.discard(self)
