"""Faults of cameras: each disturbs one of two streams for a while and counts what came of it."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from live_rig import Follower, Outcome, Rig

from tests.streaming.rtsp import FPS, Camera, RtspServer, make_clip, ts

SPAN = 10.0  # seconds that a fault and what follows are watched
OUTAGE = 3.0  # seconds that a source is away
RATE = 15  # frames per second that are asked for


def lost(report: dict) -> Counter[str]:
    """Frames of a stream that were not answered, by reason."""
    source = report["source"]
    return Counter({**source["dropped"], "missed": source["missed"], **report["frames"]["dropped"]})


async def watched(
    rig: Rig,
    sent: Callable[[], float],
    fault: Callable[[Follower], Awaitable[tuple[float, float]]],
    paused: float = 0.0,
) -> Outcome:
    """Two streams, ``cam0`` with the fault; ``fault`` waits until its cause is gone.

    It returns when the fault began and when it ended, monotonic seconds. ``sent``: frames that the
    camera has made so far. ``paused``: seconds for which its timestamps stood still.
    """
    victim, other = Follower(rig, "cam0"), Follower(rig, "cam1")
    try:
        if not await victim.until(lambda: len(victim.seen) > RATE, 60):
            raise RuntimeError("no answers before the fault")
        await asyncio.sleep(2)  # what waited while FFmpeg found out about the stream is through
        before, made = await rig.ask("/streams/cam0"), sent()
        began, ended = await fault(victim)
        wall = ended + time.time() - time.monotonic() - paused
        after = lambda: [at for at, r in victim.seen if at > ended and r["time"] >= wall]
        back = await victim.until(lambda: bool(after()), 30)
        await asyncio.sleep(max(2.0, began + SPAN - time.monotonic()))
        report, due, now = await rig.ask("/streams/cam0"), round(sent() - made), time.monotonic()
        first = after()[0] if back else now
        again = len(victim.between(now - 2, now)) > RATE  # half of its frames and more
        frames, source = report["frames"], report["source"]
        gone = lost(report) - lost(before)  # what is above 0
        answered = frames["completed"] - before["frames"]["completed"]
        running = frames["in_flight"] - before["frames"]["in_flight"]
        balance = frames["received"] - frames["completed"] - frames["in_flight"]
        exact = balance == sum(frames["dropped"].values())
        return Outcome(
            back and again and exact, first - ended, due, answered, dict(gone),
            due - answered - running - gone.total(),
            neighbour=other.longest(began, now),
            note=f"{source['reconnects']} reconnects, {source['stalls']} stalls, "
            f"{source['corrupt']} corrupt; away {first - began:.1f} s",
        )  # fmt: skip
    finally:
        victim.stop()
        other.stop()


def calm(folder: Path) -> Path:
    """The other stream: a file that plays as a camera."""
    return make_clip(folder / "calm.mp4", frames=100, fps=RATE)


async def with_server(home: Path, number: int) -> Outcome:
    """An RTSP server is killed, or stopped, and comes back."""
    rig = Rig(home)
    make_clip(rig.folder / "cam.mp4", frames=1500, gop=25)
    server = RtspServer(rig.folder).start()
    rig.words = ("--fps", RATE, "--stream", server.address, "--stream", calm(rig.folder))

    async def fault(_: Follower) -> tuple[float, float]:
        began = time.monotonic()
        server.signal(number)
        await asyncio.sleep(OUTAGE)
        if number == signal.SIGKILL:
            await asyncio.to_thread(server.start)
        else:
            server.signal(signal.SIGCONT)
        return began, time.monotonic()

    try:
        async with rig:
            return await watched(rig, lambda: 25 * time.monotonic(), fault)
    finally:
        server.signal(signal.SIGKILL)


async def killed(home: Path) -> Outcome:
    return await with_server(home, signal.SIGKILL)


async def stopped(home: Path) -> Outcome:
    return await with_server(home, signal.SIGSTOP)


def damaged(data: bytes, seed: int) -> bytes:
    """A third of the bytes wrong."""
    rng, bad = random.Random(seed), bytearray(data)
    for at in range(len(bad)):
        if rng.random() < 0.3:
            bad[at] = rng.randrange(256)
    return bytes(bad)


async def scripted(home: Path, kind: str) -> Outcome:
    """MPEG-TS over TCP from a camera that misbehaves; see :class:`Camera`."""
    rig = Rig(home)
    part, rest = ts(rig.folder / "a.ts", 6 * FPS), ts(rig.folder / "b.ts", 20 * FPS)
    first, second = (len(rest) * k // 10 // 188 * 188 for k in (3, 4))  # packets of MPEG-TS
    third = rest[first:second]
    scripts = {
        "reset": [[(part, 6.0), "reset"], [(rest, 20.0)]],
        "stall": [[(rest[:first], 6.0), 1.5, (rest[first:], 14.0)]],
        "corrupt": [[(rest[:first], 6.0), (damaged(third, 0), 2.0), (rest[second:], 12.0)]],
        "resolution": [[(part, 6.0), (ts(rig.folder / "c.ts", 20 * FPS, (96, 80)), 20.0)]],
    }
    steps = {"reset": (0, 1), "stall": (0, 2), "corrupt": (0, 2), "resolution": (0, 1)}
    with Camera(*scripts[kind], [(rest, 20.0)]) as camera:
        rig.words = ("--fps", RATE, "--stream", camera.address, "--stream", calm(rig.folder))

        async def fault(victim: Follower) -> tuple[float, float]:
            log = lambda: {tuple(step): at for at, *step in camera.log}
            if not await victim.until(lambda: steps[kind] in log(), 60):
                raise RuntimeError(f"the camera never came to its fault: {camera.log}")
            return log().get((0, 1), time.monotonic()), log()[steps[kind]]

        async with rig:
            return await watched(rig, lambda: camera.sent, fault, 1.5 if kind == "stall" else 0.0)


def script(kind: str) -> Callable[[Path], Awaitable[Outcome]]:
    return lambda home: scripted(home, kind)


FAULTS = {
    "source_kill": (killed, f"RTSP server SIGKILLed, back after {OUTAGE:g} s"),
    "source_stop": (stopped, f"RTSP server SIGSTOPped for {OUTAGE:g} s"),
    "tcp_reset": (script("reset"), "camera resets its TCP connection"),
    "stall": (script("stall"), "camera silent for 1.5 s, connection open"),
    "corrupt": (script("corrupt"), "30 % of the bytes wrong for 2 s"),
    "resolution": (script("resolution"), "48 x 64 becomes 96 x 80 in mid-stream"),
}
