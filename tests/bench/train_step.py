"""Training throughput in one run: our jitted step against PyTorch's, and the input pipeline.

The same student (TSA) and the same dense teacher, on the same random batches, from the same
weights: losses and gradients must agree before anything is timed. Medians, in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from spine import BEGIN, HERE, Report, say, spread, surroundings

EXAMPLE = """examples:
  python tests/bench/train_step.py             everything; writes results/train_step.{md,json}
  python tests/bench/train_step.py --quick     tiny shapes: does it run, do the two agree?
"""
MODELS = {"student": "tsa-mi16", "teacher": "videomae-window-mi16"}
VARIANTS = (("ours", "jit"), ("torch", "eager"), ("torch", "compile"))
OPTIM = dict(
    learning_rate=1e-3,
    warmup=1,
    final=1.0,
    weight_decay=0.05,
    clip=1.0,
    ema=0.998,
    betas=(0.9, 0.999),
)
CLASSES, BOXES, WARM, MANY = 13, 3, 1, 10_000


def fields(kind: str, quick: bool, side: int) -> dict[str, Any]:
    """The changes to a registered config."""
    found: dict[str, Any] = dict(image_size=(side, side), num_classes=CLASSES)
    if kind == "student":
        found |= dict(heads=("roi",), max_boxes=BOXES)
    if quick:
        found |= dict(dim=64, depth=2) | {"heads_per_block" if kind == "student" else "heads": 2}
    return found


def random_batches(lanes: int, frames: int, side: int, count: int = 4) -> list[dict]:
    """What the pipeline gives, of noise."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(count):
        low = rng.uniform(0, 0.5, (lanes, frames, BOXES, 2))
        boxes = np.concatenate([low, low + rng.uniform(0.2, 0.5, low.shape)], -1)
        there = rng.random((lanes, frames, BOXES)) < 0.8
        found.append(
            dict(
                frames=rng.integers(0, 256, (lanes, frames, side, side, 3), np.uint8),
                boxes=boxes.astype(np.float32),
                box_valid=there,
                persons=there.astype(np.float32),
                labels=(rng.random((*there.shape, CLASSES)) < 0.2).astype(np.float32),
                labelled=there,
                fresh=np.zeros(lanes, bool),
                valid=np.ones((lanes, frames), bool),
            )
        )
    return found


# --- one library per process -------------------------------------------------------------------


class Ours:
    """The step of ``train.step`` on ``Supervise``, as the loop runs it."""

    def __init__(self, task: dict[str, Any], flat: dict[str, np.ndarray], mode: str):
        import jax

        from streamzoo.train import sharding
        from streamzoo.train.loop import LoopConfig
        from streamzoo.train.optim import OptimConfig
        from streamzoo.train.step import make_step, start
        from streamzoo.train.tasks import Supervise
        from streamzoo.zoo import create_model, model_card
        from streamzoo.zoo.trees import flatten, nest

        model = create_model(task["name"], **task["fields"])
        lanes, frames = task["batches"][0]["valid"].shape
        config = LoopConfig(
            steps=MANY, batch=lanes, frames=frames, optim=OptimConfig(**task["optim"])
        )
        self.learn = Supervise(model, model_card(task["name"]), nest(flat))
        self.mesh = sharding.make_mesh(config.mesh, lanes)
        self.first = lambda: start(self.learn, config, self.mesh)
        state, optimiser = self.first()
        self.run, self.names = make_step(self.learn, optimiser, config, self.mesh, state)
        self.task, self.place, self.jax = task, sharding.place_batch, jax
        self.flatten = flatten
        begin = time.perf_counter()
        self.state, self.count = state, 0
        self.step()
        self.compile_s = time.perf_counter() - begin
        self.reset()

    def reset(self) -> None:
        self.state, self.count = self.first()[0], 0

    def step(self) -> float:
        batches = self.task["batches"]
        batch = self.place(batches[self.count % len(batches)], self.mesh)
        self.state, row = self.run(self.state, {}, batch)
        self.count += 1
        self.jax.block_until_ready((self.state, row))
        return float(row[self.names.index("loss")])

    def trace(self, steps: int) -> dict[str, Any]:
        """Losses of the first steps and the gradient of the first."""
        self.reset()
        args = self.learn.init(self.jax.random.key(0)), {}, self.state.memory
        key, batch = self.jax.random.key(0), self.task["batches"][0]
        grad = self.jax.jit(self.jax.grad(self.learn.loss, has_aux=True))(*args, key, batch)[0]
        grads = {n: np.asarray(a) for n, a in self.flatten({"params": grad}).items()}
        return {"loss": [self.step() for _ in range(steps)], "grad": grads}


def worker(pipe: Any, library: str, tasks: dict[str, Any]) -> None:
    """Holds one library's variants and runs them when it is told to."""
    made: dict[tuple[str, str], Any] = {}
    while (order := pipe.recv()) is not None:
        what, kind, mode, count = order
        try:
            if what == "make":
                task = tasks[kind]
                flat = dict(np.load(task["weights"]))
                if library == "torch":
                    from torch_train_step import Variant as Maker
                else:
                    Maker: Any = Ours
                made[kind, mode] = Maker(task, flat, mode)
                answer: Any = made[kind, mode].compile_s
            elif what == "trace":
                answer = made[kind, mode].trace(count)
            else:
                for _ in range(WARM):
                    made[kind, mode].step()
                answer = []
                for _ in range(count):
                    start = time.perf_counter()
                    made[kind, mode].step()
                    answer.append(time.perf_counter() - start)
        except Exception as error:  # the parent decides whether it can go on without
            answer = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        pipe.send(answer)


@contextlib.contextmanager
def workers(tasks: dict[str, Any]):
    """ask(library, what, kind, mode, count); one process each, never busy at the same time."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for library in ("ours", "torch"):
        pipes[library], theirs = context.Pipe()
        processes.append(context.Process(target=worker, args=(theirs, library, tasks)))
        processes[-1].start()

    def ask(library: str, *order: Any) -> Any:
        pipes[library].send(order)
        return pipes[library].recv()

    try:
        yield ask
    finally:
        for pipe in pipes.values():
            with contextlib.suppress(OSError):
                pipe.send(None)
        for process in processes:
            process.join(10)
            process.kill()


# --- sections ----------------------------------------------------------------------------------


def make_task(kind: str, quick: bool, lanes: int, frames: int, side: int, folder: Path) -> dict:
    """All that both libraries need to know."""
    import turns

    from streamzoo.zoo import init_params, model_card, model_config
    from streamzoo.zoo.action.videomae.model import position_table
    from streamzoo.zoo.trees import flatten

    name, changes = MODELS[kind], fields(kind, quick, side)
    config, card = model_config(name, **changes), model_card(name)
    rows, cols = config.grid()
    shape = dict(patch=config.patch, dim=config.dim, depth=config.depth, eps=config.eps)
    shape |= dict(rows=rows, cols=cols, classes=CLASSES, mean=card.mean, std=card.std)
    if kind == "student":
        shape |= dict(tubelet=0, heads=config.heads_per_block)
    else:
        table = position_table(frames // config.tubelet, config.grid(), (rows, cols), config.dim)
        shape |= dict(tubelet=config.tubelet, heads=config.heads, table=table)
    weights = folder / f"{kind}.npz"
    flat: dict[str, Any] = turns.lively(flatten(init_params(name, **changes)[1]))
    np.savez(weights, **flat)
    rates = [0.0] + [OPTIM["learning_rate"]] * MANY  # what our schedule gives: one step of warm-up
    return dict(
        name=name, fields=changes, shape=shape, optim=OPTIM, rates=rates, weights=str(weights),
        batches=random_batches(lanes, frames, side), threads=len(os.sched_getaffinity(0)),
    )  # fmt: skip


def agree(report: Report, kind: str, mode: str, ours: dict, theirs: dict) -> None:
    """The same step: losses of four steps to 1e-4, the first and its gradient to 1e-5."""
    losses = np.asarray(ours["loss"]), np.asarray(theirs["loss"])
    if set(ours["grad"]) != set(theirs["grad"]):
        raise SystemExit(f"{kind}: other parameters {set(ours['grad']) ^ set(theirs['grad'])}")
    gaps = {}
    for name, grad in ours["grad"].items():
        gaps[name] = np.abs(grad - theirs["grad"][name]).max() / (np.abs(grad).max() + 1e-6)
    worst = max(gaps, key=lambda n: gaps[n])
    gap = np.abs(losses[0] - losses[1])
    report.note(
        f"{kind}, torch {mode}: losses differ by {gap[0]:.1e} at the first and {gap.max():.1e} at "
        f"the first {len(gap)} steps, gradients by {gaps[worst]:.1e} of their largest ({worst})."
    )
    if gap[0] > 1e-5 or gap.max() > 1e-4 or gaps[worst] > 1e-3:
        raise SystemExit(
            f"not the same step: {kind}, torch {mode}: {losses}, {worst} {gaps[worst]}"
        )


def race(report: Report, tasks: dict, ask: Any, lanes: int, kind: str) -> float:
    """The steps of both libraries in turns; our median in seconds."""
    report.begin(f"step of the {kind}, {MODELS[kind]}")
    compiled, traces = {}, {}
    for library, mode in VARIANTS:
        say(f"building {library} {mode}")
        answer = ask(library, "make", kind, mode, 0)
        if isinstance(answer, str):
            report.note(f"{library} {mode} does not run here: {answer}")
            continue
        compiled[library, mode] = answer
        traces[library, mode] = ask(library, "trace", kind, mode, 4)
        if isinstance(traces[library, mode], str):
            raise SystemExit(f"{library} {mode}: {traces[library, mode]}")
        if library == "torch":
            agree(report, kind, mode, traces["ours", "jit"], traces[library, mode])
    rounds, steps = (2, 2) if report.quick else (10, 6)
    seconds: dict[tuple[str, str], list[list[float]]] = {key: [] for key in compiled}
    for turn in range(rounds):
        say(f"round {turn + 1} of {rounds}")
        for key in list(compiled) if turn % 2 == 0 else list(compiled)[::-1]:
            time.sleep(0.05)  # the other library's idle threads spin for a while
            seconds[key].append(ask(key[0], "run", kind, key[1], steps))
    middle = {key: float(np.median(sum(times, []))) for key, times in seconds.items()}
    for key, times in seconds.items():
        report.row(
            step=" ".join(key),
            **spread(sum(times, [])),
            **{"clips/s": lanes / middle[key], "compile s": compiled[key]},
        )
    best = min((key for key in middle if key[0] == "torch"), key=lambda k: middle[k])
    ours = middle["ours", "jit"]
    report.target(
        f"{kind}: our clips/s / torch {best[1]} clips/s", middle[best] / ours, at_least=1.0
    )
    by_round = sorted(
        float(np.median(b) / np.median(a))
        for a, b in zip(seconds["ours", "jit"], seconds[best], strict=True)
    )
    report.note(f"That ratio per round: {by_round[0]:.2f} to {by_round[-1]:.2f}.")
    return ours


def pipelines(report: Report, lanes: int, frames: int, side: int, steps: dict[str, float]) -> None:
    """The input pipeline alone: synth drawn as it is read, and videos in memory."""
    from streamzoo.train.data import pipeline
    from streamzoo.train.data.in_memory import LabelledVideos
    from streamzoo.train.data.synth import Synth

    report.begin("input pipeline")
    rng = np.random.default_rng(2)
    videos = [rng.integers(0, 256, (60, side, side, 3), np.uint8) for _ in range(32)]
    names = [str(i) for i in range(len(videos))]
    sources = {
        "synth, drawn when read": Synth(64, size=(side, side), max_boxes=BOXES),
        "videos in memory": LabelledVideos(
            names, videos, [0] * 32, ("a", "b"), 5.0, max_boxes=BOXES
        ),
    }
    rounds, count = (1, 4) if report.quick else (5, 30)
    for name, source in sources.items():
        iterator = pipeline.batches(source, lanes, frames, 0)
        times = []
        for turn in range(rounds + 1):
            for _ in range(8):  # empty what was read ahead meanwhile
                next(iterator)
            start = time.perf_counter()
            for _ in range(count):
                next(iterator)
            if turn:  # the first round draws what is kept afterwards
                times.append((time.perf_counter() - start) / count)
        each = float(np.median(times))
        report.row(source=name, **spread(times), **{"batches/s": 1 / each})
        for kind, seconds in steps.items():
            report.target(
                f"batches/s of {name} / steps/s of the {kind}", seconds / each, at_least=2.0
            )


def main() -> None:
    """Parses the command line, measures, prints and writes."""
    top = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--quick", action="store_true", help="tiny shapes, a smoke test")
    top.add_argument("--out", help="folder for train_step.md and .json (default: bench/results)")
    top.add_argument("--cores", type=int, default=2, help="cores to run on (default: 2)")
    args = top.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    lanes, frames, side = (2, 4, 32) if args.quick else (8, 16, 64)
    report = Report(args.quick)
    about = surroundings(sys.argv[1:])
    about["command"] = about["command"].replace("spine.py", "train_step.py")
    about["batch"] = f"{lanes} clips of {frames} frames of {side}x{side}, {BOXES} boxes, float32"
    steps = {}
    with tempfile.TemporaryDirectory() as folder:
        tasks = {
            kind: make_task(kind, args.quick, lanes, frames, side, Path(folder)) for kind in MODELS
        }
        with workers(tasks) as ask:
            for kind in MODELS:
                steps[kind] = race(report, tasks, ask, lanes, kind)
    pipelines(report, lanes, frames, side, steps)
    about["minutes"] = f"{(time.perf_counter() - BEGIN) / 60:.1f}"
    about["load average after"] = f"{os.getloadavg()[0]:.2f}"
    text = report.markdown(about).replace("# The spine, measured", "# Training steps, measured")
    print(text)
    if args.out or not args.quick:
        out = Path(args.out or HERE / "results")
        out.mkdir(parents=True, exist_ok=True)
        (out / "train_step.md").write_text(text)
        data = dict(about=about, ratios=report.ratios, sections=report.sections)
        (out / "train_step.json").write_text(json.dumps(data, indent=2) + "\n")
        say(f"wrote {out / 'train_step.md'} and train_step.json")


if __name__ == "__main__":
    main()
