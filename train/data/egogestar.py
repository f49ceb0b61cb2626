"""EgoGestAR: gestures that a pointing hand draws into the air, seen by a worn camera.

Source: Garg et al., "DrawInAir: A Lightweight Gestural Interface Based on Fingertip Regression"
(ECCV 2018 workshops), and the repository varunj/EgoGestAR; a clip is one gesture. A single frame
shows a pointing hand and nothing of what it draws, so that without memory nothing is known.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from ...zoo.pose.palm.stem import move
from ...zoo.preprocess import fitted
from . import video
from .base import DataError, need
from .in_memory import LabelledVideos

NONE = "none"  # the class of clips without a gesture; one session alone has them
COLUMNS = ("video", "class", "session", "width", "height")


class EgoGestAR(LabelledVideos):
    """All clips, in memory.

    Args:
      root: folder with ``labels.csv``, ``classes.txt`` and ``clips``.
      none: with the clips without a gesture, as an eleventh class.
      size: (height, width) of the frames: a clip is scaled into it with its aspect ratio kept, at
        the top left, the rest black.
      frame_rate: frames/s; the files have 10 or 15.
      cache: folder for decoded frames.

    Raises:
      DataError: files or columns that are missing, an unknown class, no clips.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        none: bool = False,
        size: tuple[int, int] = (192, 192),
        frame_rate: float = 5.0,
        cache: str | Path | None = None,
    ):
        root = need(root, "the EgoGestAR folder", "give the folder that holds labels.csv and clips")
        classes = [c for c in _lines(root / "classes.txt") if none or c != NONE]
        rows = [r for r in read_labels(root / "labels.csv") if none or r["class"] != NONE]
        if odd := {row["class"] for row in rows} - set(classes):
            raise DataError(f"{root}: class {min(odd)!r} is not in {root / 'classes.txt'}")
        frames: dict[str, np.ndarray] = {}
        skipped: dict[str, str] = {}
        by_shape: dict[tuple[int, int], dict[str, Path]] = {}
        for row in rows:
            shape = int(row["height"]), int(row["width"])
            path = root / "clips" / f"{row['video']}.mp4"
            by_shape.setdefault(shape, {})[row["video"]] = path
        for shape, paths in by_shape.items():
            got, bad = video.load(paths, fitted(shape, size), frame_rate, cache=cache)
            frames |= {name: filled(a, size) for name, a in got.items()}
            skipped |= bad
        rows = [row for row in rows if row["video"] in frames]
        super().__init__(
            [row["video"] for row in rows], [frames[row["video"]] for row in rows],
            [classes.index(row["class"]) for row in rows], classes, frame_rate, skipped=skipped,
        )  # fmt: skip


def sessions(root: str | Path) -> dict[str, str]:
    """Clip -> letter of its recording session. Persons, rooms and light are alike within one: a
    split must not have a session on both sides. Raises as :func:`read_labels`."""
    return {row["video"]: row["session"] for row in read_labels(Path(root) / "labels.csv")}


def filled(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [N, h, w, 3] -> [N, *size, 3], black below and on the right."""
    more = size[0] - frames.shape[1], size[1] - frames.shape[2]
    return np.pad(frames, ((0, 0), (0, more[0]), (0, more[1]), (0, 0)))


def read_labels(path: Path) -> list[dict[str, str]]:
    """Rows of ``labels.csv``. Raises DataError where a column or a field is missing."""
    need(path, "the list of clips", "it belongs beside the folder clips")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows, 2):
        for column in COLUMNS:
            if not row.get(column):
                raise DataError(f"{path}:{number}: no {column}; it needs {', '.join(COLUMNS)}")
    return rows


def _lines(path: Path) -> list[str]:
    need(path, "the list of classes", "it belongs beside labels.csv")
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def vary(frames: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Another showing of a gesture, from the palm's points [T, 1, 1, F]: faster or slower, larger
    or smaller, a little turned, elsewhere in the picture, now and then not seen. As
    :class:`~streamzoo.train.data.stored.Varied` wants it; never mirrored, since left and right
    are classes."""
    count = len(frames)
    length = max(2, round(count * np.exp(rng.normal(0, 0.25))))
    at = np.linspace(0, count - 1, length)
    low = np.floor(at).astype(int)
    high, part = np.minimum(low + 1, count - 1), (at - low)[:, None, None, None]
    both = (frames[low][..., :1] > 0) & (frames[high][..., :1] > 0)
    near = np.rint(at).astype(int)
    mixed = frames[low] * (1 - part) + frames[high] * part
    x = np.where(both, mixed, frames[near]).astype(frames.dtype)
    angle = rng.normal(0, 0.12)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn = turn * np.exp(rng.normal(0, 0.2)) * np.exp(rng.normal(0, 0.1, (2, 1)))
    x = move(x, turn, rng.normal(0, 0.4, 2))
    x[rng.random(length) < 0.05] = 0
    return x, near
