"""The simulator as a command, to plan for machines one does not have.

    python -m streamzoo.streaming.engine.simulator --streams 1000 --accelerators 8 \\
        --costs costs.json --fps 15 --most --plot p99.png
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...layers.install import how_to_install
from ...layers.streaming import Json
from . import admission
from .admission import Demand
from .costs import Costs
from .queues import POLICIES
from .simulation import Load, Outcome, curve, most_streams, simulate


def plot(path: str | Path, load: Load, rows: Sequence[tuple[int, Outcome]]) -> None:
    """PNG or SVG: latency percentiles and dropped frames over the number of streams.

    Raises ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"--plot needs matplotlib: {how_to_install('train')}") from error
    figure = Figure(figsize=(7, 6), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    streams = [n for n, _ in rows]
    for name, style in (("p99", "o-"), ("p95", "s--"), ("p50", "^:")):
        upper.plot(streams, [1e3 * getattr(o, name) for _, o in rows], style, label=name)
    upper.axhline(1e3 * load.budget, color="0.4", linewidth=1, label="budget")
    upper.set(ylabel="latency, ms", ylim=(0, None))
    upper.set_title(f"{load.accelerators} accelerator(s), {load.fps:g} fps, {load.policy}")
    upper.legend()
    lost = [sum(o.books.dropped.values()) + o.books.refused for _, o in rows]
    offered = [o.books.received + o.books.refused for _, o in rows]
    share = [100 * n / max(of, 1) for n, of in zip(lost, offered, strict=True)]
    lower.plot(streams, share, "o-", color="C3")
    lower.set(xlabel="streams", ylabel="not answered, %", ylim=(-2, 102))
    figure.savefig(path)


def text(load: Load, costs: Costs, outcome: Outcome) -> str:
    """The outcome for people."""
    o, books = outcome, outcome.books
    dropped = ", ".join(f"{n} {r}" for r, n in sorted(books.dropped.items())) or "none"
    held = load.streams - outcome.refused
    demands = [Demand(load.fps, load.budget)] * math.ceil(held / load.accelerators)
    lines = [
        f"streams      {held} on {load.accelerators} accelerator(s), {load.fps:g} fps, "
        f"{load.policy}, budget {1e3 * load.budget:g} ms, {load.seconds:g} s, seed {load.seed}",
        f"latency ms   p50 {1e3 * o.p50:.1f}   p95 {1e3 * o.p95:.1f}   p99 {1e3 * o.p99:.1f}   "
        f"worst {1e3 * o.worst:.1f}",
        "fps/stream   lowest {:.2f}   mean {:.2f}   highest {:.2f}".format(*o.fps),
        f"utilisation  mean {np.mean(o.utilisation):.1%}   highest {max(o.utilisation):.1%}   "
        f"(full batches would need {admission.load(costs, demands):.1%})",
        f"batch        {o.batch:.1f} frames per step",
        f"frames       {books.received} received = {books.completed} completed "
        f"+ {sum(books.dropped.values())} dropped + {books.in_flight} in flight",
        f"dropped      {dropped}; {books.late} completed late; {books.refused} without a credit",
    ]
    if outcome.refused:
        lines.append(f"refused      {outcome.refused} streams; the first: {outcome.reason}")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    example = (
        "example:\n  python -m streamzoo.streaming.engine.simulator --streams 1000 "
        "--accelerators 8 --costs linear:4,0.3 --fps 15 --most --plot p99.png"
    )
    p = argparse.ArgumentParser(
        prog="python -m streamzoo.streaming.engine.simulator",
        description="How many live streams a number of accelerators would hold, and how late.",
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    d = Load(1)
    add = p.add_argument
    add("--streams", type=int, required=True)
    add("--accelerators", type=int, default=1)
    add("--costs", required=True, metavar="FILE|linear:BASE,PER",
        help='measured seconds of a step: JSON {"seconds": {"1": [...], "8": [...]}} as '
        "Costs.save writes it; or a what-if of BASE + PER * bucket milliseconds")  # fmt: skip
    add("--fps", type=float, default=d.fps, help="frames per second of a stream (%(default)s)")
    add("--seconds", type=float, default=d.seconds, help="simulated seconds (%(default)s)")
    add("--budget", type=float, default=1e3 * d.budget, metavar="MS",
        help="milliseconds from arrival to answer (%(default)s)")  # fmt: skip
    add("--policy", choices=sorted(POLICIES), default=d.policy)
    add("--capacity", type=int, help="frames that a stream's queue holds (by policy)")
    add("--jitter", type=float, default=1e3 * d.jitter, metavar="MS", help="(%(default)s)")
    add("--bursty", type=float, default=0.0, metavar="SHARE",
        help="share of the streams that deliver in bursts, such as HLS (%(default)s)")  # fmt: skip
    add("--burst", type=int, default=d.burst, help="frames of a burst (%(default)s)")
    add("--events", type=float, default=0.0, metavar="SHARE",
        help="share of the frames marked as events (%(default)s)")  # fmt: skip
    add("--slots", type=int, help="streams that an accelerator has memory for (no limit)")
    add("--depth", type=int, default=d.depth, help="steps launched ahead (%(default)s)")
    add("--admit", action="store_true", help="refuse streams that cannot be held in time")
    add("--seed", type=int, default=0)
    add("--most", action="store_true", help="also find the most streams within the budget")
    add("--plot", metavar="FILE", help="draw latency over streams, PNG or SVG")
    add("--json", metavar="FILE", help="write the outcome")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = vars(parser().parse_args(argv))
    costs, most, picture, file = (args.pop(k) for k in ("costs", "most", "plot", "json"))
    try:
        costs = Costs.load(costs)
        load = Load(**{**args, "budget": args["budget"] / 1e3, "jitter": args["jitter"] / 1e3})
        outcome = simulate(load, costs)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text(load, costs, outcome))
    record: Json = {"load": dataclasses.asdict(load), "outcome": outcome.to_dict()}
    if most:
        record["most"] = most_streams(load, costs)
        print(f"most         {record['most']} streams with p99 in the budget and no drop")
    if picture:
        rows = curve(load, costs)
        plot(picture, load, rows)
        record["curve"] = [{"streams": n, **o.to_dict()} for n, o in rows]
    if file:
        Path(file).write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
