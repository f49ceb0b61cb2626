"""Frames with captions: what labels and a detector say of them, put into a sentence.

UCF11 gives what is done, persons_still how many people people drew boxes around, and the
surveillance fights both: the class of the clip, and how many persons YOLOX-nano found on the frame.
What is held back: UCF11's test split, every fifth still picture, every fifth source of the fights.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data import video
from ..data.ucf11 import UCF11

SIZE = (224, 224)
SURE = 0.4  # least score of a person that a caption counts
DOING = {
    "basketball": "playing basketball",
    "biking": "riding a bike",
    "diving": "diving into the water",
    "golf swing": "playing golf",
    "horse riding": "riding a horse",
    "soccer juggling": "playing soccer",
    "swing": "on a swing",
    "tennis swing": "playing tennis",
    "trampoline jumping": "jumping on a trampoline",
    "volleyball spiking": "playing volleyball",
    "walking": "walking with a dog",
}
NUMBERS = ("no", "one", "two", "three", "four")


@dataclass(frozen=True)
class Shown:
    """A frame with its caption.

    Attributes:
      frame: uint8 [224, 224, 3].
      caption: a sentence.
      kind: ``action``, ``count`` or ``fight``.
      answer: what of it is looked at: the class, or how many.
      held: it is not learned from.
    """

    frame: np.ndarray
    caption: str
    kind: str
    answer: str
    held: bool


def counted(people: int) -> str:
    """A sentence of how many people there are."""
    if people == 0:
        return "There is nobody in the picture."
    if people == 1:
        return "There is one person in the picture."
    many = NUMBERS[people] if people < len(NUMBERS) else "many"
    return f"There are {many} people in the picture."


def how_many(people: int) -> str:
    """The word of a count."""
    return NUMBERS[people] if people < len(NUMBERS) else "many"


def actions(archive: Path, frames: tuple[int, ...] = (1, 3)) -> Iterator[Shown]:
    """UCF11: two frames of each clip to learn from, one of each to be held against."""
    for split in ("train", "test"):
        source = UCF11(archive, split)
        for i in range(len(source.videos)):
            clip = source.read(i, 0, 5)
            label = source.classes[int(clip.labels[0, 0].argmax())]
            for at in frames if split == "train" else (2,):
                text = f"A person is {DOING[label]}."
                frame = video.resize(clip.frames[at], SIZE)
                yield Shown(frame, text, "action", label, split == "test")


def stills(folder: Path) -> Iterator[Shown]:
    """persons_still: boxes that people drew."""
    with (folder / "boxes_ava_style.csv").open() as file:
        rows = list(csv.DictReader(file))
    people = Counter(r["video"] for r in rows if r["x1"])
    for number, name in enumerate(sorted({r["video"] for r in rows})):
        found = sorted((folder / "images").glob(f"{name}.*"))
        if found:
            frame = video.decode(found[0], SIZE)[0]
            many = people[name]
            yield Shown(frame, counted(many), "count", how_many(many), number % 5 == 0)


def fights(folder: Path, clips: int | None = None) -> Iterator[Shown]:
    """Surveillance clips: the class, and the persons of a detector on frame 10."""
    with (folder / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))[:clips]
    with (folder / "clips_ava_style.csv").open() as file:
        boxes = [r for r in csv.DictReader(file) if int(r["frame"]) == 10]
    people = Counter(r["video"] for r in boxes if float(r["score"]) >= SURE)
    sources = sorted({r["source"] for r in rows})
    for row in rows:
        files = sorted((folder / "clips").glob(f"{row['video']}.*"))
        if not files:
            continue
        frames = video.decode(files[0], SIZE)
        many, fight = people[row["video"]], row["class"] == "fight"
        text = "People are fighting." if fight else counted(many)
        held = sources.index(row["source"]) % 5 == 0
        frame = frames[min(10, len(frames) - 1)]
        yield Shown(frame, text, "fight", "fight" if fight else "no fight", held)


def pictures(data: Path) -> Iterator[Shown]:
    """All of them."""
    yield from actions(data / "ucf11_5frames_160x120.zip")
    yield from stills(data / "persons_still")
    yield from fights(data / "surv_fight")
