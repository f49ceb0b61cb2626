"""Measures a cluster of replicas on this machine and writes results/cluster.{json,md}.

python tests/bench/cluster.py [--kills 3] [--python-proxy]

A tiny student on a local Ray. Every session is checked too: nothing lost, nothing begun anew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # for tests.*

from streamzoo.streaming.cluster.client import ClusterClient
from tests.streaming import tiny
from tests.streaming.clustered import Rig

SLOW = {"policy": "lossless", "budget_ms": 60000, "patience": 120}
PICTURE = np.random.default_rng(0).integers(0, 250, (224, 224, 3), np.uint8)
ROWS = {
    "start": "from nothing to the first replica, s",
    "place": "a session placed by the ingress (new HTTP connection each), ms",
    "round_trip": "frame to its answer, directly at the replica, ms",
    "transport": "of it outside the engine, ms",
    "scale_up": "a client waits for a slot: until it has one on a new replica, s",
    "moved": "sessions that moved when the replica came",
    "sticky": "reconnections that came back to their replica",
    "drain_gap": "longest wait for an answer while the replica was drained, s",
    "kill_gap": "from SIGKILL of the replica to the next answer, s",
    "directory_gap": "from SIGKILL of the ingress until it knows every session again, s",
    "directory_wait": "longest wait of a stream for an answer meanwhile, s",
}


SHORT = """## Where it falls short

- Tried on one machine only. `--ray-address` joins a Ray of several, and then every machine must
  reach the `--store` folder (atomic rename, hard links, O_EXCL) and the weights.
- Ray Serve chooses which replica goes when there are too many: one on the emptiest machine, the
  newest first. It may be the busier one; each of its sessions is saved and goes on elsewhere, at
  the price of the wait above.
- Open sessions are not spread again. A replica that came for late answers takes new sessions, and
  those of replicas that end, not the ones that are late; the engine's own fair shares are all
  that helps those.
- A state is written whole, to the shared folder, at most every `--snapshot-every` seconds, and
  the client sends again what came after: with carries of tens of MB the folder is the limit.
  There are no deltas.
- The directory is one process. While it is down (the wait above) nobody is placed or placed anew;
  streams go on.
- HAProxy's status and metrics pages listen on every address, on free ports; Ray offers no other
  choice. After `kill -9` of `streamzoo cluster` itself, HAProxy stays and holds the ingress's
  port: end it by its process id.
- No TLS at the ingress or the replicas, no gRPC and no page for the cluster as a whole; each
  replica has its own page at its endpoint. With one slot per replica there is always a spare one,
  and never fewer than one replica.
- A group of streams cannot be larger than one replica has slots, and does not move to make room
  for one more.
"""


class Talk:
    """A session at a steady rate; ``seen``: (monotonic seconds, result)."""

    def __init__(self, rig: Rig, fps: float = 20.0, **options: Any):
        self.client, self.fps = ClusterClient(rig.address, fps=fps, **SLOW, **options), fps
        self.sent: list[float] = []
        self.seen: list[tuple[float, Any]] = []

    async def __aenter__(self) -> Talk:
        await self.client.__aenter__()
        self.tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._hear())]
        return self

    async def _send(self) -> None:
        while True:
            await self.client.send(PICTURE)
            self.sent.append(time.monotonic())
            await asyncio.sleep(1 / self.fps)

    async def _hear(self) -> None:
        async for result in self.client:
            self.seen.append((time.monotonic(), result))

    async def __aexit__(self, *_: object) -> None:
        self.tasks[0].cancel()
        async with asyncio.timeout(30):  # the answers that are due
            while len(self.seen) < len(self.sent):
                await asyncio.sleep(0.01)
        self.tasks[1].cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.client.close()
        assert [r.index for _, r in self.seen] == list(range(len(self.seen))), "a frame is missing"
        assert self.client.lost == self.client.missed == self.client.restarts == 0

    @property
    def endpoint(self) -> str:
        return self.client.places[-1]["endpoint"]

    async def gap(self, since: float, until: Any) -> float:
        """Longest wait for an answer from ``since`` on, until the awaitable is done and over."""
        await until
        await asyncio.sleep(1.0)
        times = [since, *(at for at, _ in self.seen if at > since)]
        return max(b - a for a, b in zip(times, times[1:], strict=False))


def spread(values: list[float]) -> dict[str, float]:
    """Median, 99th percentile and count."""
    p50, p99 = np.percentile(values, [50, 99])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "n": len(values)}


async def round_trips(rig: Rig, found: dict[str, Any]) -> None:
    async with Talk(rig) as talk:
        await asyncio.sleep(15)
        pairs = list(zip(talk.sent, talk.seen, strict=False))[20:]
        found["round_trip"] = spread([1e3 * (at - sent) for sent, (at, _) in pairs])
        found["transport"] = spread(
            [1e3 * (at - sent) - result.latency_ms for sent, (at, result) in pairs]
        )


async def placements(rig: Rig, found: dict[str, Any]) -> None:
    times, client = [], ClusterClient(rig.address)
    for _ in range(200):
        start = time.monotonic()
        client._failed = None
        await client._address()  # always the same session: it holds one slot at most
        times.append(1e3 * (time.monotonic() - start))
    found["place"] = spread(times)


async def grow_and_shrink(rig: Rig, found: dict[str, Any]) -> None:
    await rig.until(lambda s: not s["sessions"], 30)  # of what was measured before
    stays = await Talk(rig, fps=5).__aenter__()
    filler = await Talk(rig, fps=5).__aenter__()
    where, start = [stays.endpoint, filler.endpoint], time.monotonic()
    new = await Talk(rig).__aenter__()
    found["scale_up"] = round(time.monotonic() - start, 2)
    talks = [stays, filler, new]
    found["moved"] = (
        f"{sum(a != t.endpoint for a, t in zip(where, talks, strict=False))} of {len(where)}"
    )

    kept = tries = 0
    for talk in talks * 5:
        place, count = talk.endpoint, talk.client.reconnects
        if talk.client._line is not None:
            await talk.client._line.close()
        while talk.client.reconnects == count:
            await asyncio.sleep(0.02)
        kept, tries = kept + (talk.endpoint == place), tries + 1
    found["sticky"] = f"{kept} of {tries}"

    state = await rig.state()
    start = time.monotonic()
    os.kill(state["pid"], signal.SIGKILL)
    all_known = rig.until(
        lambda s: s["generation"] > state["generation"] and len(s["sessions"]) == 3, 90
    )
    task = asyncio.ensure_future(all_known)
    found["directory_wait"] = round(await new.gap(start, task), 2)
    found["directory_gap"] = round(task.result()[1], 2)

    old, start = new.endpoint, time.monotonic()
    await filler.__aexit__()  # what is left fits on one
    left = rig.until(lambda s: len(s["replicas"]) == 1, 90)
    found["drain_gap"] = round(await new.gap(start, asyncio.ensure_future(left)), 2)
    assert new.endpoint != old, "Serve has kept the newer replica"
    await new.__aexit__()
    await stays.__aexit__()


async def kills(rig: Rig, found: dict[str, Any], count: int) -> None:
    found["kill_gap"] = []
    for _ in range(count):
        await rig.until(lambda s: len(s["replicas"]) == 2, 90)
        async with Talk(rig) as talk:
            await asyncio.sleep(2)
            state, place = await rig.state(), talk.endpoint
            pid = next(r["pid"] for r in state["replicas"].values() if r["endpoint"] == place)
            os.kill(pid, signal.SIGKILL)
            start = time.monotonic()
            while talk.endpoint == place or talk.seen[-1][0] < start:
                await asyncio.sleep(0.005)
            found["kill_gap"].append(round(talk.seen[-1][0] - start, 2))


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    home = Path(tempfile.gettempdir()) / "streamzoo-live-home"  # keeps the compiled programs
    home.mkdir(exist_ok=True)
    tiny.add(home)
    folder = Path(tempfile.mkdtemp(prefix="streamzoo-"))
    words = {"scaling": {"high": 1.0, "low": 1.0}, "up": 0.5, "down": 4.0}
    words |= {"haproxy": False} if args.python_proxy else {}
    start = time.monotonic()
    async with Rig(home, folder / "a", folder / "log-a", replicas=(1, 2), **words) as rig:
        found["start"] = round(time.monotonic() - start, 1)
        await placements(rig, found)
        await round_trips(rig, found)
        await grow_and_shrink(rig, found)
    async with Rig(home, folder / "b", folder / "log-b", replicas=(2, 2), **words) as rig:
        await kills(rig, found, args.kills)
    return found


def report(results: dict[str, Any]) -> str:
    """As Markdown."""
    columns = [name for name in results if name != "machine"]
    lines = [
        "# A cluster of replicas", "",
        f"`python tests/bench/cluster.py`, and with `--python-proxy`; {results['machine']}. "
        "A tiny student on a local Ray: one to two replicas of 2 slots, a snapshot every 0.1 s, "
        "frames of 224 x 224 x 3 raw bytes, 20 per second. Every session was checked: each frame "
        "answered once and in order, none lost, missed or begun anew. Frames do not pass the "
        "proxy: only placing differs by it, everything else by what the machine did besides.", "",
        f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}",
    ]  # fmt: skip
    for key, text in ROWS.items():
        cells = [cell(results[c].get(key, "")) for c in columns]
        lines.append(f"| {text} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", SHORT])


def cell(value: Any) -> str:
    if isinstance(value, dict):
        return f"p50 {value['p50']:.2f}, p99 {value['p99']:.2f} ({value['n']})"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--kills", type=int, default=3, help="(%(default)s)")
    p.add_argument("--python-proxy", action="store_true", help="Ray's own, instead of HAProxy")
    p.add_argument("--out", type=Path, default=HERE / "results" / "cluster.json")
    args = p.parse_args()
    found = asyncio.run(measure(args))
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[2]
    results["machine"] = (
        f"{cores} core(s) {platform.machine()}, shared with other work (load average {load:.1f})"
    )
    results["Python proxy" if args.python_proxy else "HAProxy"] = found
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    args.out.with_suffix(".md").write_text(report(results))
    print(report(results))


if __name__ == "__main__":
    main()
