"""One session: a stream of the engine, its recent results, and its client's hold on it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import numpy as np

from ...layers.streaming import Carry, Json
from ..engine import Answer, Engine, Refused, Snapshot, Stream, StreamClosed
from ..engine.feed import Feed
from .held import Held
from .limits import Limits, ServeError
from .mail import Mail
from .recent import Recent, Record
from .records import record_of
from .spec import Spec, Start


class Hub(Protocol):
    """What a session asks of the one that keeps all of them."""

    engine: Engine
    limits: Limits
    recall: Callable[[str, bool], Awaitable[LiveSession]] | None
    draining: bool

    def away(self, session: LiveSession) -> None: ...
    def answered(self, session: LiveSession, answer: Answer) -> None: ...


class Attachment:
    """One client's hold on a session; a newer one takes its place."""

    def __init__(self, session: LiveSession, after: int):
        self.session, self.cursor = session, after
        self.told = -1  # the limit that the client knows
        self.replaced = False
        self.news = asyncio.Event()
        self.mail = Mail(self.news.set)

    async def read(self) -> tuple[int, list[Record]] | None:
        """(results that are gone, results), as soon as there are any or mail, or the limit moved.

        None: nothing more will come; ``replaced`` says whether another client took over.
        """
        session = self.session
        while not self.replaced:
            missed, records = session.recent.after(self.cursor)
            if missed or records or self.mail or session.limit > self.told:
                if records:
                    self.cursor = records[-1]["seq"]
                elif missed:
                    self.cursor += missed
                session.missed += missed
                self.told = max(self.told, session.limit)
                return missed, records
            if session.ended and not self.mail.waiting:  # what was asked is answered
                return None
            self.news.clear()
            await self.news.wait()
        return None

    def detach(self) -> None:
        """The client is gone; the session waits for it."""
        if self.session.attached is self:
            self.session.attached, self.session.left = None, True
            self.session.hub.away(self.session)


class LiveSession(Held):
    """Made by :class:`Sessions`.

    Frames are numbered by their sender, from 0: each number is taken exactly once, so what is
    sent again after a disconnect does no harm. ``next`` is the number that is due, ``limit`` the
    first that may not be sent yet.
    """

    def __init__(self, hub: Hub, name: str, token: str, owner: str, spec: Spec, start: Start):
        self.hub, self.name, self.token, self.owner, self.spec = hub, name, token, owner, spec
        self.stream = self._add(start.carry, start.next)
        self.recent = Recent(hub.limits.keep, start.records, start.last)
        self.next = self.saved = start.next
        self.attached: Attachment | None = None
        self.left = False  # its client was here, and has gone
        self.ended: str | None = None  # why
        self.bad = self.skipped = self.repeated = self.missed = 0
        self.timer: asyncio.TimerHandle | None = None
        self.lasting = False  # it is fed by the server itself and waits for no client
        self.feed: Feed | None = None
        self.original_size: tuple[int, int] | None = None  # of the newest picture, as it was sent
        self.since = 0.0  # when its client left, on the event loop's clock
        self.parked: Carry = None  # its carry [1, ...], while others have its slot
        self._past = Snapshot()  # books of its streams before this one
        self._shifts = deque([(start.next, 0)])  # (engine index, ours - the engine's) from there on
        self._room = asyncio.Event()
        self._task = self._begin()

    def _add(self, carry: Carry, start: int) -> Stream:
        spec = self.spec
        return self.hub.engine.add(
            self.name, spec.fps, budget=spec.budget, policy=spec.policy, capacity=spec.capacity,
            worth=spec.worth, carry=carry, start=start,
        )  # fmt: skip

    def _begin(self) -> asyncio.Task[None]:
        return asyncio.create_task(self._read(), name=f"session {self.name}")

    # The client's side.

    @property
    def limit(self) -> int:
        """Frames with a lower number would be taken now."""
        return self.next + self.stream.credits

    @property
    def durable(self) -> int:
        """Frames with a lower number need not be sent again, whatever happens to this process."""
        return self.next if self.hub.recall is None else self.saved

    def offer(
        self,
        index: int,
        frame: np.ndarray,
        time: float | None = None,
        event: bool = False,
        original: tuple[int, int] | None = None,
    ) -> bool:
        """Takes uint8 RGB [h, w, 3] with its number, see :meth:`Stream.offer`; False: it had come
        before.

        Raises:
          ServeError: "gap", "no_credit", "draining": the frame is still the sender's; "closed".
          ValueError: wrong shape or type.
        """
        if not self.due(index):
            return False
        if self.hub.draining:
            raise ServeError("draining", "this server is shutting down; resume later or elsewhere")
        try:
            taken = self.stream.offer(frame, time, event=event, original=original)
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
        self._free()
        self.left = False
        after = min(max(after, 0), self.recent.last)
        self.ack(after)
        self.attached = Attachment(self, after)
        return self.attached

    # Without its slot.

    @property
    def parkable(self) -> bool:
        """Whether nobody would notice if others had its slot for a while."""
        stream = self.stream
        wanted = self.attached is not None or self.lasting or self.ended is not None
        busy = not stream.state.idle or stream.state.finishing or stream.unread
        return not (wanted or busy) and self.parked is None

    async def park(self) -> bool:
        """Gives its slot away and keeps its state here; False: it is in use after all."""
        if not self.parkable:
            return False
        stream, received = self.stream, self.stream.state.received
        try:
            carry = (await stream.snapshot())[1]
        except Exception:  # it was closed meanwhile, or its state went with a failed step
            return False
        if stream.state.received != received or not self.parkable:  # its client is back
            return False
        self.parked = carry
        self._task.cancel()
        self._past += stream.close()
        return True

    def unpark(self) -> None:
        """Takes a slot again and goes on where it was. Raises Refused: there is none."""
        if self.parked is None:
            return
        paused, start = self.stream.paused, self.stream.state.received
        self.stream = self._add(self.parked, start)
        self.parked, self._task = None, self._begin()
        if paused:
            self.stream.pause()

    def pause(self) -> None:
        """Stops serving it; parked, it comes back paused."""
        self.stream.state.paused |= self.parked is not None
        self.stream.pause()

    def resume(self) -> None:
        """Raises ServeError "refused": others took its share of the time."""
        self.stream.state.paused &= self.parked is None
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
        self.parked = None
        self.stream.close()
        self._wake()
        if self.attached is None:
            self.hub.away(self)

    async def state(self) -> tuple[Json, Carry]:
        """(plain data, carry [1, ...]) from which :class:`Start` goes on. Raises StreamClosed."""
        shifts = list(self._shifts)  # later ones begin at frames that the carry has not seen
        if self.parked is None:
            seen, carry = await self.stream.snapshot()
        else:
            seen, carry = self.stream.state.received, self.parked
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

    @property
    def books(self) -> Snapshot:
        """Where every frame of the session is."""
        return self._past + self.stream.books

    def report(self) -> Json:
        """For JSON: where the session is, and its books."""
        status = "paused" if self.stream.paused else "live"
        if self.parked is not None:
            status = "parked"
        return {
            "name": self.name,
            "state": self.ended or status,
            "attached": self.attached is not None,
            "source": None if self.feed is None else self.feed.report(),
            "fps": self.spec.fps,
            "policy": self.spec.policy,
            "frames": {
                **self.books.to_dict(),
                "bad": self.bad, "skipped": self.skipped, "repeated": self.repeated,
            },
            "results": {
                "last": self.recent.last, "acked": self.recent.acked, "missed": self.missed,
            },
        }  # fmt: skip
