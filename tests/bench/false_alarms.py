"""What models say of videos that show none of their actions, and how often they are wrong.

    python -m tests.bench.false_alarms       # writes tests/bench/results/false_alarms.{json,md,png}

More than ten minutes of street, room and screen content go through each model as `streamzoo watch`
would show it, at most eight frames a second. An alarm is a label, of the frame or of a person, that
is drawn and was not drawn in the frame before; one that a viewer would accept is none (walking
where people walk, biking where they ride). Screens are drawn by the command
(`tests/bench/screens.py`). Videos of the kinds marked * were among those that decisions were fitted
to, though not all of these clips; the others never were. The default pipeline, `follow-nano/coco`,
names no actions, so it has no such alarms and is not run. The picture shows risk against coverage
for `dsta-lite0/ucf11`: of the answers with the highest scores, frame by frame, on clips of its
actions that were held back and on all of these other videos, the share that is wrong.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import json
import platform
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import streamzoo
from streamzoo.streaming import Session, Step, open_source
from streamzoo.streaming.commands.demo import demo_clip
from streamzoo.streaming.session import frame_size
from streamzoo.streaming.views import view_of
from streamzoo.train import settings
from streamzoo.train.calibrate import undecided
from streamzoo.train.decision import risk_coverage
from streamzoo.train.decision_plot import draw
from streamzoo.train.seen import OTHER, looker, split
from streamzoo.train.seen import Video as Shown
from streamzoo.train.seen_videos import of_source

from .screens import screens

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
OUT = Path(__file__).parent / "results" / "false_alarms"
MODELS = ("dsta-lite0/ucf11", "dsta-lite0/ut")
UCF11 = "dsta-lite0/ucf11"
SCREEN, RATE = 180, 5.0  # seconds, frames/s
MOST = 8.0  # frames/s that a model is shown


class Video(NamedTuple):
    """A file, or drawn screens where there is none, and the labels that are no false alarm."""

    kind: str
    path: Path | None
    true: frozenset[str] = frozenset()


def videos() -> list[Video]:
    """Everything that is shown."""
    clips, walk = DATA / "clips", frozenset({"walking"})
    ride = walk | {"biking"}
    found = [
        Video("street", clips / "vtest_pedestrians_480x360.mp4", walk),
        Video("street", demo_clip(), ride),
        Video("room", clips / "sam2_bedroom.mp4", frozenset({"trampoline jumping"})),
        Video("room", clips / "cutie_example.mp4"),
        Video("room", clips / "mmaction2_demo_arm_wrestling.mp4"),
        Video("room *", clips / "one-by-one-person-detection.mp4", walk),
        Video("screen", None),
    ]
    with open(DATA / "surv_fight" / "labels.csv", newline="") as file:
        quiet = [row["video"] for row in csv.DictReader(file) if row["class"] == "nofight"]
    street = ((DATA / "surv_fight" / "clips" / f"{name}.mp4", ride) for name in quiet)
    falls = ((path, walk) for path in sorted((DATA / "gmdcsa24" / "clips").glob("*.mp4")))
    signs = ((path, frozenset()) for path in sorted((clips / "asl_gestures").glob("*.mkv")))
    for kind, some in (("street *", street), ("room *", falls), ("room *", signs)):
        found += [Video(kind, path, frozenset(true)) for path, true in some]
    return found


def shown(video: Video, card: Any) -> Iterator[tuple[np.ndarray, float]]:
    """Frames as the model wants them, and their times."""
    if video.path is None:
        height, width = card.input_size
        for k, picture in enumerate(screens(SCREEN, RATE)):
            yield np.asarray(Image.fromarray(picture).resize((width, height))), k / RATE
        return
    following = 0.0
    with open_source(video.path, size=frame_size(card)) as source:
        for frame in source:
            if frame.time >= following - 1e-6:
                following = max(following, frame.time - 1 / MOST) + 1 / MOST
                yield frame.image, frame.time


class Said(NamedTuple):
    """Of one video."""

    seconds: float
    alarms: list[str]  # labels that begin to be said
    spoken: float  # seconds in which something false is said


def labels(line: dict[str, Any]) -> set[str]:
    """The actions that a JSON line says, of the frame and of persons."""
    found = set(line.get("classes", {}))
    for person in [*line.get("persons", []), *line.get("objects", [])]:
        found |= {*person.get("classes", {}), *person.get("actions", {})}
    return found


def watched(step: Step, video: Video) -> Said:
    """A model over a video."""
    card = step.card
    view, frames = view_of(card), shown(video, card)
    first = next(frames)
    alarms, false, before, times = [], 0, set(), []
    with Session(step, first[0].shape[:2]) as session:
        for image, time in (first, *frames):
            now = labels(view.fields(session.push(image, time))) - video.true
            alarms += sorted(now - before)
            false += bool(now)
            before = now
            times.append(time)
    each = (times[-1] - times[0]) / max(len(times) - 1, 1)
    return Said(len(times) * each, alarms, false * each)


def counted(name: str, shows: list[Video]) -> list[dict[str, Any]]:
    """A row for each kind of video."""
    rows: dict[str, dict[str, Any]] = {}
    step = Step(*streamzoo.zoo.resolve(name))  # of all videos: it compiles once for a size
    for video in shows:
        said = watched(step, video)
        row = rows.setdefault(
            video.kind, dict(model=name, kind=video.kind, videos=0, seconds=0.0, false=0.0, said={})
        )
        row["videos"] += 1
        row["seconds"] += said.seconds
        row["false"] += said.spoken
        row["said"] = dict(Counter(row["said"]) + Counter(said.alarms))
    return [rows[kind] for kind in sorted(rows)]


def curve(shows: list[Video]) -> dict[str, Any]:
    """Draws risk against coverage and gives the areas under it."""
    found = undecided(UCF11)
    card, look = found.card, looker(found)
    recipe: Any = settings.load_config("ucf11_student")
    alone: dict[str, Any] = dict(max_boxes=1, size=card.input_size, detector="")
    known = {k: v for k, v in alone.items() if hasattr(recipe.test, k)}
    clips = of_source(dataclasses.replace(recipe.test, **known).open(recipe.cache), card, 80)
    seen = [one for one in split([look(one) for one in clips], 0.5) if one.held_back]
    for number, video in enumerate(shows):
        opened = functools.partial(_slowly, video, card)
        seen.append(look(Shown(f"{video.kind} {number}", frozenset(), OTHER, opened)))
    logits = np.concatenate([one.logits for one in seen])
    features = np.concatenate([one.frame for one in seen])
    truth = [np.isin(one.logits.argmax(axis=1), list(one.truth)) for one in seen]
    rule = streamzoo.zoo.resolve(UCF11).model.config.decision
    best = lambda rule, z: np.asarray(rule.scores(jnp.asarray(z), jnp.asarray(features))).max(1)
    plain = best(dataclasses.replace(rule, temperature=1.0, domain=()), logits)
    decided, right = best(rule, logits / rule.temperature), np.concatenate(truth)
    title = f"{UCF11}: clips held back and other videos"
    draw(OUT.with_suffix(".png"), plain, decided, right, title)
    area = lambda score: float(risk_coverage(score, right)[1].mean())
    actions = sum(len(one.logits) for one in seen if one.truth)
    return dict(
        frames=len(right), of_actions=actions, right=float(right.mean()), plain=area(plain),
        decided=area(decided), at_on=float((decided >= rule.on).mean()),
        risk_at_on=float(1 - right[decided >= rule.on].mean()),
    )  # fmt: skip


def _slowly(video: Video, card: Any) -> tuple[np.ndarray, float]:
    """A frame of every second."""
    kept = []
    for image, time in shown(video, card):
        if time >= len(kept):
            kept.append(image)
    return np.stack(kept), 1.0


def page(rows: list[dict[str, Any]], curve: dict[str, Any], device: str) -> str:
    """The results as Markdown."""
    text = " ".join((__doc__ or "").split("\n\n", 2)[2].split())
    lines = [
        "# False alarms", "", f"`python -m tests.bench.false_alarms`; {device}.", "", text, "",
        "| model | videos | minutes | alarms | a minute | time with a false label | labels |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == name]
        for row in (*mine, _sum(mine)):
            alarms, minutes = sum(row["said"].values()), row["seconds"] / 60
            said = ", ".join(f"{k} {v}" for k, v in sorted(row["said"].items())) or "-"
            lines.append(
                f"| {name} | {row['kind']}, {row['videos']} | {minutes:.1f} | {alarms} | "
                f"{alarms / minutes:.2f} | {100 * row['false'] / row['seconds']:.1f} % | {said} |"
            )
    lines += [
        "", "![risk against coverage](false_alarms.png)", "",
        f"Area under the curve {curve['plain']:.3f} by probability alone, {curve['decided']:.3f} "
        f"with the decision ({curve['frames']} frames, {curve['of_actions']} of them of its "
        f"actions; {100 * curve['right']:.1f} % can be right). Above the threshold of its card are "
        f"{100 * curve['at_on']:.1f} % of the frames, of which {100 * curve['risk_at_on']:.1f} % "
        "are wrong (frame by frame; the card also wants two frames in a row).",
    ]  # fmt: skip
    return "\n".join([*lines, ""])


def _sum(rows: list[dict[str, Any]]) -> dict[str, Any]:
    said: Counter[str] = sum((Counter(row["said"]) for row in rows), Counter())
    total = {key: sum(row[key] for row in rows) for key in ("videos", "seconds", "false")}
    return dict(total, kind="all", said=dict(said))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help=f"default: {', '.join(MODELS)}")
    args = parser.parse_args()
    shows, file = videos(), OUT.with_suffix(".json")
    stored = json.loads(file.read_text()) if file.is_file() else {"rows": [], "curve": None}
    for name in args.models or MODELS:
        rows = counted(name, shows)
        stored["rows"] = [row for row in stored["rows"] if row["model"] != name] + rows
        print(*rows, sep="\n", flush=True)
        file.write_text(json.dumps(stored, indent=1) + "\n")
    stored["curve"] = curve(shows)
    print(stored["curve"])
    file.write_text(json.dumps(stored, indent=1) + "\n")
    device = f"{platform.machine()} CPU, jax {jax.__version__}"
    OUT.with_suffix(".md").write_text(page(stored["rows"], stored["curve"], device))


if __name__ == "__main__":
    main()
