"""What a server says to one client, whatever carries it: WebSocket and gRPC share this."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from ...layers.streaming import Json
from .limits import ServeError
from .live_session import Attachment, LiveSession
from .pictures import Pictures
from .sessions import Sessions
from .spec import Spec
from .talks import Talks
from .wire import PCM, FrameMessage, count
from .workers import DECODING

Message = Json
NO_LANGUAGE = "this server has no language model; start it with --language smollm2-135m/instruct"
log = logging.getLogger("streamzoo.serve")


class Closing(Exception):
    """The conversation is over; the message is why."""


class Conversation:
    """One connection: :meth:`begin`, then frames and control messages in, :meth:`outgoing` out.

    Args:
      owner: who the client is, for its share of the streams.
      observe: takes (stage, seconds), for metrics.
      talks: the conversations about the streams; None: this server has no language.
    """

    def __init__(
        self,
        sessions: Sessions,
        owner: str,
        observe: Callable[[str, float], None] = lambda _stage, _seconds: None,
        talks: Talks | None = None,
    ):
        self.sessions, self.owner, self._observe = sessions, owner, observe
        self._pictures = Pictures(sessions.engine.frame_shape, sessions.limits)
        self._session: LiveSession | None = None
        self._attachment: Attachment | None = None
        self._talks = talks
        self._errors = 0
        self._resumed = False

    @property
    def session(self) -> LiveSession:
        assert self._session is not None, "begin() comes first"
        return self._session

    async def begin(self, message: Message) -> Message:
        """Opens or resumes; returns the answer. Raises ServeError: neither was possible."""
        after = 0
        if message["type"] == "open":
            budget = message.get("budget_ms", 120)
            number = isinstance(budget, (int, float)) and not isinstance(budget, bool)
            spec = Spec(
                fps=message.get("fps", 15),
                budget=budget / 1e3 if number else budget,
                policy=message.get("policy", "latest"),
                capacity=message.get("capacity"),
                worth=message.get("worth", 1.0),
            )
            name = message.get("name")
            session = await self._open(spec, name, message.get("token"))
            after = count(message, "after", 0)
        elif message["type"] == "resume":
            after = count(message, "after", 0)
            session = await self.sessions.find(str(message.get("token")))
            self._resumed = True
        else:
            raise ServeError("bad_request", 'the first message is "open" or "resume"')
        self._session, self._attachment = session, session.attach(after)
        self._attachment.mail.remarks = message.get("remarks") is True
        step = self.sessions.engine.step
        return {
            "type": "opened",
            "session": session.name,
            "token": session.token,
            "resumed": self._resumed,
            "next": session.next,
            "limit": session.limit,
            "durable": session.durable,
            "last": session.recent.last,
            "paused": session.stream.paused,
            "ttl": self.sessions.limits.ttl,
            "keep": self.sessions.limits.keep,
            "size": list(self.sessions.engine.frame_shape),
            "classes": list(step.card.classes),
            "model": step.card.name,
            "task": step.card.task,
            "language": "" if self._talks is None else self._talks.name,
        }

    async def _open(self, spec: Spec, name: str | None, token: Any) -> LiveSession:
        """Under a ``token`` that somebody made for it, the session may be there already."""
        if token is None:
            return await self.sessions.admit(spec, owner=self.owner, name=name)
        if not isinstance(token, str) or not 24 <= len(token) <= 200:
            raise ServeError("bad_request", "open: the token is a secret of 24 letters or more")
        try:
            session = await self.sessions.find(token)
            self._resumed = True
            return session
        except ServeError as error:
            if error.code != "unknown_token":
                raise
        return await self.sessions.admit(spec, owner=self.owner, name=name, token=token)

    async def frame(self, frame: FrameMessage) -> Message | None:
        """Takes a frame; returns what is to be answered, if anything."""
        try:
            if frame.kind == PCM:
                raise ServeError("bad_request", "a stream of pictures takes no sound")
            if not self.session.due(frame.index):
                return None
            start = time.perf_counter()
            try:
                image = await DECODING.run(self._pictures, frame)
            except ServeError:
                if self.session.due(frame.index):
                    self.session.reject()
                raise
            self._observe("decode", time.perf_counter() - start)
            self.session.original_size = original = self._pictures.original_size
            self.session.offer(frame.index, image, frame.time, frame.event, original)
            return None
        except ServeError as error:
            return self.error(error, frame.index)

    def control(self, message: Message) -> Message | None:
        """Takes a control message; returns what is to be answered, if anything."""
        try:
            return self._control(message)
        except ServeError as error:
            return self.error(error)

    def _control(self, message: Message) -> Message | None:
        session, kind = self.session, message["type"]
        if kind == "ack":
            session.ack(count(message, "seq"))
        elif kind == "pause":
            session.pause()
        elif kind == "go":
            session.resume()
        elif kind == "skip":
            session.skip(count(message, "to"))
        elif kind == "ask":
            self._ask(message)
        elif kind == "finish":
            session.finish()
        elif kind == "close":
            self.sessions.remove(session)
        else:
            raise ServeError("bad_request", f"no message has the type {kind!r}")
        return None

    def _ask(self, message: Message) -> None:
        number, attachment = message.get("id", 0), self._attachment
        if self._talks is None or attachment is None:
            raise ServeError("no_language", NO_LANGUAGE)
        short = isinstance(number, str) and len(number) <= 64
        if not short and (isinstance(number, bool) or not isinstance(number, int)):
            raise ServeError("bad_request", "ask: its id is a number, or up to 64 letters")
        try:
            self._talks.ask(self.session, attachment.mail, number, message.get("text", ""))
        except ServeError as error:
            told = {"type": "error", "code": error.code, "message": str(error), "id": number}
            attachment.mail.waiting += 1  # it is told where its answer would be
            attachment.mail.whole(told)

    def error(self, error: ServeError, index: int | None = None) -> Message:
        """The message for an error. Raises Closing: there were too many."""
        self._errors += 1
        if self._errors > self.sessions.limits.errors:
            log.warning("%s: closed after %d bad messages", self.owner, self._errors)
            raise Closing(f"{self._errors} bad messages")
        if self._errors == 1:
            log.warning("%s: %s", self.owner, error)
        message = {"type": "error", "code": error.code, "message": str(error)}
        return message if index is None else {**message, "index": index}

    async def outgoing(self) -> AsyncIterator[Message]:
        """Results as they come, credits, and at last why there are no more."""
        attachment, session = self._attachment, self.session
        assert attachment is not None
        while (news := await attachment.read()) is not None:
            missed, records = news
            now = {"limit": session.limit, "durable": session.durable}
            if missed:
                yield {"type": "missed", "count": missed}
            for record in records:
                yield {"type": "result", **record, **now}
            words = attachment.mail.take()
            for message in words:
                yield message
            if not records and not words:
                yield {"type": "credits", **now}
        reason = "another client took over" if attachment.replaced else session.ended
        yield {"type": "end", "reason": reason, "frames": session.report()["frames"]}

    def end(self) -> None:
        """The connection is gone."""
        if self._attachment is not None:
            self._attachment.detach()
