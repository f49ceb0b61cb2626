"""Which mixers a small student should have on this machine: measured steps, then a search.

    python -m tests.bench.operator_search                  the table of latencies, twice
    python -m tests.bench.operator_search --search 16      and a search: 16 students learn

A block's cost is the time of a one-frame step of a student that has it in every block, less that of
a student without memory, over the blocks, in turns and by medians; a block without memory costs its
share of the rest. The table is made twice, and it has to foretell patterns that are mixed. The
search (:mod:`streamzoo.train.operator_search`) trains each pattern on drawn persons for a few
steps, as Nemotron-Flash does with short runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from streamzoo import zoo
from streamzoo.layers.hybrid import LETTERS, pattern
from streamzoo.train.operator_search import cost_of, evolve

NAME, OPERATORS, BLOCKS = "vit-lite0", "-SLRCDMA", 4
MIXED = ("DDDA", "SSLL", "RRRA", "-D-A", "MMMA")
OUT = Path(__file__).parent / "results" / "operator_search"


def step_of(letters: str) -> Callable[[], None]:
    """A call that runs one step of a student, one frame in, answers out."""
    model, variables = zoo.init_params(NAME, temporal=pattern(letters), depth=len(letters))
    size = model.config.image_size
    frame = jnp.asarray(np.random.default_rng(0).normal(size=(1, 1, *size, 3)), jnp.float32)
    step = jax.jit(model.apply, donate_argnums=1)
    state = {"carry": model.init_carry(1)}

    def run() -> None:
        state["carry"], out = step(variables, state["carry"], frame)
        jax.block_until_ready(out)

    for _ in range(3):
        run()
    return run


def milliseconds(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median of each, in turns."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, run in steps.items():
            run()  # the caches belonged to someone else
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(np.median(seconds)) for name, seconds in times.items()}


def table_of(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Letter -> ms of a block, beside the rest of the model which the "-" blocks share."""
    took = milliseconds({x: steps[x * BLOCKS] for x in OPERATORS}, rounds)
    share = took["-"] / BLOCKS
    return {x: share + (ms - took["-"]) / BLOCKS for x, ms in took.items()}


def score(letters: str, steps: int) -> float:
    """mAP on unseen drawn persons after a short training; the run is kept and read again."""
    out = Path("runs/operator_search") / f"{letters.replace('-', '_')}-{steps}"
    if not (out / "scores.json").is_file():
        command = ["--config", "configs/smoke.py", "--fresh", "--set", f"model.temporal={letters}",
                   f"loop.steps={steps}", f"loop.out={out}", "loop.tensorboard=false"]  # fmt: skip
        subprocess.run([sys.executable, "-m", "streamzoo.train", *command], check=True)
    found = json.loads((out / "scores.json").read_text())
    return float(found.get("mAP", found.get("metrics", {}).get("mAP", float("nan"))))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--rounds", type=int, default=60)
    p.add_argument("--search", type=int, default=0, metavar="N", help="patterns that learn")
    p.add_argument("--steps", type=int, default=200, help="of each pattern's training")
    p.add_argument("--budget", type=float, default=0.0, help="ms; 0: of four LSTM blocks")
    args = p.parse_args()
    steps = {letters: step_of(letters) for letters in (*(x * BLOCKS for x in OPERATORS), *MIXED)}
    tables = [table_of(steps, args.rounds) for _ in range(2)]
    table = {x: (tables[0][x] + tables[1][x]) / 2 for x in OPERATORS}
    real = milliseconds({m: steps[m] for m in MIXED}, args.rounds)
    kept: dict = {"name": NAME, "ms": tables, "mixed": real}
    text = [
        "# Operators by the time of their step", "",
        f"`python -m tests.bench.operator_search`: {NAME}, one frame, {jax.devices()[0].platform};"
        " ms of a block, measured twice.", "", "| operator | first | second |", "|---|---|---|",
        *(f"| {LETTERS[x]} | {tables[0][x]:.2f} | {tables[1][x]:.2f} |" for x in OPERATORS), "",
        "| pattern | foretold, ms | measured |", "|---|---|---|",
        *(f"| {m} | {cost_of(m, table):.2f} | {real[m]:.2f} |" for m in MIXED),
    ]  # fmt: skip
    if args.search:
        budget = args.budget or cost_of("L" * BLOCKS, table)
        found = evolve(table, BLOCKS, budget, lambda w: score(w, args.steps), scored=args.search)
        kept["search"] = {"budget": budget, "steps": args.steps, "found": found}
        text += ["", f"{len(found)} patterns within {budget:.2f} ms, {args.steps} steps of learning"
                 " on drawn persons each:", "", "| pattern | ms | mAP |", "|---|---|---|",
                 *(f"| {c.letters} | {c.cost:.2f} | {c.score:.3f} |" for c in found)]  # fmt: skip
    OUT.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n")
    OUT.with_suffix(".md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
