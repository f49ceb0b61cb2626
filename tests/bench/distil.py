"""The distillation table: teachers, students, ablations and adaptation, run for real.

    python tests/bench/distil.py --list                  # the runs, in order
    python tests/bench/distil.py                         # all that have no result yet
    python tests/bench/distil.py --only 'synth/dsta*'    # some of them
    python tests/bench/distil.py --speed                 # ms per frame; wants an idle machine
    python tests/bench/distil.py --report                # results/distil.{md,png}

Each run is a process of its own, restartable, and leaves results/distil/<run>.json: its settings,
seed, figures and cost. Several of these scripts may work side by side: a run belongs to whoever
made its lock. Needs the data sets under --data (default ../shared/data) but for ``synth``.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "distil"
SEEDS = (0, 1, 2)
STUDENTS = ("vit", "tsa", "dsta", "swa", "gdn")
# UT-Interaction: fold f leaves sequences 2f - 1 and 2f of both sets out; two of the four are run
QUARTERS = {f: (2 * f - 1, 2 * f, 2 * f + 9, 2 * f + 10) for f in (1, 2, 3, 4)}
FOLDS = {f: QUARTERS[f] for f in (1, 2)}
HELD = (15, 16, 17, 18)  # of the runs that adapt to UT-Interaction


@dataclasses.dataclass(frozen=True)
class Run:
    """A name, the settings over the base recipe of its data, and the run it needs first."""

    name: str
    settings: tuple[str, ...]
    after: str = ""


def base(data: str, shared: str, cache: str):
    """The recipe that all runs on one data set share."""
    from streamzoo.train.datasets.synth import SynthData
    from streamzoo.train.datasets.ucf11 import UCF11Data
    from streamzoo.train.datasets.ut_interaction import UTInteractionData
    from streamzoo.train.loop import LoopConfig
    from streamzoo.train.optim import OptimConfig
    from streamzoo.train.recipe import Model, Recipe
    from streamzoo.train.tasks import SuperviseConfig

    finder = f"{shared}/weights/yolox_nano_coco_416.onnx"
    loop = LoopConfig(
        batch=4, frames=16, log_every=25, checkpoint_every=0,
        optim=OptimConfig(name="muon", learning_rate=1.5e-3, ema=0.99),
    )  # fmt: skip
    if data == "synth":
        train, test = SynthData(videos=960), SynthData(videos=40, split="test")
        supervise = SuperviseConfig()
    elif data == "synth-ut":  # frames as synth has them; measured on synth: what is kept of it
        train = UTInteractionData(
            path=f"{shared}/ut_interaction", frame_rate=5.0, max_boxes=4,
            detector=finder, mirror=True,
        )  # fmt: skip
        test = SynthData(videos=40, split="test")
        supervise = SuperviseConfig()
    elif data in ("ut", "adapt"):
        train = UTInteractionData(
            path=f"{shared}/ut_interaction", size=(128, 160), frame_rate=8.0,
            max_boxes=4, detector=finder, mirror=True,
        )  # fmt: skip
        test = dataclasses.replace(train, mirror=False)
        loop = dataclasses.replace(
            loop, optim=dataclasses.replace(loop.optim, rate=1e-3, decay=0.1)
        )
        supervise = SuperviseConfig(smoothing=0.1)
    else:
        train = UCF11Data(
            path=f"{shared}/ucf11_5frames_160x120.zip", size=(128, 160),
            max_boxes=4, detector=finder, mirror=True,
        )  # fmt: skip
        test = dataclasses.replace(train, mirror=False, split="test")
        loop = dataclasses.replace(
            loop, lanes=16, frames=5, optim=dataclasses.replace(loop.optim, rate=1e-3, decay=0.1)
        )
        supervise = SuperviseConfig(smoothing=0.1)
    return Recipe(train, test, Model(), supervise=supervise, cache=cache, loop=loop)


def runs() -> list[Run]:
    """All runs, teachers first."""
    teacher = "model.name=videomae-window-lite0"
    found = [Run("synth/teacher", (teacher, "loop.steps=1200", "loop.batch=8"))]

    def student(
        data: str, name: str, taught: str, *more: str, arch: str, seeds: tuple = SEEDS
    ) -> None:
        steps = {"synth": 600, "ut": 160, "ucf11": 120, "adapt": 80, "synth-ut": 80}[data]
        if data == "synth":
            more = ("loop.optim.learning_rate=3e-3", *more)
        steps = {"short": 200, "long": 900}.get(name.split("-")[0], steps)
        for seed in seeds:
            settings = (
                f"model.name={arch}-lite0", f"teacher=runs/distil/{taught}/weights.safetensors",
                f"loop.seed={seed}", f"loop.steps={steps}", *more,
            )  # fmt: skip
            found.append(Run(f"{data}/{name}/{seed}", settings, taught))

    for fold, out in FOLDS.items():
        kept = tuple(s for f in QUARTERS.values() for s in f if s not in out)
        split = (f"data.sequences={kept}", f"test.sequences={out}")
        found.append(Run(f"ut/teacher/{fold}", (teacher, "loop.steps=250", "loop.batch=8", *split)))
    found.append(
        Run("ucf11/teacher", (teacher, "model.window=5", "loop.steps=350", "loop.batch=16"))
    )
    for arch in STUDENTS:
        student("synth", arch, "synth/teacher", arch=arch)
    for fold, out in FOLDS.items():
        kept = tuple(s for f in QUARTERS.values() for s in f if s not in out)
        split = (f"data.sequences={kept}", f"test.sequences={out}")
        for arch in ("vit", "tsa", "dsta", "swa"):
            student("ut", f"{arch}/{fold}", f"ut/teacher/{fold}", *split, arch=arch)
    for arch in ("vit", "tsa", "dsta"):
        student("ucf11", arch, "ucf11/teacher", arch=arch)
    for arch in ("vit", "tsa"):
        student("synth", f"long-{arch}", "synth/teacher", arch=arch)
    # ablations: a third as long, with baselines as long as they are
    for arch in ("vit", "tsa"):
        student("synth", f"short-{arch}", "synth/teacher", arch=arch)
    for name, more in {
        "shift-1-16": ("model.shift=0.0625",),
        "shift-1-4": ("model.shift=0.25",),
    }.items():
        student("synth", f"short-tsa-{name}", "synth/teacher", *more, arch="tsa")
    for name, more in {
        "logits": ("distil.attention=0", "distil.roi=0"),
        "logits-attention": ("distil.roi=0",),
        "fixed": ("distil.weighting=fixed",),
    }.items():
        student("synth", f"short-tsa-{name}", "synth/teacher", *more, arch="tsa")
    student("synth", "short-tsa-labels", "synth/teacher", "labels=True", arch="tsa")
    # without labels to another place: the teacher and the first student know set 1 only
    first, second = tuple(range(1, 9)), (11, 12, 13, 14)
    split = (f"data.sequences={first}", f"test.sequences={HELD}")
    found.append(Run("adapt/teacher", (teacher, "loop.steps=200", "loop.batch=8", *split)))
    student("adapt", "before", "adapt/teacher", *split, arch="dsta")
    for seed in SEEDS:
        more = f"model.weights=runs/distil/adapt/before/{seed}/weights.safetensors"
        split = (f"data.sequences={second}", f"test.sequences={HELD}", more)
        student("adapt", "after", "adapt/teacher", *split, arch="dsta", seeds=(seed,))
        seen = f"data.sequences={tuple(s for s in range(1, 19) if s not in HELD + (9, 10))}"
        more = f"model.weights=runs/distil/synth/tsa/{seed}/weights.safetensors"
        student("synth-ut", "tsa", "synth/teacher", seen, more, arch="tsa", seeds=(seed,))
    return found


def recipe_of(run: Run, shared: str, folder: str):
    """The recipe of a run."""
    from streamzoo.train import settings

    recipe = base(run.name.split("/")[0], shared, f"{folder}/cache")
    changes = [s.replace("runs/distil", folder) for s in run.settings]
    return settings.override(recipe, [*changes, f"loop.out={folder}/{run.name}"])


def carry_out(run: Run, shared: str, folder: str) -> None:
    """Trains, measures, and writes the result (called in a process of its own)."""
    import jax

    from streamzoo.train.loop import run as train
    from streamzoo.zoo import load_weights, save

    jax.config.update("jax_compilation_cache_dir", f"{folder}/compiled")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    recipe = recipe_of(run, shared, folder)
    clock = time.perf_counter()
    job = recipe.build()
    ready = time.perf_counter()
    result = train(job, recipe.loop, fresh=True)
    if result.stopped:
        raise SystemExit(128 + result.stopped)
    variables = job.task.variables(result.params)
    scores = dict(result.scores)
    if run.name.startswith("adapt/") and run.after:
        scores["difference"] = difference(recipe, recipe.test, job.task, variables)
    if run.name.startswith("synth-ut/"):
        held = dataclasses.replace(recipe.data, sequences=HELD, mirror=False)
        before = load_weights(recipe.model.weights)
        scores["difference_before"] = difference(recipe, held, job.task, before)
        scores["difference"] = difference(recipe, held, job.task, variables)
    save(f"{folder}/{run.name}/weights.safetensors", variables, job.task.header)
    last = {k: v for k, v in result.history[-1].items() if k.startswith(("weight/", "loss"))}
    told = {
        "run": run.name,
        "settings": list(run.settings),
        "scores": scores,
        "last": last,
        "clips": clips(recipe),
        "seconds": {"data": ready - clock, "training": time.perf_counter() - ready},
    }
    path = RESULTS / f"{run.name.replace('/', '.')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=1) + "\n")


def clips(recipe) -> int:
    """Videos that were measured on."""
    return len(recipe.test.open(recipe.cache))


def difference(recipe, data, task, variables) -> float:
    """Mean absolute difference of the student's and the teacher's probabilities on the videos of
    ``data``, whole frame."""
    import numpy as np

    from streamzoo.train.evaluate import answers
    from streamzoo.train.recipe import load_teacher

    test = data.features(recipe.cache, task.student.config.stem, task.card)
    model, teacher = load_teacher(recipe.teacher)
    pairs = zip(
        answers(task.student, variables, task.card, test),
        answers(model, teacher, task.card, test),
        strict=False,
    )
    gaps = [np.abs(s.scores[:, 0] - t.scores[:, 0]).mean() for s, t in pairs]
    return float(np.mean(gaps))


def speed(folder: str, shared: str) -> None:
    """ms per frame of every model of the table: the whole step from pixels, batch 1, medians of
    interleaved repeats in one process; the teacher recomputes its window, stem included."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from streamzoo import zoo

    found, timers = {}, {}
    for data in ("synth", "ut", "ucf11"):
        for name in ("teacher", *STUDENTS):
            run = next(
                (r for r in runs() if r.name.startswith(f"{data}/{name}") and
                 (Path(folder) / r.name / "weights.safetensors").is_file()), None,
            )  # fmt: skip
            if run is None:
                continue
            model, variables = zoo.load(f"{folder}/{run.name}/weights.safetensors")
            step = jax.jit(model.apply, donate_argnums=1)
            carry = model.init_carry(1)
            h, w = model.config.image_size
            k = recipe_of(run, shared, folder).data.max_boxes
            rng = np.random.default_rng(0)
            frame = jnp.asarray(rng.normal(size=(1, 1, h, w, 3)), jnp.float32)
            boxes = jnp.asarray(np.sort(rng.random((1, 1, k, 2, 2)), 3), jnp.float32)
            boxes = boxes.reshape(1, 1, k, 4)
            size = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(carry))
            found[f"{data}/{name}"] = {
                "parameters": sum(a.size for a in jax.tree.leaves(variables)),
                "carry": size,
                "frames": getattr(model.config, "frames", 1),
            }
            timers[f"{data}/{name}"] = [step, variables, carry, frame, boxes, []]
    for repeat in range(23):
        for timer in timers.values():
            step, variables, carry, frame, boxes, times = timer
            clock = time.perf_counter()
            carry, out = step(variables, carry, frame, boxes=boxes)
            jax.block_until_ready(out)
            timer[2] = carry
            if repeat > 2:  # the first ones compile and warm up
                times.append(time.perf_counter() - clock)
    for name, timer in timers.items():
        found[name]["ms"] = float(np.median(timer[-1]) * 1e3)
    path = RESULTS.parent / "distil_speed.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(path.read_text())


def work(options: argparse.Namespace, chosen: list[Run]) -> None:
    """Carries out what has no result yet, one process per run."""
    folder = Path(options.folder)
    for run in chosen:
        done = RESULTS / f"{run.name.replace('/', '.')}.json"
        lock = folder / f"{run.name.replace('/', '.')}.lock"
        weights = folder / run.after / "weights.safetensors"
        if done.is_file():
            continue
        if run.after and not weights.is_file():
            print(f"{run.name}: waits for {run.after}", flush=True)
            continue
        folder.mkdir(parents=True, exist_ok=True)
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        clock = time.perf_counter()
        log = folder / f"{run.name.replace('/', '.')}.log"
        with log.open("w") as file:
            command = [sys.executable, __file__, "--carry-out", run.name]
            command += ["--data", options.data, "--folder", options.folder]
            code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode
        lock.unlink()
        print(f"{run.name}: {time.perf_counter() - clock:.0f} s, exit {code}", flush=True)


def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--only", default="*", help="shell pattern of runs")
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--folder", default="runs/distil", help="weights, logs and caches")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--carry-out", metavar="RUN", help=argparse.SUPPRESS)
    options = parser.parse_args()
    chosen = [r for r in runs() if fnmatch.fnmatchcase(r.name, options.only)]
    if options.list:
        print("\n".join(r.name for r in chosen))
    elif options.carry_out:
        run = next(r for r in runs() if r.name == options.carry_out)
        carry_out(run, options.data, options.folder)
    elif options.speed:
        speed(options.folder, options.data)
    elif options.report:
        from distil_report import report

        report(RESULTS)
    else:
        work(options, chosen)


if __name__ == "__main__":
    main()
