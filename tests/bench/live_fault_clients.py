"""Faults of clients, of the server itself and of its store, seen from a client that counts."""

from __future__ import annotations

import asyncio
import functools
import json
import resource
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
from live_rig import Outcome, Rig

import streamzoo
from streamzoo.streaming import Session, Step
from streamzoo.streaming.serve.client import Client
from streamzoo.streaming.serve.wire import RAW, FrameMessage, pack
from tests.streaming import tiny
from tests.streaming.stub import video
from tests.streaming.test_serve_web import hear, line, say

RATE = 15
FRAMES = video(9, 150, tiny.SIZE)  # 10 s
OUTAGE = 3.0


@functools.cache
def expected() -> list[dict[str, float]]:
    """Class probabilities of a run that nothing interrupts."""
    model, params = streamzoo.init_params(tiny.NAME, seed=3)
    with Session(Step(model, params, tiny.CARD)) as session:
        return [
            dict(zip(tiny.CLASSES, tiny.scored(session.push(frame)), strict=False))
            for frame in FRAMES
        ]


def difference(got: dict[int, dict[str, float]]) -> float:
    """Largest difference of a probability from :func:`expected`."""
    want = expected()
    return float(max(abs(got[k][c] - want[k][c]) for k in got for c in tiny.CLASSES))


class Raw:
    """A connection without any help: numbers, answers and acknowledgements by hand."""

    def __init__(self, rig: Rig):
        self._line = line(rig)
        self.got: dict[int, dict[str, float]] = {}
        self.seq = self.missed = 0
        self.at: list[float] = []  # when the answers came

    async def begin(self, **message: Any) -> dict[str, Any]:
        self.socket = await self._line
        await say(self.socket, **message)
        return await hear(self.socket, "opened")

    async def send(self, index: int) -> None:
        frame = FRAMES[index % len(FRAMES)]
        data = FrameMessage(RAW, index, frame.tobytes(), None, False, *frame.shape[:2])
        await self.socket.send(pack(data))

    async def send_all(self, start: int, stop: int, rate: float = RATE) -> None:
        for index in range(start, stop):
            await self.send(index)
            await asyncio.sleep(1 / rate)

    async def listen(self, ack: bool = True) -> dict[str, Any] | None:
        """Until the end, which it returns; None: the connection is gone."""
        async for text in self.socket:
            message = json.loads(text)
            if message["type"] == "result":
                self.at.append(time.monotonic())
                self.got[message["index"]], self.seq = message.get("classes", {}), message["seq"]
                if ack:
                    await say(self.socket, type="ack", seq=self.seq)
            elif message["type"] == "missed":
                self.missed += message["count"]
            elif message["type"] == "end":
                return message
        return None

    def vanish(self) -> None:
        """As if the process were gone: the socket closes, nobody says goodbye."""
        self.socket.transport.abort()


LOSSLESS = {"type": "open", "fps": RATE, "policy": "lossless", "budget_ms": 10_000}


class Neighbour:
    """A client whom the fault of the other one must not disturb."""

    def __init__(self, rig: Rig):
        self._raw = Raw(rig)

    async def __aenter__(self) -> Neighbour:
        await self._raw.begin(type="open", fps=RATE, name="calm")
        self._tasks = [
            asyncio.create_task(self._raw.send_all(0, 10_000)),
            asyncio.create_task(self._raw.listen()),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._raw.socket.close()

    @property
    def longest(self) -> float:
        """Seconds without an answer, at most."""
        return float(np.diff(self._raw.at).max())


async def slow(home: Path) -> Outcome:
    """Sends for 10 s and reads nothing of it, then everything."""
    async with Rig(home) as rig, Neighbour(rig) as neighbour:
        raw, count = Raw(rig), 600
        await raw.begin(type="open", fps=60, policy="latest")
        await raw.send_all(0, count, 60)
        start = time.monotonic()
        listening = asyncio.create_task(raw.listen())
        await asyncio.sleep(1)
        await say(raw.socket, type="finish")
        end = await asyncio.wait_for(listening, 30)
        await raw.socket.close()
        assert end is not None
        books = end["frames"]
        lost = {**books["dropped"], "missed": raw.missed, "overwritten": books["overwritten"],
                "refused": books["refused"]}  # fmt: skip
        return Outcome(
            len(raw.got) > 0 and end["reason"] == "finished", raw.at[0] - start, count,
            len(raw.got), {k: v for k, v in lost.items() if v},
            count - len(raw.got) - sum(lost.values()), neighbour=neighbour.longest,
        )  # fmt: skip


async def vanished(home: Path) -> Outcome:
    """The client is gone in mid-stream, and comes back for its session."""
    async with Rig(home) as rig, Neighbour(rig) as neighbour:
        first = Raw(rig)
        opened = await first.begin(**LOSSLESS)
        listening = asyncio.create_task(first.listen())
        await first.send_all(0, 60)
        first.vanish()
        await asyncio.gather(listening, return_exceptions=True)
        await asyncio.sleep(OUTAGE)
        start, second = time.monotonic(), Raw(rig)
        again = await second.begin(type="resume", token=opened["token"], after=first.seq)
        listening = asyncio.create_task(second.listen())
        await second.send_all(again["next"], len(FRAMES))
        await say(second.socket, type="finish")
        end = await asyncio.wait_for(listening, 30)
        got = first.got | second.got
        return Outcome(
            end is not None and end["reason"] == "finished", second.at[0] - start, len(FRAMES),
            len(got), {}, len(FRAMES) - len(got), difference(got), neighbour.longest,
        )  # fmt: skip


async def counted(rig: Rig, fault: Callable[[Client], Awaitable[float]], **options: Any) -> Outcome:
    """A lossless client through a fault, which returns its end; every answer is compared."""
    got: dict[int, dict[str, float]] = {}
    at: list[float] = []
    async with Client(rig.address, fps=RATE, policy="lossless", budget_ms=10_000, **options) as c:

        async def send() -> None:
            for frame in FRAMES:
                await c.send(frame)
                await asyncio.sleep(1 / RATE)
            await c.finish()

        async def read() -> None:
            async for result in c:
                got[result.index] = dict(result.classes)
                at.append(time.monotonic())

        tasks = [asyncio.create_task(work()) for work in (send, read)]
        while len(got) < 30:
            await asyncio.sleep(0.01)
        ended = await fault(c)
        await asyncio.wait_for(asyncio.gather(*tasks), 120)
        reason = c.end["reason"] if c.end else ""
        lost = {k: v for k, v in (("missed", c.missed), ("lost", c.lost)) if v}
    after = [t for t in at if t > ended]
    return Outcome(
        reason == "finished", after[0] - ended if after else 0.0, len(FRAMES), len(got), lost,
        len(FRAMES) - len(got) - sum(lost.values()), difference(got),
        note=f"{c.reconnects} reconnects; longest wait {np.diff(at).max():.1f} s",
    )  # fmt: skip


async def killed(home: Path) -> Outcome:
    """kill -9, and a new server on the same store."""
    rig = Rig(home, slots=2)
    rig.words = ("--store", rig.folder / "store", "--snapshot-every", 0.2)
    async with rig:

        async def fault(_: Client) -> float:
            rig.process.kill()
            start = time.monotonic()
            await asyncio.to_thread(rig.process.wait)
            await asyncio.sleep(0.2)  # what was on its way to the client has come
            waits.append(time.monotonic() - start)
            await rig.start()
            return start + waits[0]

        waits: list[float] = []
        outcome = await counted(rig, fault, patience=120)
        outcome.seconds += waits[0]
        return outcome


def blocked(folder: Path) -> None:
    """A file takes the folder's place, though the server writes there and makes it anew."""
    while True:
        away = folder.rename(folder.with_name(f"{folder.name}-gone"))
        shutil.rmtree(away)
        try:
            folder.touch(exist_ok=False)
            return
        except FileExistsError:
            continue


async def store(home: Path, kind: str) -> Outcome:
    """The store fails for a while; then states are saved again, and a kill -9 finds them."""
    rig = Rig(home, slots=2)
    folder = rig.folder / "store"
    rig.words = ("--store", folder, "--snapshot-every", 0.2)

    def newest() -> float:
        times = [p.stat().st_mtime for p in folder.rglob("carry-*") if p.exists()]
        return max(times, default=0.0)

    async with rig:

        async def fault(_: Client) -> float:
            limit = resource.prlimit(rig.process.pid, resource.RLIMIT_FSIZE)
            if kind == "gone":  # a file in its place: nothing can be made there
                blocked(folder)
            else:  # as a full disk: no byte more
                resource.prlimit(rig.process.pid, resource.RLIMIT_FSIZE, (0, limit[1]))
            await asyncio.sleep(OUTAGE)
            if kind == "gone":
                folder.unlink()
            else:
                resource.prlimit(rig.process.pid, resource.RLIMIT_FSIZE, limit)
            wall, start = time.time(), time.monotonic()
            while newest() < wall:
                await asyncio.sleep(0.02)
            saved.append(time.monotonic() - start)
            return start

        saved: list[float] = []
        outcome = await counted(rig, fault)
        outcome.seconds = saved[0]
        return outcome


async def two_writers(home: Path) -> Outcome:
    """A session goes on at a second server; a client of the first still feeds its old copy."""
    rig = Rig(home, slots=2)
    words = ("--store", rig.folder / "store", "--snapshot-every", 0.2)
    rig.words, there = words, Rig(home, *words, slots=2)
    async with rig, there:
        first = Raw(rig)
        opened = await first.begin(**LOSSLESS)
        token, listening = opened["token"], asyncio.create_task(first.listen())
        await first.send_all(0, 60)
        await asyncio.sleep(0.5)
        first.vanish()
        await asyncio.gather(listening, return_exceptions=True)
        second, stale = Raw(there), Raw(rig)
        again = await second.begin(type="resume", token=token, after=first.seq)
        old = await stale.begin(type="resume", token=token, after=first.seq)
        tasks = [asyncio.create_task(r.listen()) for r in (second, stale)]
        start = time.monotonic()

        async def insist() -> None:  # black frames: were they saved, the results would differ
            for index in range(old["next"], len(FRAMES)):
                data = np.zeros_like(FRAMES[0])
                frame = FrameMessage(RAW, index, data.tobytes(), None, False, *data.shape[:2])
                await stale.socket.send(pack(frame))
                await asyncio.sleep(1 / RATE)

        insisting = asyncio.create_task(insist())
        sending = asyncio.create_task(second.send_all(again["next"], len(FRAMES)))
        refused = await asyncio.wait_for(tasks[1], 30)
        seconds = time.monotonic() - start
        insisting.cancel()
        await sending
        await say(second.socket, type="finish")
        end = await asyncio.wait_for(tasks[0], 30)
        await asyncio.gather(insisting, return_exceptions=True)
        got = {k: v for k, v in first.got.items() if k < again["next"]} | second.got
        moved = refused is not None and refused["reason"] == "moved"
        return Outcome(
            moved and end is not None and end["reason"] == "finished", seconds, len(FRAMES),
            len(got), {}, len(FRAMES) - len(got), difference(got),
            note=f"seconds until the old writer was refused; it answered {len(stale.got)} frames",
        )  # fmt: skip


def failing(kind: str) -> Callable[[Path], Awaitable[Outcome]]:
    return lambda home: store(home, kind)


FAULTS = {
    "client_slow": (slow, "client reads nothing for 10 s at 60 frames/s"),
    "client_vanish": (vanished, f"client gone without a word, back after {OUTAGE:g} s"),
    "server_kill": (
        killed,
        "server killed with -9; seconds from there, with the start of the program",
    ),
    "store_gone": (
        failing("gone"),
        f"snapshot folder removed, blocked for {OUTAGE:g} s; seconds to the next state",
    ),
    "store_full": (
        failing("full"),
        f"no byte can be written for {OUTAGE:g} s; seconds to the next state",
    ),
    "two_writers": (
        two_writers,
        "an old server writes after another took over; seconds until it is refused",
    ),
}
