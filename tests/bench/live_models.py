"""HRM on and off, TRM of depth 1 and 2, 8-bit and pruned weights, on anomalies across cameras.

    python tests/bench/live_models.py --list             # the runs, in order
    python tests/bench/live_models.py                    # all that have no result yet, the report
    python tests/bench/live_models.py --only '*/2/0'     # some of them
    python tests/bench/live_models.py --report           # results/live_models.{md,json}

A run is on|off/depth/seed of configs/live_hrm.py, trained and measured in that form; a run with
HRM is also measured with HRM switched off, and with weights of 8 bits or pruned without training
after it (the frozen encoder's too). Each leaves <folder>/<run>.json; what is there is not run
again. Compiled programs are kept, as the runs of one depth are one program.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import platform
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
SEEDS = (0, 1, 2)
SHOWN = {
    "anomaly_f1": "anomaly F1",
    "anomaly_auc": "anomaly AUC",
    "event_f1": "event F1",
    "class_f1": "class F1",
    "iou": "box IoU",
    "future": "next / repeat",
}
SMALLER = {"int8": "8-bit", "prune20": "20 % pruned", "prune30": "30 % pruned",
           "prune30+int8": "30 % pruned, 8-bit"}  # fmt: skip


def runs() -> list[str]:
    """Names, the published form and its counterpart first."""
    forms = ("on/2", "off/2", "on/1", "off/1")
    return [f"{form}/{seed}" for seed in SEEDS for form in forms]


def recipe(name: str, options: argparse.Namespace):
    """The recipe of a run."""
    from streamzoo.configs.live_hrm import CONFIG

    cross, depth, seed = name.split("/")
    loop = dataclasses.replace(
        CONFIG.loop, seed=int(seed), steps=options.steps or CONFIG.loop.steps,
        out=str(options.folder / name), tensorboard=False,
    )  # fmt: skip
    loss = dataclasses.replace(CONFIG.live, cross=cross == "on")
    return dataclasses.replace(
        CONFIG, loop=loop, live=loss, depth=int(depth), cache=str(options.cache)
    )


def shrunk(variables, how: str):
    """Variables in one of the smaller forms, as float again."""
    from streamzoo.zoo import int8, pruning

    if how.startswith("prune"):
        variables = pruning.prune(variables, int(how[5:7]) / 100)
    return int8.int8(variables) if how.endswith("int8") else variables


def train_one(name: str, options: argparse.Namespace) -> dict:
    """Trains, measures, and gives the figures of a run."""
    from streamzoo.train.loop import run

    config, clock, busy = recipe(name, options), time.perf_counter(), time.process_time()
    job = config.build()
    result = run(job, config.loop)  # goes on where it was stopped
    row = {
        "minutes": (time.perf_counter() - clock) / 60,
        "cpu_minutes": (time.process_time() - busy) / 60,
        "steps": config.loop.steps,
        "scores": result.scores,
    }
    variables = job.task.variables(result.params)
    if config.live.cross:
        row["switched_off"] = config.measure(variables, cross=False)
        row["smaller"] = {how: config.measure(shrunk(variables, how)) for how in SMALLER}
    return row


def cell(values: list[float]) -> str:
    """Mean, and least and greatest where there are several."""
    mean = sum(values) / len(values)
    return f"{mean:.3f}" + (f" ({min(values):.3f}-{max(values):.3f})" if len(values) > 1 else "")


def table(rows: dict[str, list[dict]], first: str) -> list[str]:
    """Lines of a table: name -> figures, one per seed."""
    lines = [f"| {first} | seeds | " + " | ".join(SHOWN.values()) + " |"]
    lines.append("|---|---:|" + "---:|" * len(SHOWN))
    for name, found in rows.items():
        cells = [cell([one[key] for one in found]) for key in SHOWN]
        lines.append(f"| {name} | {len(found)} | " + " | ".join(cells) + " |")
    return lines


def report(found: dict[str, dict], command: str) -> str:
    """The page of what is there; runs that are missing are named."""
    import jax

    from streamzoo.configs.live_hrm import CONFIG

    groups: dict[str, list[dict]] = {}
    for cross in ("on", "off"):
        for depth in (1, 2):
            some = [r["scores"] for n, r in found.items() if n.startswith(f"{cross}/{depth}/")]
            if some:
                groups[f"HRM {cross}, TRM depth {depth}"] = some
    on = [r for n, r in found.items() if n.startswith("on/2/")]
    if on:
        groups["HRM on in training, off in use, TRM depth 2"] = [r["switched_off"] for r in on]
    always = next(iter(found.values()))["scores"]["always_f1"]
    cpu = sorted(r["cpu_minutes"] for r in found.values())
    lines = [
        "# Many cameras: HRM, TRM, smaller weights", "",
        f"- command: {command}",
        f"- device: {jax.devices()[0].device_kind}, {platform.machine()}, jax {jax.__version__}",
        f"- steps: {sorted({r['steps'] for r in found.values()})}; CPU minutes per run, since it "
        f"was last taken up: {cpu[0]:.1f} to {cpu[-1]:.1f}",
        f"- model: {CONFIG.model} at width {CONFIG.width} (features, keys and memory), not at its "
        "registered widths",
        "- mean over seeds (least-greatest); the test scenes are the same for all",
        f"- anomaly: one example per camera of a pair; always saying yes has F1 {always:.3f}, and "
        "no camera alone can do better than AUC 0.5", "",
        *table(groups, "trained"), "",
    ]  # fmt: skip
    if on:
        smaller = {"float32": [r["scores"] for r in on]}
        smaller |= {label: [r["smaller"][how] for r in on] for how, label in SMALLER.items()}
        lines += ["## Smaller weights, without training after it (HRM on, depth 2)", ""]
        lines += [*table(smaller, "weights"), ""]
    missing = [name for name in runs() if name not in found]
    if missing:
        lines += [f"Not run: {', '.join(missing)}.", ""]
    return "\n".join(lines)


def main() -> None:
    """Runs the command line."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    add = parser.add_argument
    add("--folder", type=Path, default=Path("runs/live_models"), help="one JSON per run")
    add("--cache", type=Path, default=Path("runs/cache"), help="the frozen encoder's features")
    add("--results", type=Path, default=RESULTS)
    add("--steps", type=int, default=0, help="default: the config's")
    add("--only", default="*", help="a shell pattern of runs")
    add("--list", action="store_true")
    add("--report", action="store_true", help="only write the report of what is there")
    options = parser.parse_args()
    chosen = [name for name in runs() if fnmatch.fnmatch(name, options.only)]
    if options.list:
        print("\n".join(chosen))
        return
    import jax

    options.cache.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(options.cache / "xla"))
    for name in [] if options.report else chosen:
        path = options.folder / f"{name}.json"
        if not path.is_file():
            row = train_one(name, options)
            path.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
            print(name, row["scores"], flush=True)
    found = {n: options.folder / f"{n}.json" for n in runs()}
    found = {n: json.loads(p.read_text("utf-8")) for n, p in found.items() if p.is_file()}
    if not found:
        raise SystemExit("no runs yet: leave --report out")
    steps = f" --steps {options.steps}" if options.steps else ""
    page = report(found, f"python tests/bench/live_models.py{steps}")
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "live_models.md").write_text(page, encoding="utf-8")
    (options.results / "live_models.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(page)


if __name__ == "__main__":
    main()
