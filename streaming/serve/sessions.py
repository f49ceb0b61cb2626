"""Sessions: a stream of the engine, its recent results, and a token to come back with.

No network here. A transport opens or resumes a session, attaches to it, hands it frames and
sends on what the attachment reads; when the connection ends it detaches, and the session waits.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from ...layers.streaming import Fields
from ..engine import Answer, Engine, Refused
from .held import check_share, named
from .limits import Limits, ServeError
from .live_session import LiveSession
from .spec import Spec, Start

SOURCE = "source:"  # and an address: the token of what the server feeds itself, good for no client
EVENTS = "events"


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
        self.opened: list[Callable[[LiveSession], None]] = []  # of every session, new or recalled
        self.removed: list[Callable[[LiveSession], None]] = []  # of every session let go
        self.refusals: list[Callable[[str, str], None]] = []  # of (name, why) the engine refused
        self.recall: Callable[[str, bool], Awaitable[LiveSession]] | None = None  # by token
        self.reader: Fields = {}  # of `open_source`: how all sources are read
        self.policy = EVENTS  # of the sources, where nobody says
        self.draining = False
        self._count = 0
        self._room = asyncio.Lock()

    async def admit(self, spec: Spec | None = None, **kwargs: Any) -> LiveSession:
        """As :meth:`open`; for want of a slot or of time, sessions that nobody uses are parked."""
        spec = spec or Spec()
        async with self._room:
            await self._make_room(spec)
            return self.open(spec, **kwargs)

    async def _make_room(self, spec: Spec, back: LiveSession | None = None) -> None:
        """Parks as few as will do, those that are away for longest first; none if that would
        not help. ``back``: a parked session that the room is for."""
        parked = self._parked(back)
        room = max(0, self.limits.parked - len(parked) + sum(s.left for s in parked))
        idle = [s for s in self.by_name.values() if s.parkable]
        idle = sorted(idle, key=lambda session: session.since)[:room]
        for count in range(len(idle) + 1):
            without = [s.name for s in idle[:count]]
            if self.engine.refusal(spec.fps, budget=spec.budget, without=without) is None:
                for session in idle[:count]:
                    await session.park()
                    self._thin_out(back)
                return

    def _parked(self, but: LiveSession | None) -> list[LiveSession]:
        return [s for s in self.by_name.values() if s.parked is not None and s is not but]

    def _thin_out(self, but: LiveSession | None) -> None:
        """Forgets one session where too many are parked: of the client that has left most behind
        the one that is away for longest, so that nobody is pushed out by others."""
        parked = self._parked(but)
        left = [s for s in parked if s.left]
        if len(parked) > self.limits.parked and left:
            counts = Counter(s.owner for s in parked)
            self.remove(min(left, key=lambda s: (-counts[s.owner], s.since)))

    async def _back(self, session: LiveSession) -> LiveSession:
        async with self._room:
            if session.parked is not None:
                await self._make_room(session.spec, session)
                try:
                    session.unpark()
                except Refused as error:
                    raise ServeError("refused", f"others have its slot: {error}") from None
        return session

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
        name = named(name, self.by_name, "s", self._count)
        # Who is away holds nobody up: a page that is loaded again has left a session behind.
        held = sum(s.owner == owner and not s.left for s in self.by_name.values()) if owner else 0
        check_share(held, self.limits)
        try:
            session = LiveSession(
                self, name, token or secrets.token_urlsafe(24), owner, spec or Spec(),
                start or Start(),
            )  # fmt: skip
        except Refused as error:
            for call in self.refusals:
                call(name, str(error))
            raise ServeError("refused", str(error)) from None
        self._count += 1
        self.by_name[name], session.lasting = session, lasting
        self.away(session)
        for call in self.opened:
            call(session)
        return session

    def resume(self, token: str) -> LiveSession:
        """The session of a token. Raises ServeError "unknown_token"."""
        for session in self.by_name.values():
            if not session.lasting and secrets.compare_digest(
                session.token.encode("utf-8", "surrogatepass"),
                str(token).encode("utf-8", "surrogatepass"),
            ):
                return session
        raise ServeError(
            "unknown_token",
            f"no session has this token; it ended, or waited more than {self.limits.ttl:g} s",
        )

    async def find(self, token: str) -> LiveSession:
        """As :meth:`resume`, in a slot; where the session is not here, from the store if there is
        one. Raises ServeError "refused" too: others have its slot, and use it."""
        try:
            session = self.resume(token)
        except ServeError:
            if self.recall is None or self.draining or token.startswith(SOURCE):
                raise
            return await self.recall(token, False)
        return await self._back(session)

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
        session.since = asyncio.get_running_loop().time()
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
