"""What a server says to a client that sends sound.

The first message opens or resumes, as for pictures (see :mod:`.wire`), with ``"sound": true``:

    {"type": "open", "sound": true, "name": "desk", "auth": ...}
    {"type": "resume", "sound": true, "token": "...", "after": 41, "auth": ...}

The answer is {"type": "opened", "token", "next", "limit", "durable", "rate", "model", ...}: samples
are numbered from ``next``, and only those below ``limit`` may be sent. A binary message is the
header of a frame with kind 3, the number of its first sample as ``index``, and 16-bit samples, one
channel at 16,000 Hz, little-endian. "ack", "skip" (to a sample), "finish" and "close" are as for
pictures. The server sends

    {"type": "result", "seq": 42, "utterance": 3, "heard": 12.1, "words": [...], "final": false}
    {"type": "maybe", "utterance": 3, "text": "what may still change"}

Words of results are final: they have times and are never withdrawn. The last of an utterance has
``final``, its whole ``text``, ``start`` and ``end``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import numpy as np

from ...layers.streaming import Json
from ..listening import RATE
from .conversation import Closing, Conversation, Message
from .limits import ServeError
from .sessions import Sessions
from .sound_session import Attached, SoundSession
from .sounds import Sounds
from .talks import Talks
from .wire import PCM, FrameMessage, count


class SoundConversation:
    """One connection; as :class:`.conversation.Conversation` for pictures."""

    def __init__(self, sounds: Sounds, owner: str):
        self.sounds, self.owner = sounds, owner
        self._session: SoundSession | None = None
        self._attached: Attached | None = None
        self._errors = 0

    @property
    def session(self) -> SoundSession:
        assert self._session is not None, "begin() comes first"
        return self._session

    async def begin(self, message: Message) -> Message:
        """Opens or resumes; returns the answer. Raises ServeError: neither was possible."""
        after = count(message, "after", 0)
        if message["type"] == "open":
            if message.get("rate", RATE) != RATE:
                raise ServeError(
                    "bad_request",
                    f"rate={message['rate']!r}: sound is sent at {RATE} Hz, one channel, 16 bits;"
                    " resample it first",
                )
            session = await self.sounds.open(self.owner, message.get("name"))
        elif message["type"] == "resume":
            session = await self.sounds.find(str(message.get("token")))
        else:
            raise ServeError("bad_request", 'the first message is "open" or "resume"')
        self._session, self._attached = session, session.attach(after)
        return {
            "type": "opened", "session": session.name, "token": session.token,
            "resumed": message["type"] == "resume", "next": session.next, "limit": session.limit,
            "durable": session.durable, "last": session.recent.last, "rate": RATE,
            "ttl": self.sounds.limits.ttl, "keep": self.sounds.limits.keep,
            "model": self.sounds.name, "task": "speech",
        }  # fmt: skip

    async def frame(self, frame: FrameMessage) -> Message | None:
        """Takes samples; returns what is to be answered, if anything."""
        try:
            if frame.kind != PCM:
                raise ServeError("bad_request", f"a stream of sound takes kind {PCM}: 16-bit PCM")
            if len(frame.picture) % 2 or not len(frame.picture):
                raise ServeError(
                    "bad_frame", f"{len(frame.picture)} bytes: whole 16-bit samples, at least one"
                )
            self.session.offer(frame.index, np.frombuffer(bytes(frame.picture), "<i2"))
            return None
        except ServeError as error:
            return self.error(error, frame.index)

    def control(self, message: Message) -> Message | None:
        """Takes a control message; returns what is to be answered, if anything."""
        session, kind = self.session, message["type"]
        try:
            if kind == "ack":
                session.ack(count(message, "seq"))
            elif kind == "skip":
                session.skip(count(message, "to"))
            elif kind == "finish":
                session.finish()
            elif kind == "close":
                self.sounds.remove(session)
            else:
                raise ServeError("bad_request", f"no message of sound has the type {kind!r}")
        except ServeError as error:
            return self.error(error)
        return None

    def error(self, error: ServeError, index: int | None = None) -> Message:
        """The message for an error. Raises Closing: there were too many."""
        self._errors += 1
        if self._errors > self.sounds.limits.errors:
            raise Closing(f"{self._errors} bad messages")
        message: Json = {"type": "error", "code": error.code, "message": str(error)}
        return message if index is None else {**message, "index": index}

    async def outgoing(self) -> AsyncIterator[Message]:
        """Words as they come, credits, and at last why there are no more."""
        attached, session = self._attached, self.session
        assert attached is not None
        while (news := await attached.read()) is not None:
            missed, records, maybe = news
            now = {"limit": session.limit, "durable": session.durable}
            if missed:
                yield {"type": "missed", "count": missed}
            for record in records:
                yield {"type": "result", **record, **now}
            if maybe:
                yield {"type": "maybe", **maybe}
            if not records:
                yield {"type": "credits", **now}
        reason = "another client took over" if attached.replaced else session.ended
        yield {"type": "end", "reason": reason, "samples": session.report()["samples"]}

    def end(self) -> None:
        """The connection is gone."""
        if self._attached is not None:
            self._attached.detach()


Talk = Conversation | SoundConversation


def conversation(
    first: Message,
    owner: str,
    sessions: Sessions,
    sounds: Sounds | None,
    observe: Callable[[str, float], None],
    talks: Talks | None = None,
) -> Talk:
    """The conversation that a client's first message asks for. Raises ServeError "bad_request"."""
    if not first.get("sound"):
        return Conversation(sessions, owner, observe, talks)
    if sounds is None:
        raise ServeError("bad_request", "this server hears no sound: start it with --listen MODEL")
    return SoundConversation(sounds, owner)
