"""One child of two: a tracker that is asked for one must not paint the other.

    python -m tests.bench.one_of_two         # writes tests/bench/results/one_of_two.{json,md,jpg}

Every second of the 200 frames of `sam2_bedroom.mp4`: a girl and a boy jump on a bed, he passes
behind her. Each is asked for alone, by a point in the first frame, of the tracker as it is and with
`doubt` (`zoo/segment/propagate/laws.py`). Nobody has drawn masks; what is known of each frame is
the child's box by NanoTrack v2 (github.com/HonglinChu/SiamTrackers), which was shown a box around
it, and the persons that YOLOX-nano sees. A pixel of the mask is *on the other* if it lies in the
box of a person whom NanoTrack's box overlaps by less than 0.3 (IoU), and outside NanoTrack's box;
it is *elsewhere* if it lies in no person's box and not in NanoTrack's, made a tenth wider. Where
the boy is hidden by the girl NanoTrack is wrong too, so that his rows say less.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

import streamzoo
from streamzoo import Step, zoo
from streamzoo.streaming import open_source
from streamzoo.streaming.track import Prompt, TrackSession
from streamzoo.train.metrics.mot import overlap
from streamzoo.zoo.convert import convert_checkpoint
from tests.bench.persons import detector

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
CLIP = DATA / "clips" / "sam2_bedroom.mp4"
OUT = Path(__file__).parent / "results" / "one_of_two"
CHILDREN: dict[str, dict[str, Any]] = {  # in pixels of 960 x 540
    "girl": {"points": ((396, 240),), "box": (322, 2, 520, 400)},
    "boy": {"points": ((236, 280),), "box": (140, 132, 302, 412)},
}
LITTLE = 0.05  # of the mask: what may be on the other in a frame that counts as right
SHOWN = 12


def pictures() -> np.ndarray:
    """uint8 [T, 540, 960, 3]."""
    with open_source(CLIP) as source:
        return np.stack([frame.image for frame in source if frame.index % 2 == 0])


def tracked(step: Step, video: np.ndarray, prompt: Prompt) -> tuple[np.ndarray, list[float]]:
    """Masks [T, H, W] and milliseconds."""
    masks, times = [], []
    with TrackSession(step, video.shape[1:3], [prompt]) as session:
        height, width = session.frame_shape
        for frame in video:
            small = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
            result = session.push(np.asarray(small))
            masks.append(result.masks[prompt.name])
            times.append(result.milliseconds)
    return np.stack(masks), times


def published() -> Step:
    """NanoTrack v2 from its published files."""
    plan, params = convert_checkpoint(DATA / "weights" / "nanotrackv2_head.onnx")
    model = streamzoo.create_model(plan.model, **{**plan.overrides, "objects": 1})
    return Step(model, params, zoo.card_of(plan.model, objects=1))


def box_of(mask: np.ndarray) -> np.ndarray:
    """x1, y1, x2, y2 in [0, 1] around a mask; zeros around none."""
    if not mask.any():
        return np.zeros(4)
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    h, w = mask.shape
    return np.array([cols[0] / w, rows[0] / h, (cols[-1] + 1) / w, (rows[-1] + 1) / h])


def inside(shape: tuple[int, ...], boxes: np.ndarray, wider: float = 0.0) -> np.ndarray:
    """[H, W] bool: pixels in any of the boxes [K, 4]."""
    y, x = ((np.arange(n) + 0.5) / n for n in shape)
    found = np.zeros(shape, bool)
    for x1, y1, x2, y2 in boxes:
        more = wider * max(x2 - x1, y2 - y1)
        found |= ((y > y1 - more) & (y < y2 + more))[:, None] & (x > x1 - more) & (x < x2 + more)
    return found


def figures(masks: np.ndarray, own: np.ndarray, persons: list[np.ndarray]) -> dict[str, float]:
    """Of masks [T, H, W], the child's boxes [T, 4] and the persons' of every frame."""
    other, elsewhere, empty = [], [], 0
    for mask, box, seen in zip(masks[1:], own[1:], persons[1:], strict=True):
        if not mask.any():
            empty += 1
            continue
        others = seen[overlap(box[None], seen)[0] < 0.3] if len(seen) else seen
        mine = inside(mask.shape, box[None])
        other.append((mask & inside(mask.shape, others) & ~mine).sum() / mask.sum())
        known = inside(mask.shape, seen) | inside(mask.shape, box[None], 0.1)
        elsewhere.append((mask & ~known).sum() / mask.sum())
    return dict(
        frames=len(masks) - 1,
        empty=empty,
        on_other=float(np.mean(other)),
        frames_on_other=int((np.asarray(other) > LITTLE).sum()),
        elsewhere=float(np.mean(elsewhere)),
        frames_elsewhere=int((np.asarray(elsewhere) > LITTLE).sum()),
    )


def sheet(video: np.ndarray, masks: np.ndarray, width: int = 320) -> np.ndarray:
    """Frames over the clip, side by side in rows of four, with their masks."""
    tiles = []
    for t in np.linspace(0, len(video) - 1, SHOWN).astype(int):
        image = video[t].astype(np.float32)
        image[masks[t]] = 0.45 * image[masks[t]] + 0.55 * np.array([255, 40, 40])
        height = round(image.shape[0] * width / image.shape[1])
        tiles.append(np.asarray(Image.fromarray(image.astype(np.uint8)).resize((width, height))))
    return np.concatenate([np.concatenate(tiles[k : k + 4], 1) for k in range(0, SHOWN, 4)])


def page(rows: list[dict[str, Any]], device: str) -> str:
    """The results as Markdown."""
    text = " ".join((__doc__ or "").split("\n\n", 2)[2].split())
    lines = [
        "# One of two", "", f"`python -m tests.bench.one_of_two`; {device}.", "", text, "",
        "| tracker | child | frames | no mask | of the mask on the other | frames with more than "
        "5 % | elsewhere | frames with more than 5 % | ms per frame |",
        "|---" * 9 + "|",
    ]  # fmt: skip
    for r in rows:
        lines.append(
            f"| {r['tracker']} | {r['child']} | {r['frames']} | {r['empty']} | "
            f"{100 * r['on_other']:.1f} % | {r['frames_on_other']} | "
            f"{100 * r['elsewhere']:.1f} % | {r['frames_elsewhere']} | {r['ms']:.0f} |"
        )
    lines += ["", "![the girl, then the boy](one_of_two.jpg)", ""]
    lines += ["With `doubt`: the girl, then the boy, over the clip."]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="tracker-lite0/davis", help="a name or a file")
    parser.add_argument("--out", type=Path, default=OUT, help="stem of the files")
    args = parser.parse_args()
    video = pictures()
    find = detector("yolox-nano/coco", threshold=0.3)
    persons = [np.asarray(find(frame)[0]).reshape(-1, 4) for frame in video]
    steps = {args.weights: Step(*zoo.resolve(args.weights, objects=1))}
    steps["the same, doubt=True"] = Step(*zoo.resolve(args.weights, objects=1, doubt=True))
    nano, rows, sheets = published(), [], []
    for child, shown in CHILDREN.items():
        box = Prompt(child, box=shown["box"])
        boxes = np.stack([box_of(mask) for mask in tracked(nano, video, box)[0]])
        for name, step in steps.items():
            masks, times = tracked(step, video, Prompt(child, points=shown["points"]))
            row = figures(masks, boxes, persons) | dict(ms=float(np.median(times)))
            rows.append(dict(tracker=name, child=child) | row)
            print(rows[-1], flush=True)
            if name != args.weights:
                sheets.append(sheet(video, masks))
    device = f"{platform.machine()} CPU, jax {jax.__version__}"
    text = json.dumps(dict(device=device, rows=rows), indent=1)
    args.out.with_suffix(".json").write_text(text + "\n")
    Image.fromarray(np.concatenate(sheets)).save(args.out.with_suffix(".jpg"), quality=75)
    args.out.with_suffix(".md").write_text(page(rows, device))


if __name__ == "__main__":
    main()
