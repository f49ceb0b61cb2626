"""ParetoQ's claim on drawn persons: more weights of 2 bits against fewer of 4, at equal bytes.

    nice -n 19 python -m tests.bench.paretoq              # writes results/paretoq.{md,jsonl}
    python -m tests.bench.paretoq --steps 20 --videos 8   # does it run? (other results; name --out)

Per seed a student of 2 blocks and one of 4 learn in floats, from labels, on the frozen encoder's
features; each then learns on with the bits under which the kernels of their blocks have equal
bytes: 4 bits for 2 blocks, 2 bits for 4. Measured is the file of codes; its bytes are told without
the encoder's. A run that is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from streamzoo.train.compressing import CompressConfig
from streamzoo.train.datasets.synth import SynthData
from streamzoo.train.loop import LoopConfig, run
from streamzoo.train.optim import OptimConfig
from streamzoo.train.recipe import Model, Recipe
from streamzoo.zoo import save

OUT = Path(__file__).parent / "results" / "paretoq"
SEEDS = (0, 1, 2)
FORMS = {"2 blocks, floats": (2, 0), "4 blocks, floats": (4, 0),
         "2 blocks, 4 bits": (2, 4), "4 blocks, 2 bits": (4, 2)}  # fmt: skip


def recipe(depth: int, bits: float, seed: int, options: argparse.Namespace) -> Recipe:
    """Of one run: in floats from nothing, in bits from the floats."""
    folder = options.folder / f"{depth}-{seed}"
    weights = str(folder / "weights.safetensors") if bits else ""
    return Recipe(
        data=SynthData(videos=options.videos),
        test=SynthData(videos=max(2, options.videos // 4), split="test"),
        model=Model("tsa-lite0", weights=weights, depth=depth),
        compress=CompressConfig(bits=bits),
        cache=str(options.folder / "cache"),
        loop=LoopConfig(
            steps=options.steps, batch=4, frames=16, seed=seed, tensorboard=False,
            optim=OptimConfig(name="muon", learning_rate=1e-3 if bits else 3e-3, ema=0.98),
            out=str(folder if not bits else folder.with_name(f"{depth}-{seed}-{bits}")),
        ),
    )  # fmt: skip


def carry_out(form: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Trains, saves and measures."""
    depth, bits = FORMS[form]
    config = recipe(depth, bits, seed, options)
    job = config.build()
    result = run(job, config.loop, fresh=True)
    file = Path(config.loop.out) / "weights.safetensors"
    save(file, job.task.variables(result.params), job.task.header)
    found = config.evaluate_file(file)
    learned = sum(a.nbytes for n, a in load_file(file).items() if not n.startswith("stem/"))
    return {"form": form, "seed": seed, "bytes": learned, "mAP": found["mAP"]}


def page(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    tests = max(2, options.videos // 4)
    lines = [
        "# More weights of 2 bits, or fewer of 4?", "",
        f"`python -m tests.bench.paretoq --steps {options.steps} --videos {options.videos}`:",
        f"`tsa-lite0` on drawn persons, {options.steps} steps in floats from nothing, and as many",
        "more from there with bits, so that rows with bits have learned twice as long: compare",
        f"those with each other. mAP on {tests} videos that nothing learned from, mean and",
        "standard deviation over seeds; bytes without the frozen encoder.",
        "",
        "| student | kB | seeds | mAP |", "|---|---:|---:|---:|",
    ]  # fmt: skip
    for form in FORMS:
        mine = [100 * r["mAP"] for r in rows if r["form"] == form]
        if not mine:
            lines.append(f"| {form} | not run | | |")
            continue
        size = next(r["bytes"] for r in rows if r["form"] == form)
        wide = f" ± {statistics.stdev(mine):.1f}" if len(mine) > 1 else ""
        lines.append(
            f"| {form} | {size / 1e3:.0f} | {len(mine)} | {statistics.mean(mine):.1f}{wide} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--steps", type=int, default=240)
    p.add_argument("--videos", type=int, default=96)
    p.add_argument("--out", type=Path, default=OUT, help="results, without their suffix")
    p.add_argument("--folder", type=Path, default=Path("runs/paretoq"), help="weights and caches")
    options = p.parse_args()
    data = options.out.with_suffix(".jsonl")
    rows = [json.loads(t) for t in data.read_text().splitlines()] if data.is_file() else []
    for seed in SEEDS:
        for form in FORMS:
            if any((r["form"], r["seed"]) == (form, seed) for r in rows):
                continue
            rows.append(carry_out(form, seed, options))
            print(rows[-1], flush=True)
            with data.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            options.out.with_suffix(".md").write_text(page(rows, options))


if __name__ == "__main__":
    main()
