"""Distilled image encoders on real frames: direct, through a proxy, masked, and from scratch.

    python tests/bench/encoder_distil.py --list             # the runs, in order
    python tests/bench/encoder_distil.py                    # all that have no result yet
    python tests/bench/encoder_distil.py --only 'chain/*'   # some of them
    python tests/bench/encoder_distil.py --report           # results/encoder_distil.{md,json}

Frames of UCF11 (5 a clip), its honest split; every student has one size, body and number of steps.
A frozen student is measured by nearest neighbours and a linear probe on each clip's middle frame.
Each run leaves <folder>/<run>.json; what is there is not run again. The action teacher is
configs/ucf11_teacher.py's, which learned from the labels of the training clips.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import functools
import json
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
SEEDS = (0, 1, 2)
STEPS = 300  # of every student and of the proxy; a fifth of the chain's are at two sizes
DEPTH = 4  # blocks of students and proxy, two thirds of the configs'
PROXY = dict(dim=288, heads=6)
FRAME = 2  # of each clip's five, the one that is measured on
METHODS = {
    "random": "untrained",
    "labels": "from scratch, on the labels",
    "direct": "direct: both teachers at once",
    "chain": "chain: teachers -> proxy -> student",
    "sami": "SAMI, EfficientNet-Lite0's map",
}
CEILINGS = {
    "imagenet": "EfficientNet-Lite0 (ImageNet), 128x160",
    "action": "action teacher (UCF11's labels), 5 frames at 128x160",
    "proxy": "the proxy, 64x80",
}
EARLIER = (
    "Settings were chosen while scores of an earlier attempt could be seen (160 steps on all five "
    "frames, other scoring, one seed: kNN / probe untrained 21.5 / 28.5, labels 35.8 / 36.4, "
    "direct 34.2 / 37.0). Rows whose spreads meet are in no order."
)


def runs() -> list[str]:
    """Names, what is needed first before what needs it."""
    found = [f"{method}/{seed}" for seed in SEEDS for method in METHODS]
    return [*found[:3], "proxy/0", *found[3:], "teacher/imagenet", "teacher/action"]


@functools.cache
def opened(data, cache: str):
    """A data set, read once for all runs."""
    return data.features(cache)


class Kept:
    """Data that is opened once."""

    def __init__(self, data):
        self.data = data

    def check(self, setting: str):
        self.data.check(setting)

    def features(self, cache: str):
        return opened(self.data, cache)


def recipe_of(method: str, seed: int, options: argparse.Namespace):
    """The recipes of a run, one after the other."""
    from streamzoo.configs.encoder_proxy import CONFIG as BASE
    from streamzoo.configs.encoder_pyramid import CONFIG as PYRAMID
    from streamzoo.configs.encoder_student import CONFIG as STUDENT
    from streamzoo.train.sami import SAMIConfig

    folder = f"{options.folder}/{method}/{seed}"
    archive = f"{options.data}/ucf11_5frames_160x120.zip"

    def of(recipe, steps: int, out: str = "", teachers=None, model=None, **changes):
        loop = dataclasses.replace(
            recipe.loop, steps=steps, seed=seed, out=folder + out, checkpoint_every=0,
            log_every=20, tensorboard=False,
        )  # fmt: skip
        return dataclasses.replace(
            recipe,
            data=Kept(dataclasses.replace(recipe.data, path=archive)),
            test=None,  # measured here, on fewer frames
            model=dataclasses.replace(model or recipe.model, depth=DEPTH),
            teachers=teachers or recipe.teachers, cache=options.cache, loop=loop, **changes,
        )  # fmt: skip

    steps = options.steps
    image = BASE.teachers[0]
    both = (image, f"action={options.action}")
    proxy = (f"proxy={options.folder}/proxy/0/weights.safetensors",)
    if method == "proxy":
        wide = dataclasses.replace(BASE.model, **PROXY)
        return [of(BASE, steps, teachers=both, model=wide)]
    if method == "chain":
        fixed = of(STUDENT, steps - steps // 5, "/fixed", proxy)
        last = of(PYRAMID, steps // 5, teachers=proxy)
        weights = f"{folder}/fixed/weights.safetensors"
        return [fixed, dataclasses.replace(
            last, model=dataclasses.replace(last.model, weights=weights)
        )]  # fmt: skip
    if method == "sami":
        how = SAMIConfig(depth=2, measured=BASE.distil.measured)
        return [of(BASE, steps, teachers=(image,), model=STUDENT.model, method="sami", sami=how)]
    return [of(BASE, steps, teachers=both, model=STUDENT.model)]


class Classify:
    """The student from scratch: its summary and mean map, one linear layer, cross-entropy."""

    constants = ()

    def __init__(self, task, classes: int):
        self.task, self.classes = task, classes
        self.rate_scale = task.rate_scale

    def variables(self, params):
        return {"params": params["student"]}

    def init(self, key):
        import jax.numpy as jnp

        width = 2 * self.task.student.config.dim
        return {
            "student": self.task.first,
            "head": {"kernel": jnp.zeros((width, self.classes)), "bias": jnp.zeros(self.classes)},
        }

    def init_memory(self, lanes):
        return ()

    def loss(self, params, constants, memory, key, batch):
        import jax.numpy as jnp

        from streamzoo import zoo
        from streamzoo.train.answers import resized, unit_range
        from streamzoo.train.losses import label_loss

        x = resized(unit_range(batch["frames"])[:, 0], self.task.student.config.image_size)
        x = zoo.preprocess(x, self.task.card)
        out = self.task.student.apply({"params": params["student"]}, x)
        x = jnp.concatenate([out.pooled, out.features.mean(axis=(1, 2))], axis=-1)
        logits = x @ params["head"]["kernel"] + params["head"]["bias"]
        loss = label_loss(logits, batch["labels"][:, 0, 0], False, 0.1).mean()
        return loss, (memory, {"label": loss})


def carry_out(run: str, options: argparse.Namespace) -> None:
    """Trains, measures, and writes the result."""
    import jax

    from streamzoo.train.loop import Job
    from streamzoo.train.loop import run as train
    from streamzoo.zoo.files import save

    method, seed = run.split("/")
    told: dict = {"run": run}
    if method == "teacher":
        told["scores"] = teacher_scores(seed, options)
        return write(run, told, options)
    clock = time.perf_counter()
    recipe: Any = None
    task: Any = None
    variables: Any = None
    for recipe in recipe_of(method, int(seed), options):
        job = recipe.build()
        task, variables = job.task, {"params": job.task.first}
        if method == "random":
            break
        if method == "labels":
            job = Job(Classify(task, len(job.source.classes)), job.batches, job.source)
        result = train(job, recipe.loop, fresh=True)
        if result.stopped:
            raise SystemExit(128 + result.stopped)
        variables = task.variables(result.params)
        save(f"{recipe.loop.out}/weights.safetensors", variables, task.header)
        told["last"] = result.history[-1]
    told["seconds"] = time.perf_counter() - clock
    told["parameters"] = sum(a.size for a in jax.tree.leaves(variables))
    told["scores"] = scores(task, variables, recipe, options)
    write(run, told, options)


class Middle:
    """One frame of every clip."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def length(self, video):
        return 1

    def read(self, video, start, count):
        return self.source.read(video, FRAME, count)


def both(options: argparse.Namespace):
    """The videos to learn from and to measure on."""
    recipe = recipe_of("direct", 0, options)[0]
    kept: Any = recipe.data
    test = Kept(dataclasses.replace(kept.data, split="test"))
    return [data.features(recipe.cache) for data in (recipe.data, test)]


def scores(task, variables, recipe, options: argparse.Namespace) -> dict:
    """Nearest neighbours and linear probe of a frozen student."""
    from streamzoo.train.encoder_evaluation import probed

    middles: Any = [Middle(source) for source in both(options)]
    train, test = middles
    return probed(task.student, variables, task.card, train, test)


def teacher_scores(name: str, options: argparse.Namespace) -> dict:
    """A teacher's own summary, measured as the students' features are."""
    import numpy as np

    from streamzoo.train.encoder_evaluation import labels_of
    from streamzoo.train.metrics.probe import accuracies
    from streamzoo.train.teachers import frozen_teacher, taught_by

    recipe = recipe_of("direct", 0, options)[0]
    path = dict(t.split("=") for t in recipe.teachers)[name]
    found = []
    for videos in both(options):
        source = taught_by(videos, {name: frozen_teacher(path)}, recipe.cache)
        said = [source.extras(i, FRAME, 1)[f"target_{name}_summary"][0] for i in range(len(source))]
        found += [np.stack(said).astype(np.float32), labels_of(source)]
    return accuracies(*found)


def write(run: str, told: dict, options: argparse.Namespace) -> None:
    path = result_of(run, options)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=1) + "\n")


def result_of(run: str, options: argparse.Namespace) -> Path:
    return Path(options.folder) / f"{run.replace('/', '.')}.json"


def report(options: argparse.Namespace) -> None:
    """results/encoder_distil.{md,json} of what is there."""
    import numpy as np

    from streamzoo.train.data import ucf11

    done = {r: json.loads(result_of(r, options).read_text()) for r in runs()
            if result_of(r, options).is_file()}  # fmt: skip
    table: dict = {}
    for method in METHODS:
        rows = [done[f"{method}/{s}"] for s in SEEDS if f"{method}/{s}" in done]
        if rows:
            table[method] = {
                "seeds": len(rows),
                **{k: [r["scores"][k] for r in rows] for k in ("knn", "probe")},
                "seconds": [r.get("seconds") for r in rows],
                "parameters": rows[0].get("parameters"),
            }
    ceilings = {n: done[r]["scores"] for n, r in
                (("imagenet", "teacher/imagenet"), ("action", "teacher/action"),
                 ("proxy", "proxy/0")) if r in done}  # fmt: skip
    steps = options.steps
    clips = len(ucf11.kept(f"{options.data}/ucf11_5frames_160x120.zip", "train"))
    found = {"steps": steps, "clips": clips, "students": table, "teachers": ceilings}
    (RESULTS / "encoder_distil.json").write_text(json.dumps(found, indent=1) + "\n")
    cell = lambda v: f"{100 * np.mean(v):.1f} ± {100 * np.std(v, ddof=1):.1f}"
    lines = [
        "# Distilled encoders", "",
        f"Made by `tests/bench/encoder_distil.py`: UCF11, {clips:,} clips to learn from and 316 to "
        "measure on; top-1 in percent of a frozen encoder's features (summary and mean of the map) "
        "of each clip's middle frame, mean and standard deviation over seeds. One clip is 0.3 "
        f"points. Students are ViTs 192 wide with {DEPTH} blocks at 64x80 pixels, {steps} steps of "
        f"32 frames (the chain: {steps - steps // 5} at one size, {steps // 5} at two); one proxy, "
        f"{PROXY['dim']} wide, as many steps. That is {steps * 32 / (5 * clips):.1f} epochs, far "
        "from converged. Seconds are of one core, shared with other work. " + EARLIER, "",
        "| student | seeds | kNN | linear probe | seconds |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for method, row in table.items():
        spent = [s for s in row["seconds"] if s]
        took = f"{np.mean(spent):.0f}" if spent and method != "random" else ""
        both = [cell(row[k]) if row["seeds"] > 1 else f"{100 * row[k][0]:.1f}"
                for k in ("knn", "probe")]  # fmt: skip
        lines.append(f"| {METHODS[method]} | {row['seeds']} | {both[0]} | {both[1]} | {took} |")
    lines += ["", "| teacher | kNN | linear probe |", "|---|---|---|"]
    for name, scores in ceilings.items():
        lines.append(
            f"| {CEILINGS[name]} | {100 * scores['knn']:.1f} | {100 * scores['probe']:.1f} |"
        )
    (RESULTS / "encoder_distil.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--only", default="*", help="shell pattern of runs")
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--action", default="runs/ucf11_teacher/weights.safetensors",
                        metavar="FILE", help="weights of the action teacher")  # fmt: skip
    parser.add_argument("--folder", default="runs/encoder_distil", help="weights, logs, results")
    parser.add_argument("--cache", default="runs/cache", help="teachers' answers")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each run; give another folder")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    chosen = [r for r in runs() if fnmatch.fnmatchcase(r, options.only)]
    if options.list:
        print("\n".join(chosen))
    elif options.report:
        report(options)
    else:
        import jax

        jax.config.update("jax_compilation_cache_dir", f"{options.folder}/compiled")
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
        for run in chosen:
            if not result_of(run, options).is_file():
                clock = time.perf_counter()
                carry_out(run, options)
                print(f"{run}: {time.perf_counter() - clock:.0f} s", flush=True)


if __name__ == "__main__":
    main()
