"""The bundled tracker on held-out DAVIS-2016 sequences, frame by frame as a live stream, against
copying the first mask and against NanoTrack's boxes.

Every method gets the first frame's mask (NanoTrack: the box around it) and answers frame by frame;
J, F and J&F are the official ones, without the first and the last frame, in the frames' own size.
"kept" is the part of a sequence before the object is lost: before 5 frames in a row with J of at
most 0.1.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EXAMPLE = """examples:
  python tests/bench/track.py                            the bundled tracker; writes results/track.*
  python tests/bench/track.py --quick                    12 frames of each, printed only
  python tests/bench/track.py --weights runs/davis_tracker/weights.safetensors --out mine.md
"""
HELD_OUT = ("cows", "drift-straight", "motocross-jump", "soapbox")
# of the tracker's published configuration, version 2
EXEMPLAR, SEARCH, STRIDE = 127, 255, 16
WINDOW, PENALTY, RATE, CONTEXT = 0.49, 0.15, 0.385, 0.5
LOST, PATIENCE = 0.1, 5


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = ROOT.parent / "shared" / "data"
    p.add_argument("--davis", type=Path, default=shared / "davis16_val_240p.zip")
    p.add_argument("--sequences", nargs="+", default=list(HELD_OUT))
    p.add_argument("--weights", default=["tracker-lite0/davis"], nargs="+", help="names or files")
    p.add_argument(
        "--nanotrack", type=Path, default=shared / "weights", help="holds nanotrackv2_*.onnx"
    )
    p.add_argument("--out", type=Path, default=HERE / "results" / "track.md")
    p.add_argument("--quick", action="store_true")
    return p


# --- methods: first mask [H, W] and frames [T, H, W, 3] -> masks [T, H, W] -----------------------


def copied(first: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """The first mask for ever."""
    return np.broadcast_to(first, frames.shape[:3])


class Stream:
    """A tracker of ours through a live session, prompted by the first mask or a point inside."""

    def __init__(self, step: Any, prompt: str):
        self.step, self.prompt, self.times = step, prompt, []

    def __call__(self, first: np.ndarray, frames: np.ndarray) -> np.ndarray:
        from PIL import Image

        from streamzoo.streaming.track import Prompt, TrackSession
        from streamzoo.train.track.prompts import inner_point

        size = frames.shape[1:3]
        shown: dict[str, Any] = {"mask": first}
        if self.prompt == "point":
            shown = {"points": (inner_point(first),)}
        with TrackSession(self.step, source_size=size) as session:
            session.add(Prompt("object", **shown))
            found, (height, width) = [], session.frame_shape
            for frame in frames:
                picture = Image.fromarray(frame)
                picture = picture.resize((width, height), Image.Resampling.BILINEAR)
                result = session.push(np.asarray(picture))
                found.append(result.masks["object"])
                self.times.append(result.milliseconds)
        return np.stack(found)


class NanoTrack:
    """Boxes of NanoTrack (github.com/HonglinChu/SiamTrackers), filled as a box or an ellipse.

    A Siamese tracker: the first frame's object, cut out at 127 pixels, is looked for in a cut of
    255 around its last place. The backbone's file says 255 x 255 and takes any size, so the two
    numbers become names.
    """

    def __init__(self, folder: Path, shape: str):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        fixed, free = b"\x0a\x03\x08\xff\x01", b"\x0a\x03\x12\x01n"
        model = (folder / "nanotrackv2_backbone.onnx").read_bytes().replace(fixed, free)
        self.backbone = onnxruntime.InferenceSession(model, options)
        head = (folder / "nanotrackv2_head.onnx").read_bytes()
        self.head = onnxruntime.InferenceSession(head, options)
        self.shape, self.times = shape, []

    def __call__(self, first: np.ndarray, frames: np.ndarray) -> np.ndarray:
        rows, cols = np.flatnonzero(first.any(1)), np.flatnonzero(first.any(0))
        low, high = np.array([cols[0], rows[0]]), np.array([cols[-1], rows[-1]]) + 1.0
        centre, size = (low + high - 1) / 2, high - low
        mean = frames[0].mean((0, 1))
        template = self._features(self._cut(frames[0], centre, _side(size), EXEMPLAR, mean))
        masks = [self._fill(centre, size, first.shape)]
        for frame in frames[1:]:
            start = time.perf_counter()
            centre, size = self._step(template, frame, centre, size, mean)
            self.times.append(1e3 * (time.perf_counter() - start))
            masks.append(self._fill(centre, size, first.shape))
        return np.stack(masks)

    def _step(self, template, frame, centre, size, mean):
        side = _side(size)
        zoom = EXEMPLAR / side
        picture = self._cut(frame, centre, side * SEARCH / EXEMPLAR, SEARCH, mean)
        score, edges = self.head.run(None, {"input1": template, "input2": self._features(picture)})
        score, edges = np.asarray(score)[0], np.asarray(edges)[0]  # [2, n, n], [4, n, n]
        n = score.shape[-1]
        score = 1 / (1 + np.exp(score[0] - score[1]))
        y, x = (np.mgrid[:n, :n] - n // 2) * STRIDE
        left, top, right, bottom = x - edges[0], y - edges[1], x + edges[2], y + edges[3]
        width, height = right - left, bottom - top
        change = lambda r: np.maximum(r, 1 / r)
        grown = change(_side((width, height)) / _side(size * zoom))
        turned = change((size[0] / size[1]) / (width / height))
        penalty = np.exp(-(grown * turned - 1) * PENALTY)
        window = np.outer(np.hanning(n), np.hanning(n))
        best = np.unravel_index(
            np.argmax(penalty * score * (1 - WINDOW) + window * WINDOW), score.shape
        )
        found = np.array([width[best], height[best]]) / zoom
        rate = penalty[best] * score[best] * RATE
        middle = np.array([(left + right)[best], (top + bottom)[best]]) / 2 / zoom
        limit = np.array(frame.shape[1::-1])
        centre = np.clip(centre + middle, 0, limit)
        return centre, np.clip(size * (1 - rate) + found * rate, 10, limit)

    def _features(self, picture: np.ndarray) -> np.ndarray:
        x = np.ascontiguousarray(picture[..., ::-1].transpose(2, 0, 1)[None], np.float32)
        return np.asarray(self.backbone.run(None, {"input": x})[0])

    def _cut(self, frame, centre, side, pixels, mean):
        """A square of the frame at ``pixels`` a side; beyond the frame its mean colour."""
        from PIL import Image

        side = round(float(side))
        corner = np.floor(centre - (side + 1) / 2 + 0.5).astype(int)
        square = np.empty((side, side, 3), np.uint8)
        square[:] = np.asarray(mean)
        h, w = frame.shape[:2]
        x0, y0 = np.maximum(corner, 0)
        x1, y1 = np.minimum(corner + side, (w, h))
        if x1 > x0 and y1 > y0:
            inside = slice(y0 - corner[1], y1 - corner[1]), slice(x0 - corner[0], x1 - corner[0])
            square[inside] = frame[y0:y1, x0:x1]
        size = (pixels, pixels)
        step = side / pixels
        how = Image.Resampling.BILINEAR
        matrix = (step, 0.0, 0.0, 0.0, step, 0.0)
        return np.asarray(
            Image.fromarray(square).transform(size, Image.Transform.AFFINE, matrix, how)
        )

    def _fill(self, centre: np.ndarray, size: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        y, x = np.mgrid[: shape[0], : shape[1]]
        far = np.abs(np.stack([x, y], -1) - centre) / (size / 2)
        return far.max(-1) <= 1 if self.shape == "box" else (far**2).sum(-1) <= 1


def _side(size: Any) -> Any:
    """Side of the square cut of a box: its width and height with half their sum as margin."""
    width, height = size
    margin = CONTEXT * (width + height)
    return np.sqrt((width + margin) * (height + margin))


# --- the table -------------------------------------------------------------------------------


def methods(args: argparse.Namespace) -> Iterator[tuple[str, Callable[..., np.ndarray]]]:
    from streamzoo import Step
    from streamzoo.train.track import with_trunk
    from streamzoo.zoo import card_of, init_params, resolve

    yield "first mask copied", copied
    if (args.nanotrack / "nanotrackv2_head.onnx").is_file():
        for shape in ("box", "ellipse"):
            yield f"NanoTrack v2, {shape}", NanoTrack(args.nanotrack, shape)
    else:
        print(f"no NanoTrack: {args.nanotrack}/nanotrackv2_head.onnx is not there")
    model, params = init_params("tracker-lite0", objects=1)
    step = Step(model, with_trunk(params), card_of("tracker-lite0", objects=1))
    yield "tracker-lite0 before training: label propagation, mask", Stream(step, "mask")
    for name in args.weights:
        try:
            found = resolve(name, objects=1)
        except ValueError as error:
            sys.exit(f"error: {error}; train one with configs/davis_tracker.py, give --weights")
        step = Step(*found)
        for prompt in ("mask", "point"):
            yield f"{_short(name)}, {prompt}", Stream(step, prompt)


def _short(name: str) -> str:
    path = Path(name)
    return path.parent.name if path.suffix == ".safetensors" else name


def measure(run: Callable[..., np.ndarray], clips: dict[str, Any]) -> dict[str, Any]:
    """Figures of one method over the sequences."""
    from streamzoo.train.metrics import jf, region_similarity, tracking_length

    pairs, kept, frames_kept = {}, {}, {}
    for name, clip in clips.items():
        truth = clip.masks > 0
        found = np.asarray(run(truth[0], clip.frames), bool)
        pairs[name] = truth.astype(np.uint8), found.astype(np.uint8)
        j = region_similarity(truth, found)
        lasts = tracking_length(j, truth.any((1, 2)), threshold=LOST, patience=PATIENCE)
        kept[name], frames_kept[name] = lasts / len(j), lasts
    result = jf(pairs)
    each = {
        name[:-2]: {"J": j, "F": f, "J&F": (j + f) / 2, "frames_kept": frames_kept[name[:-2]]}
        for name, (j, f) in result.per_object.items()
    }
    times = getattr(run, "times", [])[1:]
    return {
        "J&F": result.jf, "J": result.j, "J_recall": result.j_recall, "J_decay": result.j_decay,
        "F": result.f, "F_recall": result.f_recall, "F_decay": result.f_decay,
        "kept": float(np.mean(list(kept.values()))),
        "ms": float(np.median(times)) if times else math.nan,
        "sequences": each,
    }  # fmt: skip


def table(found: dict[str, Any], clips: dict[str, Any], about: str) -> str:
    """The results as Markdown."""
    lines = [
        "# Tracking on held-out DAVIS-2016 sequences", "", about, "",
        "| method | J&F | J | F | J recall | J decay | kept | ms per frame |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, row in found.items():
        took = f"{row['ms']:.1f}" if row["ms"] == row["ms"] else "–"
        cells = [f"{100 * row[k]:.1f}" for k in ("J&F", "J", "F", "J_recall", "J_decay", "kept")]
        lines.append(f"| {name} | {' | '.join(cells)} | {took} |")
    heads = [f"{name} ({len(clip.masks)})" for name, clip in clips.items()]
    lines += [
        "",
        "J&F, and frames before the object is lost, per sequence (of so many frames):",
        "",
    ]
    lines += [f"| method | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name, row in found.items():
        each = (row["sequences"][s] for s in clips)
        cells = (f"{100 * one['J&F']:.1f}, {one['frames_kept']}" for one in each)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from streamzoo.train.data.base import DataError
    from streamzoo.train.data.davis import Davis

    try:
        source = Davis(args.davis, args.sequences)
        clips = {name: source.read(i) for i, name in enumerate(source.videos)}
    except DataError as error:
        sys.exit(f"error: {error}")
    if args.quick:
        clips = {n: type(c)(c.frames[:12], c.masks[:12]) for n, c in clips.items()}
    found = {}
    for name, run in methods(args):
        start = time.perf_counter()
        found[name] = measure(run, clips)
        row = found[name]
        print(
            f"{name}: J&F {row['J&F']:.3f}, J {row['J']:.3f}, F {row['F']:.3f}, "
            f"kept {row['kept']:.2f} ({time.perf_counter() - start:.0f} s)", flush=True,
        )  # fmt: skip
    about = (
        f"`python tests/bench/track.py` on {datetime.date.today()}, {platform.machine()}, one run. "
        "Prompt: the first frame's mask, or a point inside it. J and F without the first and last "
        f"frame; kept: part before {PATIENCE} frames in a row with J of at most {LOST}; "
        "all in percent."
    )
    text = table(found, clips, about)
    print("\n" + text)
    if not args.quick:
        args.out.write_text(text, encoding="utf-8")
        args.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
