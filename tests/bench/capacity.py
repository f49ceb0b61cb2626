"""How many streams the engine holds within 120 ms, in JAX and in the fastest other runtime.

    python -m tests.bench.capacity --prepare     # converts and compiles; may be busy
    python -m tests.bench.capacity               # 4 minutes; writes results/capacity.*
    python -m tests.bench.capacity --quick       # one small trial, nothing is written

Streams of random frames at random phases run through the engine on the wall clock. A number of
streams is held if the 99th percentile from a frame's moment to its answer is within the budget and
no frame was dropped. The search begins at what a step of a batch promises, and goes up or down.
Weights are random: the speed does not depend on them, and no accuracy is told here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from streamzoo.streaming.engine.trial import Plan, run_trial
from streamzoo.streaming.step import Step
from streamzoo.zoo import init_params, model_card

from .spine import surroundings

OUT = Path(__file__).parent / "results" / "capacity"
OTHERS = (("openvino", "bf16"), ("openvino", "int8"), ("onnxruntime", "int8"))
RATES = (8.0, 15.0)
SIZES = (1, 2, 4, 8, 16, 32)  # batches that the engine pads to
LOADED = 0.85  # of the time that steps may fill, at the first guess
BUDGET = 0.12
WHAT = """`python -m tests.bench.capacity`: the 99th percentile from a frame's moment to its
answer is within 120 ms and no frame was dropped. Weights are random."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def seconds_of(step: Step, batch: int, rounds: int = 5) -> float:
    """Of a step of ``batch`` frames, the median."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (batch, 1, *step.card.input_size, 3), np.uint8)
    carry, times = step.init_carry(batch), []
    for _ in range(rounds + 2):
        start = time.perf_counter()
        carry, out = step(carry, frames)
        np.asarray(out.logits)
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


def fastest(model: Any, params: Any, card: Any) -> tuple[Step, str]:
    """The fastest step of :data:`OTHERS` at batch 4, and its words."""
    found = []
    for runtime, precision in OTHERS:
        step = Step(model, params, card, runtime=runtime, precision=precision)
        found.append((seconds_of(step, 4), f"{runtime} {precision}", step))
        say(f"{card.name} {found[-1][1]}: {1e3 * found[-1][0]:.1f} ms for 4 frames")
    best = min(found, key=lambda x: x[0])
    return best[2], best[1]


def search(step: Step, rate: float, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Trials from the first guess to the largest number that is held and the one after it."""
    each = seconds_of(step, 8) / 8
    guess = max(1, int(LOADED / (rate * each)))
    trials: dict[int, dict[str, Any]] = {}
    while guess not in trials and len(trials) < options.trials:
        plan = Plan(guess, rate, options.seconds, 0, BUDGET)
        trial = asyncio.run(run_trial(step, plan))
        p50, p99 = 1e3 * np.percentile(trial.latencies(), [50, 99])
        held = trial.holds()
        trials[guess] = {
            "streams": guess, "p50_ms": float(p50), "p99_ms": float(p99),
            "dropped": trial.books.dropped, "held": bool(held),
        }  # fmt: skip
        say(f"  {guess} at {rate:g}: p50 {p50:.1f}, p99 {p99:.1f} ms, {'held' if held else 'no'}")
        jump = max(1, guess // 6) if len(trials) < 3 else 1
        most = max((n for n, t in trials.items() if t["held"]), default=0)
        low = min((n for n, t in trials.items() if not t["held"]), default=None)
        if low is None:
            guess = most + jump
        elif most:
            guess = (most + low) // 2
        else:
            guess = max(1, low - jump)
    return [trials[n] for n in sorted(trials)]


def page(rows: list[dict[str, Any]], about: dict[str, Any]) -> str:
    lines = ["# Streams within 120 ms", "", WHAT, ""]
    lines += [f"- {key}: {value}" for key, value in about.items()]
    lines += ["", "| model | runtime | frames/s | held | p50 ms | p99 ms | first not held |"]
    lines += ["|---|---|---:|---:|---:|---:|---:|"]
    for r in rows:
        good = [t for t in r["trials"] if t["held"]]
        bad = [t["streams"] for t in r["trials"] if not t["held"]]
        best = good[-1] if good else {"streams": 0, "p50_ms": float("nan"), "p99_ms": float("nan")}
        lines.append(
            f"| {r['model']} | {r['run']} | {r['rate']:g} | {best['streams']} "
            f"| {best['p50_ms']:.1f} | {best['p99_ms']:.1f} | {min(bad) if bad else '-'} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--models", nargs="+", default=["tsa-ti16", "tsa-s16"])
    p.add_argument("--rates", nargs="+", type=float, default=list(RATES), metavar="FPS")
    p.add_argument("--seconds", type=float, default=5.0, help="of a trial (default: %(default)g)")
    p.add_argument("--trials", type=int, default=4, help="of a cell at most (default: %(default)d)")
    p.add_argument("--minutes", type=float, default=6.0, help="cells that begin later are left out")
    p.add_argument("--prepare", action="store_true", help="convert and compile, time nothing")
    p.add_argument("--quick", action="store_true", help="one trial of the small model")
    p.add_argument("--out", type=Path, default=OUT)
    options = p.parse_args()
    if options.quick:
        options.models, options.rates, options.trials = options.models[:1], options.rates[:1], 1
        options.seconds = 2.0
    about = surroundings(sys.argv[1:])
    del about["command"]
    begin, rows = time.monotonic(), []
    for name in options.models:
        model, params = init_params(name)
        card = model_card(name)
        if options.prepare:
            for runtime, precision in (("jax", "fp32"), *OTHERS):
                step = Step(model, params, card, runtime=runtime, precision=precision)
                for batch in SIZES:
                    step.compile(batch)
                say(f"{name} {runtime} {precision}: ready")
            continue
        other, words = fastest(model, params, card)
        for run, step in (("jax fp32", Step(model, params, card)), (words, other)):
            for rate in options.rates:
                if time.monotonic() - begin > 60 * options.minutes:
                    say(f"{name} {run} {rate:g}: left out, {options.minutes:g} minutes are over")
                    continue
                say(f"{name} {run} at {rate:g} frames/s")
                found = search(step, rate, options)
                rows.append({"model": name, "run": run, "rate": rate, "trials": found})
                if not options.quick:
                    told = {"about": about, "rows": rows}
                    options.out.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")
                    options.out.with_suffix(".md").write_text(page(rows, about))
    about["load average after"] = f"{os.getloadavg()[0]:.2f}"
    print(page(rows, about))


if __name__ == "__main__":
    main()
