"""The videos that a model is shown to find out what it knows: of its actions, and others."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..zoo import Card
from ..zoo.preprocess import frame_shape
from .data import video
from .data.base import DataError, Source, files_below, need
from .seen import EITHER, LEARNED, OTHER, Video

STILLS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
STILL = 4  # frames, at 1 frame/s, that a picture counts for
Size = tuple[int, int]


def of_classes(folder: Path, card: Card, frames: int) -> list[Video]:
    """The videos of a folder with a folder per class. Raises DataError."""
    need(folder, "the folder of videos by class", "check the path of --in-domain")
    plain = lambda name: name.lower().replace("_", " ")
    numbers = {plain(name): number for number, name in enumerate(card.classes)}
    found, names = [], sorted(p for p in folder.iterdir() if p.is_dir())
    for inside in names:
        if plain(inside.name) not in numbers:
            raise DataError(
                f"{inside}: no class of {card.name}, which has {', '.join(card.classes)}; give "
                "videos of other actions with --others"
            )
        truth = frozenset([numbers[plain(inside.name)]])
        found += [_file(path, folder, card, frames, truth, LEARNED) for path in video.find(inside)]
    if not found:
        raise DataError(
            f"{folder}: no folder of a class in it: put the clips into folders named by their "
            f"class, such as {folder / (card.classes or ('walking',))[0]}"
        )
    return found


def of_source(source: Source, card: Card, frames: int) -> list[Video]:
    """The videos of a data set whose slot 0 is the whole frame. Raises DataError."""
    if tuple(source.classes) != tuple(card.classes):
        raise DataError(
            f"the data have the classes {', '.join(source.classes)} and {card.name} has "
            f"{', '.join(card.classes)}: give the config that it was trained with"
        )

    def opened(number: int) -> tuple[np.ndarray, float]:
        count = min(source.length(number), frames)
        return source.read(number, 0, count).frames, source.frame_rate

    found = []
    for number, name in enumerate(source.videos):
        labels = source.read(number, 0, 1).labels[0, 0]
        truth = frozenset(np.flatnonzero(labels).tolist())
        found.append(Video(name, truth, LEARNED, functools.partial(opened, number)))
    return found


def of_others(
    folder: Path, card: Card, frames: int, shown: dict[str, frozenset[int]], jpeg: Size | None
) -> list[Video]:
    """The videos and stills of a folder, at any depth; ``shown`` as :func:`read_shown` gives it.

    jpeg: each is also shown as JPEG pictures of this (height, width), so that those are no sign of
    what was learned. Raises DataError.
    """
    need(folder, "the folder of other videos", "check the path of --others")
    wanted = (*video.SUFFIXES, *STILLS)
    paths = sorted(p for p in files_below(folder) if p.suffix.lower() in wanted)
    if not paths:
        raise DataError(f"{folder}: no videos or pictures in it (looked for {', '.join(wanted)})")
    found = []
    for path in paths:
        truth = shown.get(path.name, frozenset())
        one = _file(path, folder, card, frames, truth, EITHER if truth else OTHER)
        found.append(one)
        if jpeg is not None:
            found.append(one._replace(open=functools.partial(_as_jpeg, one.open, jpeg)))
    return found


def read_shown(path: Path, classes: Sequence[str]) -> dict[str, frozenset[int]]:
    """File name -> classes that it shows, of lines ``file name,class``. Raises DataError."""
    need(path, "the list of what other videos show", "check the path of --shown")
    found: dict[str, frozenset[int]] = {}
    with open(path, newline="", encoding="utf-8") as lines:
        for number, row in enumerate(csv.reader(lines), 1):
            if len(row) != 2 or row[1] not in classes:
                raise DataError(
                    f"{path}, line {number}: give a file name and a class, one of "
                    f"{', '.join(classes)}"
                )
            found[row[0]] = found.get(row[0], frozenset()) | {list(classes).index(row[1])}
    return found


def _file(
    path: Path, folder: Path, card: Card, frames: int, truth: frozenset[int], kind: int
) -> Video:
    def opened() -> tuple[np.ndarray, float]:
        if path.suffix.lower() in STILLS:
            still = _still(path)
            height, width = frame_shape(card, (still.height, still.width))
            picture = still.resize((width, height), Image.Resampling.BILINEAR)
            return np.repeat(np.asarray(picture)[None], STILL, axis=0), 1.0
        info = video.probe(path)
        size = frame_shape(card, info.size)
        return video.decode(path, size, seconds=frames / info.rate)[:frames], info.rate

    return Video(f"{folder.name}/{path.relative_to(folder)}", truth, kind, opened)


def _still(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except OSError as error:
        raise DataError(f"{path}: no picture that can be read ({error})") from None


def _as_jpeg(opened: Callable[[], tuple[np.ndarray, float]], size: Size) -> Any:
    frames, rate = opened()
    (height, width), made = frames.shape[1:3], []
    for frame in frames:
        file = io.BytesIO()
        small = Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.BILINEAR)
        small.save(file, "JPEG", quality=75)
        again = Image.open(file).resize((width, height), Image.Resampling.BILINEAR)
        made.append(np.asarray(again))
    return np.stack(made), rate
