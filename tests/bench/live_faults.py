"""Faults of a live server, one after the other, each in a server of its own.

    python tests/bench/live_faults.py                        # ten runs of each, and the report
    python tests/bench/live_faults.py --runs 3               # fewer
    python tests/bench/live_faults.py --only server_kill     # one of them
    python tests/bench/live_faults.py --list

Every run starts `streamzoo serve` with a tiny student in a process of its own, disturbs it for some
seconds in mid-stream, and watches 10 s from the fault on. What counts as lost: every frame that has
no answer; each must have a reason. What is in the results is not run again: delete them to begin
anew.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import json
import os
import platform
import signal
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

import live_fault_clients
import live_fault_sources

HERE = Path(__file__).resolve().parent
FAULTS = {**live_fault_sources.FAULTS, **live_fault_clients.FAULTS}


def report(results: dict) -> str:
    """The results as Markdown."""
    lines = [
        "# Faults of a live server",
        "",
        f"`python tests/bench/live_faults.py`; {results['machine']}. Each run in a server of its "
        "own, with a tiny student. Recovery is counted from the end of the fault (its cause is "
        "gone) to the first answer after it. Lost frames are means over the runs, by the reason "
        "that was given: `missed` is estimated from timestamps, `thinned` were never asked for "
        "(--fps). Uncounted: without an answer and without a reason, worst run; of cameras (*) "
        "against what they sent, where frames on their way in FFmpeg's and the system's buffers, "
        "and the estimate of the missed ones, make it inexact (negative: too many were counted).",
        "",
        "| fault | runs | recovered | seconds to recover: median, max | frames | answered | lost, "
        "by reason | uncounted | difference | neighbour's longest wait, s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (_, text) in FAULTS.items():
        runs = results["runs"].get(name, [])
        if not runs:
            continue
        mean = lambda key: statistics.mean(r[key] for r in runs)
        seconds = [r["seconds"] for r in runs]
        lost = Counter()
        for run in runs:
            lost.update(run["lost"])
        why = ", ".join(f"{k} {v / len(runs):.0f}" for k, v in lost.most_common()) or "none"
        worst = max((r["uncounted"] for r in runs), key=abs)
        star = "*" if name in live_fault_sources.FAULTS else ""
        errors = [r["error"] for r in runs if r["error"] is not None]
        waits = [r["neighbour"] for r in runs if r["neighbour"] is not None]
        lines.append(
            f"| {name}: {text} | {len(runs)} | {sum(r['recovered'] for r in runs)} "
            f"| {statistics.median(seconds):.2f}, {max(seconds):.2f} | {mean('frames'):.0f} "
            f"| {mean('answered'):.0f} | {why} | {worst}{star} "
            f"| {f'{max(errors):.1e}' if errors else ''} "
            f"| {f'{max(waits):.2f}' if waits else ''} |"
        )
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--runs", type=int, default=10, help="of each fault (%(default)s)")
    p.add_argument("--only", nargs="+", choices=list(FAULTS), metavar="FAULT")
    p.add_argument("--list", action="store_true", help="the faults")
    p.add_argument(
        "--out", type=Path, default=HERE / "results" / "live_faults.json",
        help="JSON, and beside it Markdown (%(default)s)",
    )  # fmt: skip
    return p


def main() -> int:
    args = parser().parse_args()
    if args.list:
        for name, (_, text) in FAULTS.items():
            print(f"{name:14}{text}")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers end with us
    cores = len(os.sched_getaffinity(0))
    results = {"machine": f"{cores} core(s) {platform.machine()}", "runs": {}}
    if args.out.exists():
        results["runs"] = json.loads(args.out.read_text())["runs"]
    home = Path(tempfile.gettempdir()) / "streamzoo-live-home"  # keeps the compiled programs
    home.mkdir(exist_ok=True)
    for number, name in itertools.product(range(args.runs), args.only or FAULTS):
        runs = results["runs"].setdefault(name, [])
        if len(runs) > number:
            continue
        start = time.monotonic()
        outcome = asyncio.run(asyncio.wait_for(FAULTS[name][0](home), 300))
        runs.append(dataclasses.asdict(outcome))
        text = "recovered" if outcome.recovered else "NOT recovered"
        print(
            f"{name} {len(runs)}/{args.runs}: {text} in {outcome.seconds:.2f} s, lost "
            f"{outcome.lost or 'none'}, uncounted {outcome.uncounted}, {outcome.note} "
            f"({time.monotonic() - start:.0f} s)", flush=True,
        )  # fmt: skip
        args.out.write_text(json.dumps(results, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(report(results))
    return 0 if all(r["recovered"] for runs in results["runs"].values() for r in runs) else 1


if __name__ == "__main__":
    raise SystemExit(main())
