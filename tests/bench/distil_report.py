"""The table and the plots of tests/bench/distil.py, from its result files."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

FOLDS = (1, 2)
METRIC = {"synth": "mAP", "ut": "top1", "ucf11": "top1", "adapt": "top1", "synth-ut": "mAP"}
# row of the table -> the student whose speed it has
ROWS = {
    "vit": "vit", "tsa": "tsa", "dsta": "dsta", "swa": "swa", "gdn": "gdn",
    "long-vit": "vit", "long-tsa": "tsa",
}  # fmt: skip
NAMES = {"long-vit": "vit, 900 steps", "long-tsa": "tsa, 900 steps"}


def load(folder: Path) -> dict[str, Any]:
    """Run name -> its result."""
    found = [json.loads(p.read_text()) for p in sorted(folder.glob("*.json"))]
    return {one["run"]: one for one in found}


def points(values: list[float]) -> str:
    """Mean and spread in points, e.g. ``61.2 ± 0.8``; the number of runs if it is not 3."""
    if not values:
        return "–"
    mean = 100 * statistics.mean(values)
    if len(values) == 1:
        return f"{mean:.1f} (1 run)"
    few = "" if len(values) == 3 else f" ({len(values)} runs)"
    return f"{mean:.1f} ± {100 * statistics.stdev(values):.1f}{few}"


def scores(results: dict[str, Any], data: str, name: str, metric: str = "") -> list[float]:
    """A figure of all seeds of a run; on UT-Interaction the mean over the folds, per seed."""
    metric = metric or METRIC[data]
    if data != "ut":
        keys = [k for k in results if k == f"{data}/{name}" or _is_seed(k, f"{data}/{name}/")]
        return [results[k]["scores"][metric] for k in sorted(keys)]
    if name == "teacher":
        folds = [results.get(f"ut/teacher/{f}") for f in FOLDS]
        return [] if None in folds else [_clips(folds, metric)]
    found = []
    for seed in range(3):
        folds = [results.get(f"ut/{name}/{f}/{seed}") for f in FOLDS]
        if None not in folds:
            found.append(_clips(folds, metric))
    return found


def _is_seed(key: str, prefix: str) -> bool:
    return key.startswith(prefix) and key.removeprefix(prefix).isdigit()


def _clips(folds: list[Any], metric: str) -> float:
    # every clip counts once: folds differ in their number of clips
    total = sum(f["clips"] for f in folds)
    return sum(f["scores"][metric] * f["clips"] for f in folds) / total


def table(results: dict[str, Any], speed: dict[str, Any]) -> str:
    """All tables as Markdown."""
    lines = []
    about = {
        "synth": "synth: mAP over 13 classes, given boxes, every frame of 40 unseen videos",
        "ut": "UT-Interaction: top-1 of the video (mean of its frames' probabilities), the "
        "clips of two folds, each of which leaves two sequences of both sets out",
        "ucf11": "UCF11: top-1 of the video (mean over its 5 frames), 316 test clips",
    }
    for data, title in about.items():
        metric = METRIC[data]
        taught = scores(results, data, "teacher")
        lines += [
            f"### {title}", "",
            f"| model | labels | {metric} | gap to teacher | ms per frame | teacher window / step "
            "| parameters | carry | look-ahead |",
            "|---|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        window = speed[f"{data}/teacher"]
        lines.append(
            f"| teacher (window of {window['frames']}) | yes | {points(taught)} | – "
            f"| {window['ms']:.1f} | 1 | {window['parameters'] / 1e6:.2f} M "
            f"| {window['carry'] / 1e3:.0f} kB (frames) | 0 |"
        )
        for row in ROWS:
            got = scores(results, data, row)
            if not got or not taught:
                continue
            cost = speed[f"{data}/{ROWS[row]}"]
            gap = 100 * (statistics.mean(taught) - statistics.mean(got))
            lines.append(
                f"| {NAMES.get(row, row)} | no | {points(got)} | {gap:+.1f} | {cost['ms']:.1f} "
                f"| {window['ms'] / cost['ms']:.1f} | {cost['parameters'] / 1e6:.2f} M "
                f"| {cost['carry'] / 1e3:.0f} kB | 0 |"
            )
        lines.append("")
    lines += [
        "### Ablations on synth (mAP), a third of the steps of the table above", "",
        "| what | mAP |", "|---|---|",
    ]  # fmt: skip
    for name, text in {
        "short-tsa-shift-1-16": "TSA, 1/16 of the channels shifted",
        "short-tsa": "TSA, 1/8; logits + attention + RoI, uncertainty weights: the baseline",
        "short-tsa-shift-1-4": "TSA, 1/4",
        "short-vit": "no temporal mixing",
        "short-tsa-logits": "TSA, logits only",
        "short-tsa-logits-attention": "TSA, logits + attention",
        "short-tsa-fixed": "TSA, all three, fixed weights of 1",
        "short-tsa-labels": "TSA trained on the labels instead of the teacher",
    }.items():
        lines.append(f"| {text} | {points(scores(results, 'synth', name))} |")
    lines += ["", *_adaptation(results), "", *_weights(results)]
    return "\n".join(lines) + "\n"


def _adaptation(results: dict[str, Any]) -> list[str]:
    lines = [
        "### Adaptation without labels: UT-Interaction set 1 to set 2", "",
        "The teacher learned the labels of set 1 and the student that teacher on set 1; then the "
        "student met 4 sequences of set 2 without labels. Measured on the other 4.", "",
        "| | top-1 on set 2 | difference to the teacher's probabilities |", "|---|---|---|",
        f"| teacher | {points(scores(results, 'adapt', 'teacher'))} | – |",
    ]  # fmt: skip
    for name, text in (("before", "student of set 1"), ("after", "the same after set 2")):
        got, gap = (scores(results, "adapt", name, m) for m in ("top1", "difference"))
        lines.append(f"| {text} | {points(got)} | {points(gap)} |")
    before, after = (
        scores(results, "synth-ut", "tsa", m) for m in ("difference_before", "difference")
    )
    return lines + [
        "", "### Adaptation without labels: synth to UT-Interaction", "",
        "Teacher and student (TSA) know drawn figures only; then the student met the unlabelled "
        "real clips for 80 steps. Difference: on real clips that it did not meet. The mAP is what "
        "it keeps of synth.", "",
        "| | difference to the teacher's probabilities | mAP on synth |", "|---|---|---|",
        f"| student of synth | {points(before)} | {points(scores(results, 'synth', 'tsa'))} |",
        f"| the same after UT | {points(after)} | {points(scores(results, 'synth-ut', 'tsa'))} |",
    ]  # fmt: skip


def _weights(results: dict[str, Any]) -> list[str]:
    lines = [
        "### Learned weights exp(-s) at the end, mean over seeds", "",
        "| student | logits | RoI | attention, block by block (first to last) |",
        "|---|---|---|---|",
    ]  # fmt: skip
    for data in ("synth", "ucf11"):
        for row in ROWS:
            runs = [results[k]["last"] for k in results if _is_seed(k, f"{data}/{row}/")]
            if not runs:
                continue
            mean = lambda name: statistics.mean(r[name] for r in runs)
            blocks = sorted(k for k in runs[0] if k.startswith("weight/attention/"))
            each = ", ".join(f"{mean(k):.1f}" for k in blocks)
            whole = " | ".join(f"{mean(f'weight/{n}'):.1f}" for n in ("logits", "roi"))
            lines.append(f"| {data} {NAMES.get(row, row)} | {whole} | {each} |")
    return lines


def plot(results: dict[str, Any], speed: dict[str, Any], path: Path) -> None:
    """Accuracy against ms per frame, one panel per data set."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(12, 3.6))
    titles = {"synth": "synth", "ut": "UT-Interaction", "ucf11": "UCF11"}
    for panel, data in zip(panels, titles, strict=False):
        for index, name in enumerate(("teacher", *ROWS)):
            got = [100 * s for s in scores(results, data, name)]
            if not got:
                continue
            spread = statistics.stdev(got) if len(got) > 1 else 0
            mean, ms = statistics.mean(got), speed[f"{data}/{ROWS.get(name, name)}"]["ms"]
            mark = "s" if name == "teacher" else "o"
            label = NAMES.get(name, name)
            panel.errorbar(ms, mean, spread, fmt=mark, color=f"C{index}", capsize=3, label=label)
        panel.set_xscale("log")
        marks = (10, 20, 50, 100, 200)
        panel.set_xticks(marks, [str(m) for m in marks])
        panel.minorticks_off()
        panel.set_xlabel("ms per frame (2 CPU cores)")
        panel.set_ylabel(f"{METRIC[data]} (%)")
        panel.set_title(titles[data])
        panel.grid(alpha=0.3)
    panels[0].legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def report(folder: Path) -> None:
    """Writes ``<folder>.md`` and ``<folder>.png`` beside the results."""
    results = load(folder)
    speed = json.loads((folder.parent / "distil_speed.json").read_text())
    text = table(results, speed)
    folder.with_suffix(".md").write_text(
        "# Distillation, measured\n\nMade by `python tests/bench/distil.py`, then `--speed` and "
        "`--report`.\n\n" + text
    )
    plot(results, speed, folder.with_suffix(".png"))
    print(text)
