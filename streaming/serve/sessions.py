"""Sessions: a stream of the engine, its recent results, and a token to come back with.

No network here. A transport opens or resumes a session, attaches to it, hands it frames and
sends on what the attachment reads; when the connection ends it detaches, and the session waits.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import math
import re
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from ..engine import Answer, Engine, Refused, Stream, StreamClosed
from ..sources.feed import Feed
from .limits import Limits, ServeError
from .recent import Recent, Record
from .records import record_of

SOURCE = "source:"  # and an address: the token of what the server feeds itself, good for no client
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a session is opened with; see :meth:`Engine.add`.

    ``budget``: seconds. ``policy``: "latest", "lossless" or "events".
    """

    fps: float = 15.0
    budget: float = 0.12
    policy: str = "latest"
    capacity: int | None = None

    def __post_init__(self):
        for name in ("fps", "budget"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number and 0 < value < math.inf):
                raise ServeError("bad_request", f"{name}={value!r}: give a number above 0")
        if self.policy not in ("latest", "lossless", "events"):
            raise ServeError(
                "bad_request", f"policy={self.policy!r}: it is latest, lossless or events"
            )
        if self.capacity is not None and (
            not isinstance(self.capacity, int) or not 1 <= self.capacity <= 64
        ):
            raise ServeError("bad_request", f"capacity={self.capacity!r}: give 1 to 64 frames")


@dataclasses.dataclass
class Start:
    """Where a session goes on from, if not from the beginning."""

    carry: Any = None
    next: int = 0
    last: int = 0
    records: list[Record] = dataclasses.field(default_factory=list)


class Attachment:
    """One client's hold on a session; a newer one takes its place."""

    def __init__(self, session: LiveSession, after: int):
        self.session, self.cursor = session, after
        self.told = -1  # the limit that the client knows
        self.replaced = False
        self.news = asyncio.Event()

    async def read(self) -> tuple[int, list[Record]] | None:
        """(results that are gone, results), as soon as there are any or the limit has moved.

        None: nothing more will come; ``replaced`` says whether another client took over.
        """
        session = self.session
        while not self.replaced:
            missed, records = session.recent.after(self.cursor)
            if missed or records or session.limit > self.told:
                if records:
                    self.cursor = records[-1]["seq"]
                elif missed:
                    self.cursor += missed
                session.missed += missed
                self.told = max(self.told, session.limit)
                return missed, records
            if session.ended:
                return None
            self.news.clear()
            await self.news.wait()
        return None

    def detach(self) -> None:
        """The client is gone; the session waits for it."""
        if self.session.attached is self:
            self.session.attached = None
            self.session.hub.away(self.session)


class LiveSession:
    """Made by :class:`Sessions`.

    Frames are numbered by their sender, from 0: each number is taken exactly once, so what is
    sent again after a disconnect does no harm. ``next`` is the number that is due, ``limit`` the
    first that may not be sent yet.
    """

    def __init__(self, hub: Sessions, name: str, token: str, owner: str, spec: Spec, start: Start):
        self.hub, self.name, self.token, self.owner, self.spec = hub, name, token, owner, spec
        self.stream: Stream = hub.engine.add(
            name, spec.fps, budget=spec.budget, policy=spec.policy, capacity=spec.capacity,
            carry=start.carry, start=start.next,
        )  # fmt: skip
        self.recent = Recent(hub.limits.keep, start.records, start.last)
        self.next = self.saved = start.next
        self.attached: Attachment | None = None
        self.ended: str | None = None  # why
        self.bad = self.skipped = self.repeated = self.missed = 0
        self.timer: asyncio.TimerHandle | None = None
        self.lasting = False  # it is fed by the server itself and waits for no client
        self.feed: Feed | None = None
        self._shifts = deque([(start.next, 0)])  # (engine index, ours - the engine's) from there on
        self._room = asyncio.Event()
        self._reader = asyncio.create_task(self._read(), name=f"session {name}")

    # The client's side.

    @property
    def limit(self) -> int:
        """Frames with a lower number would be taken now."""
        return self.next + self.stream.credits

    @property
    def durable(self) -> int:
        """Frames with a lower number need not be sent again, whatever happens to this process."""
        return self.next if self.hub.recall is None else self.saved

    @property
    def key(self) -> str:
        """Names the session on disk: the token, which is a secret, stays off it."""
        return token_key(self.token)

    def offer(self, index: int, frame: Any, time: float | None = None, event: bool = False) -> bool:
        """Takes uint8 RGB [h, w, 3] with its number; False: it had come before.

        Raises:
          ServeError: "gap", "no_credit", "draining": the frame is still the sender's; "closed".
          ValueError: wrong shape or type.
        """
        if not self.due(index):
            return False
        if self.hub.draining:
            raise ServeError("draining", "this server is shutting down; resume later or elsewhere")
        try:
            taken = self.stream.offer(frame, time, event=event)
        except StreamClosed:
            raise ServeError("closed", f"session {self.name} takes no frames any more") from None
        if taken is None:
            raise ServeError(
                "no_credit", f"frame {index} came without a credit; wait until limit > {index}"
            )
        self.next += 1
        self._wake()
        return True

    def due(self, index: int) -> bool:
        """False: the frame has come before. Raises ServeError "gap": others are due first."""
        if index < self.next:
            self.repeated += 1
            return False
        if index > self.next:
            raise ServeError(
                "gap",
                f"frame {index} came and {self.next} is due; send that one, or "
                f'{{"type": "skip", "to": {index}}} if it is lost',
            )
        return True

    def reject(self) -> None:
        """The frame that is due cannot be used; its number is spent."""
        self.bad += 1
        self._jump(self.next + 1)

    def skip(self, to: int) -> None:
        """The sender has lost its frames before ``to``. Raises ServeError: it went backwards."""
        if to < self.next:
            raise ServeError("bad_request", f"skip to {to}: frame {self.next} is due already")
        self.skipped += to - self.next
        self._jump(to)

    def _jump(self, to: int) -> None:
        self.next = to
        received = self.stream.state.received
        if self._shifts[-1][0] == received:
            self._shifts.pop()
        self._shifts.append((received, to - received))
        self._wake()

    def ack(self, seq: int) -> None:
        """The client has all results up to ``seq``."""
        self.recent.ack(seq)
        self._room.set()

    def attach(self, after: int = 0) -> Attachment:
        """A client that has the results up to ``after``. It takes the place of any other."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.attached is not None:
            self.attached.replaced = True
            self.attached.news.set()
        after = min(max(after, 0), self.recent.last)
        self.ack(after)
        self.attached = Attachment(self, after)
        return self.attached

    def pause(self) -> None:
        self.stream.pause()

    def resume(self) -> None:
        """Raises ServeError "refused": others took its share of the time."""
        try:
            self.stream.resume()
        except Refused as error:
            raise ServeError("refused", str(error)) from None

    def finish(self) -> None:
        """No more frames; the session ends after its last result, which stays for the client."""
        self.stream.finish()

    # The engine's side.

    @property
    def _holds(self) -> bool:
        """Whether results wait for the client. With "latest" the newest ones push out others."""
        kept = self.spec.policy != "latest" and not self.lasting
        return kept and self.recent.unacked >= self.recent.keep

    async def _read(self) -> None:
        try:
            while True:
                while self._holds:
                    self._room.clear()
                    await self._room.wait()
                answer = await anext(self.stream, None)
                if answer is None:
                    break
                self.recent.add(self.record(answer))
                self.hub.answered(self, answer)
                self._wake()
            self.end("finished" if self.hub.engine.failure is None else "the engine failed")
        except Exception as error:  # a defect ends this session and no other
            self.end(f"server error: {error!r}")
            raise

    def record(self, answer: Answer) -> Record:
        """The answer under the sender's number for its frame."""
        while len(self._shifts) > 1 and self._shifts[1][0] <= answer.index:
            self._shifts.popleft()
        return record_of(answer, answer.index + self._shifts[0][1])

    def end(self, why: str) -> None:
        """Nothing more will come; the first reason stays."""
        if self.ended is None:
            self.ended = why
        self.stream.close()
        self._wake()
        if self.attached is None:
            self.hub.away(self)

    async def state(self) -> tuple[dict[str, Any], Any]:
        """(plain data, carry [1, ...]) from which :class:`Start` goes on. Raises StreamClosed."""
        shifts = list(self._shifts)  # later ones begin at frames that the carry has not seen
        seen, carry = await self.stream.snapshot()
        # No await from here on: cache, unread answers and numbers are of one moment.
        unread = [a for a in self.stream.unread if a.index < seen]
        kept = self.recent.after(self.recent.acked)[1]
        due = seen + next(shift for start, shift in reversed(shifts) if start <= seen)
        kept = [r for r in kept if r["index"] < due]
        last = kept[-1]["seq"] if kept else self.recent.acked
        for answer in unread:
            shift = next(s for start, s in reversed(shifts) if start <= answer.index)
            last += 1
            kept.append(dict(record_of(answer, answer.index + shift), seq=last))
        plain = {
            "name": self.name, "owner": self.owner, "spec": dataclasses.asdict(self.spec),
            "next": due, "last": last, "records": kept, "paused": self.stream.paused,
        }  # fmt: skip
        return plain, carry

    def _wake(self) -> None:
        if self.attached is not None:
            self.attached.news.set()

    def close(self) -> None:
        """Lets go of everything; again without harm."""
        self.end("removed")
        self._reader.cancel()
        if self.timer is not None:
            self.timer.cancel()

    def report(self) -> dict[str, Any]:
        """For JSON: where the session is, and its books."""
        status = "paused" if self.stream.paused else "live"
        return {
            "name": self.name,
            "state": self.ended or status,
            "attached": self.attached is not None,
            "source": None if self.feed is None else self.feed.report(),
            "fps": self.spec.fps,
            "policy": self.spec.policy,
            "frames": {
                **self.stream.books.to_dict(),
                "bad": self.bad, "skipped": self.skipped, "repeated": self.repeated,
            },
            "results": {
                "last": self.recent.last, "acked": self.recent.acked, "missed": self.missed,
            },
        }  # fmt: skip


def token_key(token: str) -> str:
    """A name for what belongs to a token, from which the token cannot be found."""
    return hashlib.sha256(token.encode()).hexdigest()[:32]


class Sessions:
    """All sessions of one engine.

    sessions = Sessions(engine)
    session = sessions.open(Spec(fps=15, policy="lossless"), owner="me")
    attachment = session.attach()
    session.offer(0, frame)
    missed, records = await attachment.read()
    attachment.detach()                            # the client is gone ...
    session = sessions.resume(session.token)       # ... and back, with the same carry
    """

    def __init__(self, engine: Engine, limits: Limits | None = None):
        self.engine, self.limits = engine, limits or Limits()
        self.by_name: dict[str, LiveSession] = {}
        self.listeners: list[Callable[[LiveSession, Answer], None]] = []  # of every answer
        self.removed: list[Callable[[LiveSession], None]] = []  # of every session let go
        self.recall: Callable[[str, bool], Awaitable[LiveSession]] | None = None  # by token
        self.draining = False
        self._count = 0

    def open(
        self,
        spec: Spec | None = None,
        *,
        owner: str = "",
        name: str | None = None,
        token: str | None = None,
        start: Start | None = None,
        lasting: bool = False,
    ) -> LiveSession:
        """A new session, or one that goes on from ``start`` under its old ``token``.

        ``lasting``: it needs no client, and is not removed for want of one.

        Raises:
          ServeError: "refused": it cannot be held; "too_many": the client has its share;
            "taken" and "bad_request": a name that is there, or is none; "draining".
        """
        if self.draining:
            raise ServeError("draining", "this server is shutting down; go to another one")
        if name is None:
            while (name := f"s{self._count}") in self.by_name:
                self._count += 1
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ServeError(
                "bad_request", f"name {name!r}: up to 64 letters, digits, '_', '-' and '.'"
            )
        if name in self.by_name:
            raise ServeError("taken", f"there is a session {name!r}; take another name")
        held = sum(s.owner == owner for s in self.by_name.values()) if owner else 0
        if held >= self.limits.streams_per_client:
            raise ServeError(
                "too_many", f"{held} streams are yours and that is the limit; close one of them"
            )
        try:
            session = LiveSession(
                self, name, token or secrets.token_urlsafe(24), owner, spec or Spec(),
                start or Start(),
            )  # fmt: skip
        except Refused as error:
            raise ServeError("refused", str(error)) from None
        self._count += 1
        self.by_name[name], session.lasting = session, lasting
        self.away(session)
        return session

    def resume(self, token: str) -> LiveSession:
        """The session of a token. Raises ServeError "unknown_token"."""
        for session in self.by_name.values():
            if not session.lasting and secrets.compare_digest(
                session.token.encode(), str(token).encode()
            ):
                return session
        raise ServeError(
            "unknown_token",
            f"no session has this token; it ended, or waited more than {self.limits.ttl:g} s",
        )

    async def find(self, token: str) -> LiveSession:
        """As :meth:`resume`, and where the session is not here, from the store if there is one."""
        try:
            return self.resume(token)
        except ServeError:
            if self.recall is None or self.draining or token.startswith(SOURCE):
                raise
        return await self.recall(token, False)

    def get(self, name: str) -> LiveSession:
        """Raises ServeError "unknown_stream"."""
        if name not in self.by_name:
            raise ServeError("unknown_stream", f"no stream {name!r}; there are {[*self.by_name]}")
        return self.by_name[name]

    def remove(self, session: LiveSession) -> None:
        """Ends it at once, in whatever state it is; again without harm."""
        session.close()
        if self.by_name.get(session.name) is session:
            del self.by_name[session.name]
            for call in self.removed:
                call(session)

    def away(self, session: LiveSession) -> None:
        """Nobody is attached: the session is removed unless its client comes in time."""
        if session.lasting and session.ended is None:
            return
        if session.timer is None and self.by_name.get(session.name) is session:
            loop = asyncio.get_running_loop()
            session.timer = loop.call_later(self.limits.ttl, self.remove, session)

    def answered(self, session: LiveSession, answer: Answer) -> None:
        for call in self.listeners:
            call(session, answer)

    def close(self) -> None:
        """Removes all."""
        for session in list(self.by_name.values()):
            self.remove(session)
