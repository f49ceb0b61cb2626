"""uvicorn's HTTP with a deadline wherever the server waits for a client."""

from __future__ import annotations

import asyncio
import logging

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

log = logging.getLogger("streamzoo.serve")
STALL = 20.0  # seconds that an answer may wait for a client that reads nothing of it


def timed(seconds: float) -> type[H11Protocol]:
    """A protocol that closes a connection on which the client owes something for ``seconds``.

    What it owes: a first request, the rest of a request's head, the rest of its body, and after an
    answer the next request. Each is a phase of its own, and bytes that trickle in do not prolong
    it. The time that the server takes itself does not count.
    """

    class Timed(H11Protocol):
        phase: str | None = None
        deadline: asyncio.TimerHandle | None = None
        stalled: asyncio.TimerHandle | None = None
        half_closed = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._look()

        def data_received(self, data: bytes) -> None:
            try:
                super().data_received(data)
            except h11.ProtocolError:  # nonsense behind a request that is being answered
                log.info("%s: closed, what came is no HTTP", self.client)
                self.transport.close()
            self._look()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.half_closed:
                self.transport.close()
            self._look()

        def eof_received(self) -> bool | None:  # type: ignore[override]
            """The client sends no more; it may still wait for the answer to what it has sent."""
            waits = self.cycle is not None and not self.cycle.response_complete
            if not waits or self.cycle.more_body or self.scheme == "https":
                return None  # and asyncio closes the connection
            self.half_closed = True
            return True

        def connection_lost(self, exc: Exception | None) -> None:
            self._enter(None)
            self.resume_writing()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            if self.stalled is None:
                self.stalled = self.loop.call_later(STALL, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self.stalled is not None:
                self.stalled.cancel()
                self.stalled = None

        def _look(self) -> None:
            """What the client owes now."""
            phase = None
            if self.transport.get_protocol() is self and not self.transport.is_closing():
                if self.conn.their_state is h11.SEND_BODY:
                    phase = "the rest of a body"
                elif self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
                    phase = "the rest of a request"
                elif self.conn.their_state is h11.IDLE:
                    phase = "a request"
            if phase != self.phase:
                self._enter(phase)

        def _enter(self, phase: str | None) -> None:
            self.phase = phase
            if self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None
            if phase is not None:
                self.deadline = self.loop.call_later(seconds, self._expire)

        def _expire(self) -> None:
            if self.transport.get_protocol() is self:  # else a WebSocket has taken it
                log.info("%s: closed, %s has not come in %g s", self.client, self.phase, seconds)
                # Closing waits for what is not read yet, which may be for ever.
                close = self.transport.get_write_buffer_size() == 0
                self.transport.close() if close else self.transport.abort()

    return Timed


def plain(record: logging.LogRecord) -> bool:
    """A filter for uvicorn's log: a client's mistake is a line, without a stack trace of ours."""
    if str(record.msg).startswith("Invalid UTF-8"):
        record.exc_info, record.levelno, record.levelname = None, logging.WARNING, "WARNING"
    return True
