"""Five models at batch 1 over runtimes and dtypes, ours and PyTorch's, in turns in one run.

    python -m tests.bench.runtimes --prepare         # converts and compiles all; may be busy
    python -m tests.bench.runtimes                   # 5 minutes; writes results/runtimes.{md,json}
    python -m tests.bench.runtimes --quick           # small students: does it run?

Our runtimes live in one process and PyTorch in another; one step runs at a time. Equal weights: the
answers of the first frames are compared before anything is timed. Weights are random but for the
detector's. PyTorch's compiled steps may not compile again: that is an error, not a slow figure.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads of torch must not spin

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "parity")]

from runtime_cases import CASES, QUICK, ours, theirs
from spine import surroundings

OURS = [("jax", "fp32"), ("jax", "bf16"), ("onnxruntime", "fp32"), ("onnxruntime", "int8"),
        ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8")]  # fmt: skip
TORCH = [(m, d) for m in ("eager", "compile") for d in ("float32", "bfloat16")]
SAME = 1e-3  # of the answers' spread: float32 steps that differ by more are not the same step
WHAT = """One frame, batch 1, in turns in one run: `python -m tests.bench.runtimes`. Median and
quartiles of a step from a uint8 frame to numbers on the host; cores are CPU seconds per second;
apart is the largest difference from JAX in fp32 over three frames, in standard deviations of its
answers."""
FLOAT32 = ("fp32", "float32")
TURN = 0.4  # seconds of a turn, in steps
REST = 0.05  # seconds in which the other library's idle threads stop spinning


def worker(pipe: Any, side: str, name: str, quick: bool, cores: list[int]) -> None:
    """A process that holds the runs of one side of one model."""
    if cores:
        os.sched_setaffinity(0, cores)
    make: Any = None
    runs: dict[tuple[str, str], Any] = {}
    while (order := pipe.recv()) is not None:
        what, key, count = order
        try:
            if what == "make":
                if side == "torch":
                    import torch

                    torch.set_num_threads(len(cores) or 2)
                if make is None:
                    make = (ours if side == "ours" else theirs)(name, quick)
                start = time.perf_counter()
                runs[key] = make(*key)
                first = [runs[key].answer() for _ in range(3)]
                answer: Any = time.perf_counter() - start, np.stack(first)
            else:
                runs[key].step()  # the caches belonged to someone else
                seconds, busy = [], time.process_time()
                begin = time.perf_counter()
                for _ in range(count):
                    start = time.perf_counter()
                    runs[key].step()
                    seconds.append(time.perf_counter() - start)
                used = (time.process_time() - busy) / (time.perf_counter() - begin)
                answer = seconds, used
        except Exception as error:  # a figure that cannot be had is a row too
            answer = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        pipe.send(answer)


class Side:
    """Asks a worker."""

    def __init__(self, side: str, name: str, options: argparse.Namespace):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        args = (theirs, side, name, options.quick, options.cpus)
        self._process = context.Process(target=worker, args=args, daemon=True)
        self._process.start()

    def ask(self, *order: Any) -> Any:
        self._pipe.send(order)
        return self._pipe.recv()

    def close(self) -> None:
        self._pipe.send(None)
        self._process.join(10)
        self._process.kill()


def case(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one model."""
    say = lambda text: print(f"{name}: {text}", file=sys.stderr, flush=True)
    sides = {side: Side(side, name, options) for side in ("ours", "torch")}
    wanted = [("ours", k) for k in OURS] + [("torch", k) for k in TORCH]
    rows, exact = [], None
    for side, key in wanted:
        made = sides[side].ask("make", key, 0)
        row: dict[str, Any] = {"model": name, "side": side, "run": " ".join(key)}
        rows.append(row)
        if isinstance(made, str):
            row["stopped"] = made
            say(f"{side} {row['run']}: {made}")
            continue
        row["build_s"], answers = round(made[0], 1), made[1]
        exact = answers if exact is None else exact
        row["apart"] = float(np.abs(answers - exact).max() / exact.std())
        say(f"{side} {row['run']}: built in {made[0]:.0f} s, answers apart {row['apart']:.1e}")
        if key[1] in FLOAT32 and not row["apart"] < SAME:
            row["stopped"] = f"not the same step: answers are {row['apart']:.1e} apart"
    ready = [(r, s, k) for r, (s, k) in zip(rows, wanted, strict=True) if "stopped" not in r]
    if not options.prepare:
        _time(ready, sides, options)
    for side in sides.values():
        side.close()
    return rows


def _time(ready: list[Any], sides: dict[str, Side], options: argparse.Namespace) -> None:
    counts, times, cores = {}, {}, {}
    for _, side, key in ready:
        seconds, _ = sides[side].ask("run", key, 1)
        counts[side, key] = int(np.clip(TURN / seconds[0], 1, 12))
        times[side, key], cores[side, key] = [], []
    slow = sum(counts[s, k] for _, s, k in ready) == len(ready)
    for turn in range(2 if options.quick else 5 if slow else options.rounds):
        for row, side, key in ready if turn % 2 == 0 else ready[::-1]:
            time.sleep(REST)
            found = sides[side].ask("run", key, counts[side, key])
            if isinstance(found, str):
                row["stopped"] = found
                continue
            times[side, key] += found[0]
            cores[side, key].append(found[1])
    for row, side, key in ready:
        if times[side, key]:
            low, mid, high = 1e3 * np.percentile(times[side, key], [25, 50, 75])
            row |= {"ms": float(mid), "p25": float(low), "p75": float(high)}
            row |= {"steps": len(times[side, key]), "cores": float(np.mean(cores[side, key]))}


def page(rows: list[dict[str, Any]], about: dict[str, Any]) -> str:
    """The table, and of each model the ratio of the best of either side."""
    lines = ["# One step over runtimes and dtypes", "", WHAT, ""]
    lines += [f"- {key}: {value}" for key, value in about.items()]
    for name in dict.fromkeys(r["model"] for r in rows):
        mine = [r for r in rows if r["model"] == name]
        timed = {(r["side"], r["run"]): r["ms"] for r in mine if "ms" in r}
        lines += ["", f"## {name}", ""]
        lines += ["| run | ms | p25 | p75 | cores | apart |", "|---|---:|---:|---:|---:|---:|"]
        for r in mine:
            who = f"{'PyTorch ' if r['side'] == 'torch' else ''}{r['run']}"
            if "ms" in r:
                cells = [f"{r[k]:.1f}" for k in ("ms", "p25", "p75", "cores")]
                lines.append(f"| {who} | {' | '.join(cells)} | {r['apart']:.1e} |")
            else:
                lines.append(f"| {who} | {r.get('stopped', 'not timed')} | | | | |")
        for what, good in (("fp32", FLOAT32), ("any dtype", None)):
            pick = lambda side: min(
                ((ms, run) for (s, run), ms in timed.items()
                 if s == side and (good is None or run.split()[1] in good)), default=None,
            )  # fmt: skip
            a, b = pick("ours"), pick("torch")
            if a and b:
                lines += ["", f"Best of either side, {what}: {a[1]} {a[0]:.1f} ms, PyTorch {b[1]} "
                          f"{b[0]:.1f} ms: {b[0] / a[0]:.2f}x."]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--only", default="*", help="shell pattern of a model")
    p.add_argument("--prepare", action="store_true", help="build and compare, time nothing")
    p.add_argument("--quick", action="store_true", help="tiny students, nothing is written")
    p.add_argument("--rounds", type=int, default=9)
    p.add_argument("--cores", type=int, default=2)
    p.add_argument("--out", type=Path, default=HERE / "results" / "runtimes")
    options = p.parse_args()
    options.cpus = []
    if hasattr(os, "sched_setaffinity"):
        options.cpus = sorted(os.sched_getaffinity(0))[: options.cores]
    os.environ.setdefault(
        "TORCHINDUCTOR_CACHE_DIR", str(Path.home() / ".cache" / "streamzoo-bench")
    )
    about = surroundings(sys.argv[1:])
    del about["command"]
    from streamzoo.streaming.precision import FAST, processor

    about["its types"] = ", ".join(sorted(set().union(*FAST.values()) & processor())) or "fp32 only"
    names = [n for n in (QUICK if options.quick else CASES) if fnmatch.fnmatch(n, options.only)]
    data = options.out.with_suffix(".json")
    rows, text = [], ""
    if data.is_file() and options.only != "*":
        rows = [r for r in json.loads(data.read_text())["rows"] if r["model"] not in names]
    for name in names:
        rows += case(name, options)
        text = page(rows, about)
        if not (options.quick or options.prepare):
            data.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
            options.out.with_suffix(".md").write_text(text)
    print(text if names else f"no such model: {options.only}")


if __name__ == "__main__":
    main()
