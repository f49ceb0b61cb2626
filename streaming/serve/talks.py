"""Conversations about the streams of a server: each has one, and perception never waits for it.

What the model finds becomes rounds of words; a language model hears them, remarks on what is new
when it has a reason to, and answers questions, which leave no trace. All of that runs in a thread
of its own, one job at a time: while it is busy, rounds are not told, and their events wait for the
next one. Conversations are of this process: they are not in a snapshot.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from ...layers.streaming import Json
from ..chat import Conversation as Words
from ..chat import Narrator, Round, Said
from ..engine import Answer
from .limits import ServeError
from .live_session import LiveSession
from .mail import QUESTIONS, Id, Mail
from .sessions import Sessions
from .workers import Workers

KEEP = 32  # of what was said on a stream, for who comes later
WAITING = 64  # questions of all clients that wait for their turn
log = logging.getLogger("streamzoo.serve")


class Talk:
    """The conversation of one stream."""

    def __init__(self, make: Callable[[], Words]):
        self._make = make
        self._words: Words | None = None  # made where it is used: the first text takes its time
        self.narrator = Narrator()
        self.log: deque[Json] = deque(maxlen=KEEP)
        self.said = 0  # how often something was said
        self.began: float | None = None  # the time of the first frame, on its sender's clock
        self.time = 0.0  # of the newest frame, seconds since then
        self.due = 0.0  # of the next round
        self.busy = False  # a round is being heard
        self.rounds = self.late = 0  # told; and put off, because language was busy
        self.failed = ""

    @property
    def words(self) -> Words:
        """In the thread of language."""
        if self._words is None:
            self._words = self._make()
        return self._words

    def add(self, message: Json) -> Json:
        """Into the log; returns the message."""
        self.said += 1
        self.log.append({"number": self.said, **message})
        return message


class Talks:
    """One conversation for every session.

    Args:
      sessions: of the server.
      make: a conversation in which nothing was said. In a thread; each has a memory of its own.
      every: seconds of a stream from one round to the next.
      name: of the language model.
    """

    def __init__(
        self,
        sessions: Sessions,
        make: Callable[[], Words],
        every: float = 2.0,
        name: str = "",
    ):
        self._make, self.every, self.name = make, every, name
        self._of: dict[LiveSession, Talk] = {}
        self._thread = Workers("language", most=1, waiting=WAITING)
        self._tasks: set[asyncio.Task[None]] = set()
        sessions.listeners.append(self._answered)
        sessions.removed.append(lambda session: void(self._of.pop(session, None)))

    def of(self, session: LiveSession) -> Talk:
        """The conversation of a session."""
        if session not in self._of:
            self._of[session] = Talk(self._make)
        return self._of[session]

    # What is seen.

    def _answered(self, session: LiveSession, answer: Answer) -> None:
        if answer.result is None or session.ended:
            return
        talk = self.of(session)
        if talk.began is None:
            talk.began, talk.due = answer.time, self.every
        if answer.time - talk.began < talk.time:  # a clock that went back, a film that began anew
            talk.began = answer.time - talk.time
        now = talk.time = answer.time - talk.began
        talk.narrator.push(dataclasses.replace(answer.result, time=now))
        if now < talk.due:
            return
        if talk.busy:
            talk.late += 1
            return
        talk.due = now + self.every
        talk.busy = True
        talk.rounds += 1
        self._begin(self._hear(session, talk, talk.narrator.round(now)))

    async def _hear(self, session: LiveSession, talk: Talk, told: Round) -> None:
        try:
            said: Said = await self._thread.run(lambda: talk.words.hear(told))
        except ServeError:  # too much waits: it is told with the next round
            talk.late += 1
            return
        except Exception as error:  # language may fail; what is seen goes on
            log.exception("%s: language failed", session.name)
            talk.failed = repr(error)
            return
        finally:
            talk.busy = False
        if said.kind == "remark":
            message = talk.add(
                {"type": "remark", "time": said.time, "text": said.text, "seen": told.text}
            )
            if session.attached is not None:
                session.attached.mail.remark(message)

    # What is asked.

    def ask(self, session: LiveSession, mail: Mail, number: Id, text: str) -> None:
        """Answers into the mail, under the question's number.

        Raises:
          ServeError: "bad_question": nothing is asked; "busy": others are not answered yet.
        """
        check(text)
        if mail.waiting >= QUESTIONS:
            raise ServeError("busy", f"{QUESTIONS} questions wait for their answer; ask later")
        mail.waiting += 1
        self._begin(self._reply(session, mail, number, text))

    async def _reply(self, session: LiveSession, mail: Mail, number: Id, text: str) -> None:
        loop = asyncio.get_running_loop()
        tell = lambda piece: void(loop.call_soon_threadsafe(mail.piece, number, piece))
        try:
            mail.whole({**await self.answer(session, text, tell), "id": number})
        except ServeError as error:
            message = {"type": "error", "code": error.code, "message": str(error)}
            mail.whole({**message, "id": number})

    async def answer(
        self, session: LiveSession, text: str, tell: Callable[[str], None] | None = None
    ) -> Json:
        """The answer to a question: {type, time, question, text, first_ms, total_ms, supported}.

        Args:
          session: whose stream is asked about.
          text: the question.
          tell: takes the words as they come, in another thread.

        Raises:
          ServeError: "bad_question": nothing, or more than the memory has room for; "busy": too
            many wait; "language": it failed.
        """
        check(text)
        talk = self.of(session)
        at = talk.time
        try:
            said = await self._thread.run(lambda: talk.words.ask(text, at, tell))
        except ServeError:
            raise
        except ValueError as error:
            raise ServeError("bad_question", str(error)) from None
        except Exception as error:
            log.exception("%s: language failed", session.name)
            raise ServeError("language", f"the language model failed: {error!r}") from None
        return talk.add(
            {
                "type": "answer", "time": said.time, "question": text, "text": said.text,
                "first_ms": round(said.first_ms, 1), "total_ms": round(said.total_ms, 1),
                "supported": said.supported,
            }
        )  # fmt: skip

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)  # the loop holds tasks weakly
        task.add_done_callback(self._tasks.discard)


def check(text: object) -> None:
    """Raises ServeError "bad_question": no text, or an empty one."""
    if not isinstance(text, str) or not text.strip():
        raise ServeError("bad_question", 'a question has words: {"text": "Who is there?"}')


def void(_: object) -> None:
    """A listener returns nothing."""
