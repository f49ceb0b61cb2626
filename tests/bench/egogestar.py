"""Does memory matter? The EgoGestAR table: a teacher and its causal students, run for real.

    python -m tests.bench.egogestar --list               # the runs, in order
    python -m tests.bench.egogestar [--only 'dsta/*']    # those that have no result yet
    python -m tests.bench.egogestar --report             # results/egogestar.md from what there is

Each run is the shipped recipe with the settings that its result names: trained, measured through
its carry on sessions that nothing learned from, and measured once more with the frames of every
clip in an order drawn by chance. A run that is there already is not run again; one that was
stopped begins anew. Results are lines of results/egogestar.jsonl.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "egogestar.jsonl"
SEEDS = (0, 1, 2)
STUDENTS = {
    "vit": "none", "tsa": "shift (TSA)", "dsta": "LSTM (DSTA)", "swa": "window of 16 frames",
    "gdn": "gated delta rule", "rglru": "RG-LRU",
}  # fmt: skip
CHANCE = 0.1


class Run(NamedTuple):
    """A run: its name, the recipe, and the settings over it."""

    name: str
    config: str
    settings: tuple[str, ...]


def runs(folder: str) -> Iterator[Run]:
    """All runs, the teacher first."""
    yield Run("teacher", "egogestar_teacher", ())
    teacher = f"teacher={folder}/teacher/weights.safetensors"
    for seed in SEEDS:
        for arch in STUDENTS:
            changes = (f"model.name={arch}-palm", f"loop.seed={seed}", teacher)
            yield Run(f"{arch}/{seed}", "egogestar_student", changes)


def done() -> dict[str, dict]:
    """Results by the run's name."""
    if not RESULTS.is_file():
        return {}
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    return {row["run"]: row for row in rows}


def carry_out(run: Run, data: str, folder: str) -> dict:
    """Trains and measures; the result is also written down."""
    import jax

    from streamzoo import zoo
    from streamzoo.train import settings
    from streamzoo.train.loop import run as train

    changes = [*run.settings, f"cache={folder}/cache", f"loop.out={folder}/{run.name}"]
    recipe = settings.override(settings.load_config(run.config), changes)
    recipe = settings.override(recipe, [f"data.path={data}", f"test.path={data}"])
    clock = time.perf_counter()
    job = recipe.build()
    result = train(job, recipe.loop, fresh=True)
    variables = job.task.variables(result.params)
    file = f"{folder}/{run.name}/weights.safetensors"
    zoo.save(file, variables, job.task.header)
    mixed = settings.override(recipe, ["test.shuffle=True"]).evaluate_file(file)
    model, variables = zoo.load(file)
    shape = (1, 1, 19) if run.name == "teacher" else None  # its window is of points
    carry = jax.eval_shape(lambda: model.init_carry(1, shape))
    row = {
        "run": run.name,
        "config": run.config,
        "settings": [c.replace(folder, "runs/egogestar") for c in run.settings],
        "scores": {k: v for k, v in result.scores.items() if k.startswith("top1")},
        "shuffled": mixed["top1_last"],
        "clips": len(recipe.test.open(recipe.cache)),
        "carry": sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(carry)),
        "seconds": round(time.perf_counter() - clock),
    }
    with RESULTS.open("a") as out:
        out.write(json.dumps(row) + "\n")
    return row


HEAD = """# EgoGestAR: does memory matter on real video?

`python -m tests.bench.egogestar`, with the recipes `configs/egogestar_teacher.py` and
`configs/egogestar_student.py`. Ten gestures drawn in the air by a pointing hand, seen by a worn
camera at 5 frames/s; chance is {chance:.0f} %. Learned from the sessions {learned}; measured on
{measured}, of which nothing was learned: {clips} clips, one clip is {one:.1f} points. Every model
reads pixels: the frozen palm detector (`palm-lite/mediapipe`) makes one token of a frame, which
says where the palm is. The teacher learns from labels and reads the last 40 frames at once, more
than any gesture has; students learn from the teacher alone, without labels, and read one frame at
a time. *Last frame*: top-1 at the end of the gesture, mean and spread over seeds. *Any frame*: of
all frames. *Shuffled*: the same weights, at the last of the frames in an order drawn by chance.

| memory | model | seeds | last frame | gap to the teacher | any frame | shuffled | carry |
|---|---|---|---|---|---|---|---|
"""


def report() -> None:
    """Writes the page of what there is."""
    from streamzoo.train import settings

    rows = done()
    config = settings.load_config("egogestar_teacher")
    clips = rows["teacher"]["clips"]
    text = HEAD.format(
        chance=100 * CHANCE, clips=clips, one=100 / clips,
        learned=", ".join(config.data.sessions), measured=", ".join(config.test.sessions),
    )  # fmt: skip
    best = rows["teacher"]["scores"]["top1_last"]
    table = {"teacher": "all frames at once (teacher, labels)", **STUDENTS}
    for arch, memory in table.items():
        mine = [r for name, r in rows.items() if name.split("/")[0] == arch]
        if not mine:
            continue
        last = [100 * r["scores"]["top1_last"] for r in mine]
        mixed = [100 * r["shuffled"] for r in mine]
        every = [100 * r["scores"]["top1_frame"] for r in mine]
        name = "videomae-window-palm" if arch == "teacher" else f"{arch}-palm"
        gap = "" if arch == "teacher" else f"{100 * best - statistics.mean(last):.1f}"
        size = mine[0]["carry"]
        text += (
            f"| {memory} | `{name}` | {len(mine)} | {_spread(last)} | {gap} | {_spread(every)} | "
            f"{_spread(mixed)} | {f'{size / 1000:.1f} kB' if size else '0'} |\n"
        )
    RESULTS.with_suffix(".md").write_text(text)
    print(text)


def _spread(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--only", default="*", help="shell pattern of runs")
    parser.add_argument("--data", default="../shared/data/egogestar")
    parser.add_argument("--folder", default="runs/egogestar", help="weights, logs and caches")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    chosen = [r for r in runs(options.folder) if fnmatch.fnmatchcase(r.name, options.only)]
    if options.list:
        print("\n".join(r.name for r in chosen))
        return
    if not options.report:
        for run in chosen:
            if run.name not in done():
                row = carry_out(run, options.data, options.folder)
                print(run.name, row["scores"], row["shuffled"], flush=True)
    report()


if __name__ == "__main__":
    main()
