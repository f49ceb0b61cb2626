"""A live server for long: does it grow, and does it get slower?

    python tests/bench/live_soak.py                  # 8 streams, 20 minutes, and the report
    python tests/bench/live_soak.py --minutes 3 --out /tmp/soak.json
    python tests/bench/live_soak.py --every 1 --out /tmp/often.json   # ten times the reconnects

`streamzoo serve` with a tiny student in a process of its own; half of the streams are cameras
(MPEG-TS over TCP), half are clients (WebSocket). Every stream loses its connection every 10 s, by a
TCP reset, and takes it up again. Targets: resident memory grows by less than 1 MB per 1,000
reconnects, threads and open files do not, and the last five minutes' p99 is at most 1.1 times the
first five's (of a shorter run: the last and the first quarter). The slope is fitted to what follows
the first quarter: until then buffers fill; with `--every 1` it is that of many more reconnects.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from live_rig import Rig

from streamzoo.streaming.serve.client import Client
from tests.streaming import tiny
from tests.streaming.rtsp import FPS, Camera, ts
from tests.streaming.stub import video

HERE = Path(__file__).resolve().parent
STREAMS, RATE = 8, 10
BUDGET = 2000  # milliseconds: a slow machine is not what is tested
FRAMES = video(3, 64, tiny.SIZE)


class Caller:
    """A client that sends for ever and loses its connection now and then."""

    def __init__(self, rig: Rig, latencies: list[tuple[float, float]]):
        self._rig, self._latencies, self._sent = rig, latencies, {}
        self.reconnects = self.sent = self.answered = 0

    async def run(self, delay: float, every: float) -> None:
        async with Client(self._rig.address, fps=RATE, budget_ms=BUDGET, patience=60) as client:
            tasks = [self._send(client), self._read(client), self._cut(client, delay, every)]
            await asyncio.gather(*tasks)

    async def _send(self, client: Client) -> None:
        due = time.monotonic()
        while True:
            index = await client.send(FRAMES[self.sent % len(FRAMES)])
            self._sent[index] = time.monotonic()
            self._sent.pop(index - 1024, None)
            self.sent += 1
            due = max(due + 1 / RATE, time.monotonic() - 1)
            await asyncio.sleep(due - time.monotonic())

    async def _read(self, client: Client) -> None:
        async for result in client:
            self.answered += 1
            if result.index in self._sent:
                now = time.monotonic()
                self._latencies.append((now, now - self._sent.pop(result.index)))

    async def _cut(self, client: Client, delay: float, every: float) -> None:
        await asyncio.sleep(delay)
        while True:
            if client._line is not None:  # as a network does it: without a word
                client._line.transport.abort()
            await asyncio.sleep(every)
            self.reconnects = client.reconnects


async def sample(rig: Rig, callers: list[Caller], start: float) -> dict[str, Any]:
    rows = (await rig.ask("/streams"))["streams"]
    sources = [row["source"] for row in rows if row["source"]]
    balanced = all(
        f["received"] == f["completed"] + sum(f["dropped"].values()) + f["in_flight"]
        for f in (row["frames"] for row in rows)
    )
    back = sum(s["reconnects"] for s in sources) + sum(c.reconnects for c in callers)
    return {
        "seconds": time.monotonic() - start,
        "reconnects": back,
        **rig.counts(),
        "streams": len(rows),
        "balanced": balanced,
        "completed": sum(row["frames"]["completed"] for row in rows),
    }


async def soak(minutes: float, every: float, home: Path) -> dict[str, Any]:
    """{samples, latencies: [(seconds, seconds)]}."""
    rig, samples = Rig(home, slots=STREAMS), []
    latencies: list[tuple[float, float]] = []
    clip = ts(rig.folder / "clip.ts", round(every * FPS))
    with contextlib.ExitStack() as stack:
        words: list[Any] = ["--fps", RATE, "--budget-ms", BUDGET]
        for number in range(STREAMS // 2):
            first = [(clip[: len(clip) * (number + 1) // 4], every * (number + 1) / 4), "reset"]
            camera = Camera(first, [(clip, every), "reset"])
            words += ["--stream", stack.enter_context(camera).address]
        rig.words = tuple(words)
        async with rig:
            start = time.monotonic()
            callers = [Caller(rig, latencies) for _ in range(STREAMS - STREAMS // 2)]
            tasks = [
                asyncio.create_task(caller.run(every * (k + 1) / len(callers), every))
                for k, caller in enumerate(callers)
            ]
            while (now := time.monotonic() - start) < 60 * minutes:
                for task in tasks:
                    if task.done():
                        task.result()
                if now > 10:
                    samples.append(await sample(rig, callers, start))
                    if len(samples) % 12 == 1:
                        print(json.dumps(samples[-1]), flush=True)
                await asyncio.sleep(5)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return {"samples": samples, "latencies": [(at - start, s) for at, s in latencies]}


def judge(run: dict[str, Any], minutes: float, every: float) -> dict[str, Any]:
    """The figures, each with its target."""
    samples = run["samples"]
    at = np.asarray([at for at, _ in run["latencies"]])
    seconds = np.asarray([s for _, s in run["latencies"]])
    span = min(300.0, 60 * minutes / 4)
    first = seconds[(at >= 10) & (at < 10 + span)]
    last = seconds[at >= 60 * minutes - span]
    late = [s for s in samples if s["seconds"] > 15 * minutes]
    count = np.asarray([s["reconnects"] for s in late], float)
    slope = np.polyfit(count, [s["rss"] / 2**20 for s in late], 1)[0] * 1000
    grown = {k: late[-1][k] - late[0][k] for k in ("threads", "files")}
    p99 = [1e3 * float(np.percentile(part, 99)) for part in (first, last)]
    return {
        "minutes": minutes,
        "streams": STREAMS,
        "every s": every,
        "reconnects": samples[-1]["reconnects"],
        "frames": samples[-1]["completed"],
        "rss MB per 1,000 reconnects": float(slope),
        "rss MB": [late[0]["rss"] / 2**20, late[-1]["rss"] / 2**20],
        "threads": [late[0]["threads"], late[-1]["threads"]],
        "files": [late[0]["files"], late[-1]["files"]],
        "p99 ms": p99,
        "p99 last / first": p99[1] / p99[0],
        "balanced": all(s["balanced"] for s in samples),
        "met": {
            "memory": bool(slope < 1),
            "threads and files": all(abs(v) <= 8 for v in grown.values()),
            "p99": p99[1] <= 1.1 * p99[0],
        },
    }


def text(figures: dict[str, Any], machine: str, picture: str) -> str:
    met = {k: "met" if v else "missed" for k, v in figures["met"].items()}
    rss, threads, files = (figures[k] for k in ("rss MB", "threads", "files"))
    p99, every = figures["p99 ms"], figures["every s"]
    balanced = "always balanced" if figures["balanced"] else "DID NOT ALWAYS balance"
    return f"""# Soak of a live server

`python tests/bench/live_soak.py --minutes {figures["minutes"]:g} --every {every:g}`; {machine}.
{STREAMS} streams x {RATE} frames/s of a tiny student, half cameras over TCP, half WebSocket
clients, each reconnecting every {every:g} s: {figures["reconnects"]} reconnects, \
{figures["frames"]} frames answered;
the books of every stream {balanced}.

| | from | to | target | |
|---|---|---|---|---|
| resident memory, MB per 1,000 reconnects | {rss[0]:.1f} | {rss[1]:.1f} | slope \
{figures["rss MB per 1,000 reconnects"]:.2f} < 1 | {met["memory"]} |
| threads; open files | {threads[0]}; {files[0]} | {threads[1]}; {files[1]} | flat (within 8) | \
{met["threads and files"]} |
| p99 from sending to the answer, ms | {p99[0]:.1f} | {p99[1]:.1f} | \
{figures["p99 last / first"]:.2f} <= 1.1 | {met["p99"]} |

![memory, threads, files and latency over time]({picture})
"""


def plot(path: Path, run: dict[str, Any]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    samples = run["samples"]
    minutes = [s["seconds"] / 60 for s in samples]
    figure = Figure(figsize=(7, 6), layout="constrained")
    FigureCanvasAgg(figure)
    memory, counts, latency = figure.subplots(3, 1, sharex=True)
    memory.plot(minutes, [s["rss"] / 2**20 for s in samples])
    memory.set(ylabel="resident, MB")
    for name, style in (("threads", "-"), ("files", "--")):
        counts.plot(minutes, [s[name] for s in samples], style, label=name)
    counts.set(ylabel="count", ylim=(0, None))
    counts.legend()
    at = np.asarray([at for at, _ in run["latencies"]])
    seconds = np.asarray([s for _, s in run["latencies"]])
    edges = np.arange(0, at.max(), 15.0)
    parts = [seconds[(at >= a) & (at < a + 15)] for a in edges]
    pairs = [(a, part) for a, part in zip(edges, parts, strict=False) if len(part)]
    for share, style in ((99, "-"), (50, "--")):
        values = [1e3 * np.percentile(part, share) for _, part in pairs]
        latency.plot([a / 60 for a, _ in pairs], values, style, label=f"p{share}")
    latency.set(ylabel="latency, ms", xlabel="minutes", ylim=(0, None))
    latency.legend()
    figure.savefig(path, dpi=110)


def main() -> int:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--minutes", type=float, default=20.0)
    p.add_argument("--every", type=float, default=10.0, help="seconds per connection (%(default)g)")
    p.add_argument(
        "--out", type=Path, default=HERE / "results" / "live_soak.json",
        help="JSON, and beside it Markdown and a plot (%(default)s)",
    )  # fmt: skip
    args = p.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the server ends with us
    home = Path(tempfile.gettempdir()) / "streamzoo-live-home"
    home.mkdir(exist_ok=True)
    run = asyncio.run(soak(args.minutes, args.every, home))
    figures = judge(run, args.minutes, args.every)
    machine = f"{len(os.sched_getaffinity(0))} core(s) {platform.machine()}"
    record = {"machine": machine, "figures": figures, "samples": run["samples"]}
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    picture = args.out.with_suffix(".png")
    args.out.with_suffix(".md").write_text(text(figures, machine, picture.name))
    plot(picture, run)
    print(json.dumps(figures, indent=1))
    return 0 if all(figures["met"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
