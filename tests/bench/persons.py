"""Persons found in pictures whose boxes people have drawn: recall and precision of detectors.

    python -m tests.bench.persons            # writes tests/bench/results/persons.{json,md}

142 pictures of Penn-Fudan (361 boxes; persons are left out there, so precision says little) and
222 of COCO (513 boxes), at most 384 pixels, none of them seen by us in training; COCO's are of its
training set. A box is found if its intersection over union with a detection that is not yet taken
is at least 0.5; detections are matched best score first.
"""

from __future__ import annotations

import csv
import functools
import json
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from streamzoo import zoo
from streamzoo.zoo.detect.boxes import overlap
from streamzoo.zoo.preprocess import fitted, preprocess

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "persons_still"
OUT = Path(__file__).parent / "results" / "persons"
SETS = {"Penn-Fudan": "pennfudan", "COCO": "coco"}
Find = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def drawn(prefix: str) -> dict[str, np.ndarray]:
    """Boxes [K, 4] of every picture of a set, K = 0 where nobody is in it."""
    found: dict[str, list] = defaultdict(list)
    with open(DATA / "boxes_ava_style.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row["video"].startswith(prefix):
                box = [row[k] for k in ("x1", "y1", "x2", "y2")]
                found[row["video"]] += [[float(v) for v in box]] if box[0] else []
    return {k: np.asarray(v, np.float32).reshape(-1, 4) for k, v in found.items()}


def detector(name: str, **overrides) -> Find:
    """uint8 RGB [H, W, 3] -> persons' boxes [K, 4] in [0, 1] and scores [K], best first."""
    model, params, card = zoo.resolve(name, **overrides)
    side = model.config.image_size

    @jax.jit
    def run(frames):
        return model.apply(params, model.init_carry(1), preprocess(frames, card))[1]

    def find(image):
        rows, cols = fitted(image.shape[:2], side)
        # filled up here, so that one program serves pictures of every shape
        whole = np.full((*side, 3), 114 if card.task == "detect" else 0, np.uint8)
        small = Image.fromarray(image).resize((cols, rows), Image.Resampling.BILINEAR)
        whole[:rows, :cols] = np.asarray(small)
        out = jax.tree.map(lambda a: np.asarray(a)[0, 0], run(whole[None, None]))
        keep = out.valid
        if card.task == "detect":
            keep = keep & (out.labels == card.classes.index("person"))
        scale = np.asarray([side[1] / cols, side[0] / rows] * 2)
        return np.clip(out.boxes[keep] * scale, 0, 1), out.scores[keep]

    return find


def hits(boxes: np.ndarray, truth: Any) -> np.ndarray:
    """Which detections, best first, are of a box that no better one took."""
    found, free = np.zeros(len(boxes), bool), np.ones(len(truth), bool)
    for k, box in enumerate(boxes):
        near = np.where(free, np.asarray(overlap(box, truth)), 0) if len(truth) else np.zeros(1)
        if near.max() >= 0.5:
            found[k], free[int(near.argmax())] = True, False
    return found


def measure(find: Find, prefix: str) -> dict[str, list]:
    """Scores and hits of all detections of a set, and how many boxes there are."""
    scores, found, total = [], [], 0
    for name, truth in sorted(drawn(prefix).items()):
        picture = np.asarray(Image.open(DATA / "images" / f"{name}.jpg").convert("RGB"))
        boxes, sure = find(picture)
        scores += sure.tolist()
        found += hits(boxes, truth).tolist()
        total += len(truth)
    return {"scores": scores, "hits": found, "boxes": [total]}


def at(measured: dict[str, list], threshold: float) -> tuple[float, float]:
    """(recall, precision) at a threshold."""
    kept = np.asarray(measured["scores"]) > threshold
    right = int(np.asarray(measured["hits"], bool)[kept].sum())
    return right / measured["boxes"][0], right / max(1, int(kept.sum()))


# name -> the finder, and the threshold it is used with
FINDERS: dict[str, tuple[Callable[[], Find], float]] = {
    "yolox-nano/coco": (functools.partial(detector, "yolox-nano/coco", threshold=0.01), 0.3),
    "yolox-nano/coco at 640 x 640": (
        functools.partial(detector, "yolox-nano/coco", threshold=0.01, image_size=(640, 640)),
        0.3,
    ),
    "movenet-multi/coco": (functools.partial(detector, "movenet-multi/coco", threshold=0.01), 0.15),
}
THRESHOLDS = (0.1, 0.2, 0.25, 0.3, 0.4, 0.5)


def line(row: dict) -> str:
    bold, star = "**" * row["operating"], "*" * row.get("at80", False)
    return (
        f"| {row['finder']} | {row['set']} | {bold}{row['threshold']:.3g}{bold}{star} |"
        f" {100 * row['recall']:.1f} | {100 * row['precision']:.1f} |"
    )


def best(measured: dict[str, list], precision: float) -> tuple[float, float]:
    """(threshold, recall) of the lowest threshold at which the precision is at least that."""
    order = np.argsort(-np.asarray(measured["scores"]), kind="stable")
    right = np.cumsum(np.asarray(measured["hits"], bool)[order])
    good = np.flatnonzero(right >= precision * np.arange(1, len(order) + 1))
    if not good.size:
        return 1.0, 0.0
    return measured["scores"][order[good[-1]]], right[good[-1]] / measured["boxes"][0]


def main() -> None:
    names = sys.argv[1:] or [*FINDERS]
    file = OUT.with_suffix(".json")
    rows = json.loads(file.read_text())["rows"] if file.is_file() else []
    rows = [row for row in rows if row["finder"] in FINDERS and row["finder"] not in names]
    for name in names:
        make, operating = FINDERS[name]
        find = make()
        for label, prefix in SETS.items():
            start = time.perf_counter()
            measured = measure(find, prefix)
            seconds = time.perf_counter() - start
            at80 = best(measured, 0.8)[0]
            for threshold in sorted({*THRESHOLDS, operating, at80}):
                recall, precision = at(measured, threshold - 1e-9 * (threshold == at80))
                rows.append(
                    dict(
                        finder=name, set=label, threshold=threshold, recall=recall,
                        precision=precision, operating=threshold == operating,
                        at80=threshold == at80,
                    )
                )  # fmt: skip
                print(line(rows[-1]), flush=True)
            print(f"{label}: {seconds:.0f} s", flush=True)
    device = f"{platform.machine()} CPU, jax {jax.__version__}"
    rows.sort(key=lambda row: [*FINDERS].index(row["finder"]))
    file.write_text(json.dumps(dict(device=device, rows=rows), indent=1) + "\n")
    OUT.with_suffix(".md").write_text(
        "# Persons in pictures with drawn boxes\n\n"
        + " ".join((__doc__ or "").split("\n\n", 2)[2].split())
        + f"\n\n`python -m tests.bench.persons`; {device}. Bold: the threshold a model is used"
        " with; *: the lowest at which the precision is at least 80. Per cent.\n\n"
        "| finder | set | threshold | recall | precision |\n|---|---|---|---|---|\n"
        + "".join(line(row) + "\n" for row in rows)
    )


if __name__ == "__main__":
    main()
