"""One stream of sound in the server: its samples in, words out, exactly counted.

    received = heard + waiting + dropped

All are samples. A sample has a number, from 0, and is heard once however often it is sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Protocol

import numpy as np

from ...layers.streaming import Json
from ..listening import RATE, Listener, Utterance
from .held import Held
from .limits import Limits, ServeError
from .recent import Recent
from .workers import HEARING

ROOM = 8 * RATE  # samples that wait at most
AT_ONCE = RATE  # samples that are heard in one go, so that others have their turn


class Hub(Protocol):
    """What a session asks of the one that keeps all of them."""

    limits: Limits
    draining: bool

    @property
    def keeps(self) -> bool: ...
    def away(self, session: SoundSession) -> None: ...


class Attached:
    """One client's hold on a session; a newer one takes its place."""

    def __init__(self, session: SoundSession, after: int):
        self.session, self.cursor, self.told = session, after, -1
        self.maybe: Json | None = None
        self.replaced = False
        self.news = asyncio.Event()

    async def read(self) -> tuple[int, list[Json], Json | None] | None:
        """(results that are gone, results, what may still change), as soon as there is news; None:
        nothing more will come."""
        session = self.session
        while not self.replaced:
            missed, records = session.recent.after(self.cursor)
            maybe = session.maybe if session.maybe != self.maybe else None
            if missed or records or maybe is not None or session.limit > self.told:
                self.cursor = records[-1]["seq"] if records else self.cursor + missed
                self.maybe, self.told = session.maybe, max(self.told, session.limit)
                session.missed += missed
                return missed, records, maybe
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


class SoundSession(Held):
    """Made by :class:`~.sounds.Sounds`.

    ``next`` is the number of the sample that is due, ``limit`` the first that may not be sent yet,
    ``durable`` the first that has to be sent again should this process die.
    """

    def __init__(
        self, hub: Hub, name: str, token: str, owner: str, listener: Listener, start: Json
    ):
        self.hub, self.name, self.token, self.owner = hub, name, token, owner
        self.listener = listener
        self.next = self.place = self.saved = start.get("next", 0)  # place: to be heard next
        self.heard, self.dropped = start.get("heard", 0), start.get("dropped", 0)
        self.received, self.skipped = self.heard + self.dropped, start.get("skipped", 0)
        self.repeated = 0
        self.recent = Recent(hub.limits.keep, start.get("records", ()), start.get("last", 0))
        self.maybe: Json = {}
        self.attached: Attached | None = None
        self.ended: str | None = None
        self.missed = 0
        self.timer: asyncio.TimerHandle | None = None
        self.idle = asyncio.Lock()  # held while its listener hears
        self._waiting: deque[np.ndarray | int] = deque()  # a number: those before it are lost
        self._finishing = False
        self._work = asyncio.Event()
        self._task = asyncio.create_task(self._hear(), name=f"sound {name}")

    # The client's side.

    @property
    def waiting(self) -> int:
        """Samples that were received and not heard yet."""
        return self.received - self.heard - self.dropped

    @property
    def limit(self) -> int:
        """Samples with a lower number would be taken now."""
        return self.next + max(0, ROOM - self.waiting)

    @property
    def durable(self) -> int:
        """Samples with a lower number need not be sent again, whatever happens to this process."""
        return self.saved if self.hub.keeps else self.next

    def offer(self, index: int, samples: np.ndarray) -> None:
        """Takes int16 [T], the first of which has the number ``index``; what came before is left
        out.

        Raises:
          ServeError: "gap": others are due first; "no_credit", "draining", "closed": the samples
            are still the sender's.
        """
        if self.ended or self._finishing:
            raise ServeError("closed", f"session {self.name} hears nothing any more")
        if self.hub.draining:
            raise ServeError("draining", "this server is shutting down; resume later or elsewhere")
        if index > self.next:
            raise ServeError(
                "gap",
                f"sample {index} came and {self.next} is due; send that one, or "
                f'{{"type": "skip", "to": {index}}} if those before it are lost',
            )
        known = min(self.next - index, len(samples))
        self.repeated += known
        fresh = samples[known:]
        if not len(fresh):
            return
        if self.next + len(fresh) > self.limit:
            end = self.next + len(fresh)
            raise ServeError("no_credit", f"samples up to {end} came and the limit is {self.limit}")
        self._waiting.append(fresh.astype(np.float32) / 32768)
        self.next += len(fresh)
        self.received += len(fresh)
        self._work.set()

    def skip(self, to: int) -> None:
        """The sender has lost its samples before ``to``: what was being said ends there. Raises
        ServeError: it went backwards."""
        if to < self.next:
            raise ServeError("bad_request", f"skip to {to}: sample {self.next} is due already")
        if to == self.next:
            return
        self.skipped += to - self.next
        self._waiting.append(to)
        self.next = to
        self._work.set()

    def finish(self) -> None:
        """No more samples; the session ends after its last word."""
        self._finishing = True
        self._work.set()

    def ack(self, seq: int) -> None:
        """The client has all results up to ``seq``."""
        self.recent.ack(seq)

    def attach(self, after: int = 0) -> Attached:
        """A client that has the results up to ``after``. It takes the place of any other. Results
        that it has and this process, which went on from an older state, has not, come again under
        their numbers, and are not sent again."""
        self._free()
        self.ack(after)
        self.attached = Attached(self, max(0, after))
        return self.attached

    # The listener's side.

    async def _hear(self) -> None:
        try:
            while not self.ended:
                while not self._waiting and not self._finishing:
                    self._work.clear()
                    await self._work.wait()
                async with self.idle:
                    sound = self._batch()
                    ends = self._finishing and not self._waiting
                    found = await HEARING.run(self._listen, sound, ends)
                    if isinstance(sound, int):
                        self.place = sound
                    else:
                        self.place, self.heard = self.place + len(sound), self.heard + len(sound)
                    for said in found:
                        self._told(said)
                self._wake()
                if ends:
                    self.end("finished")
        except Exception as error:  # a defect ends this session and no other
            self.end(f"server error: {error!r}")
            raise

    def _batch(self) -> np.ndarray | int:
        parts: list[np.ndarray] = []
        while self._waiting and sum(map(len, parts)) < AT_ONCE:
            part = self._waiting[0]
            if isinstance(part, int):
                if parts:
                    break
                self._waiting.popleft()
                return part
            self._waiting.popleft()
            parts.append(part)
        return np.concatenate([*parts, np.zeros(0, np.float32)])

    def _listen(self, sound: np.ndarray | int, ends: bool) -> list[Utterance]:
        """In a thread."""
        if isinstance(sound, int):
            found = list(self.listener.jump(sound))
        else:
            found = list(self.listener.push(sound)) if len(sound) else []
        return found + (list(self.listener.flush()) if ends else [])

    def _told(self, said: Utterance) -> None:
        self.maybe = {"utterance": said.number, "text": "" if said.final else said.maybe}
        if said.fresh or said.final:
            self.recent.add(record_of(said))

    async def state(self) -> tuple[Json, dict[str, np.ndarray]]:
        """(plain data, arrays) from which another process goes on."""
        async with self.idle:
            listener, arrays = self.listener.state()
            plain: Json = {
                "name": self.name, "owner": self.owner, "listener": listener, "next": self.place,
                "heard": self.heard, "dropped": self.dropped, "skipped": self.skipped,
                "last": self.recent.last, "records": self.recent.after(self.recent.acked)[1],
            }  # fmt: skip
        return plain, arrays

    def end(self, why: str) -> None:
        """Nothing more will come; the first reason stays. What waits is dropped, and counted."""
        if self.ended is None:
            self.ended = why
            self.dropped += self.waiting
            self._waiting.clear()
        self._wake()
        if self.attached is None:
            self.hub.away(self)

    def report(self) -> Json:
        """For JSON: where the session is, and its books in samples."""
        return {
            "name": self.name, "state": self.ended or "live", "kind": "sound", "rate": RATE,
            "attached": self.attached is not None, "caption": self.caption,
            "samples": {
                "received": self.received, "heard": self.heard, "waiting": self.waiting,
                "dropped": self.dropped, "skipped": self.skipped, "repeated": self.repeated,
            },
            "results": {"last": self.recent.last, "acked": self.recent.acked,
                        "missed": self.missed},
        }  # fmt: skip

    @property
    def caption(self) -> Json:
        """The newest words: those that stay, and those that may still change."""
        records = self.recent.after(max(0, self.recent.last - 12))[1]
        kept = " ".join(word["text"] for record in records for word in record["words"])
        return {"text": kept[-160:], "maybe": str(self.maybe.get("text", ""))[-160:]}


def record_of(said: Utterance) -> Json:
    """Words that became final, for JSON; with the last of an utterance, where it was said."""
    new: list[Any] = list(said.words[len(said.words) - said.fresh :])
    row: Json = {
        "utterance": said.number, "heard": round(said.heard, 3), "final": said.final,
        "words": [
            {"text": w.text, "start": round(w.start, 3), "end": round(w.end, 3)} for w in new
        ],
    }  # fmt: skip
    if said.final:
        row |= {"start": round(said.start, 3), "end": round(said.end, 3), "text": said.text}
    return row
