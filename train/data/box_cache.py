"""The box teacher's persons of whole videos, found once and kept on disk.

They are pseudo-labels: what another network says, not what a person drew.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from .kept import code
from .video import Size, decode, key, probe, stored
from .yolox import Detector, overlap

T = TypeVar("T")
FOUND_BY = ("train/data/box_cache.py", "train/data/yolox.py", "train/data/video.py")
LONGEST = 640  # pixels; the detector's own input is smaller still


class Boxes(NamedTuple):
    """Persons of N frames, n at most in each, best first."""

    boxes: np.ndarray  # [N, n, 4] float32 x1 y1 x2 y2 in [0, 1]
    scores: np.ndarray  # [N, n] float32, 0 for an empty slot


def detect(detector: Detector, frames: np.ndarray, every: int = 1) -> Boxes:
    """Persons of frames [N, H, W, 3], looked for in every ``every``-th frame.

    Between two looks the boxes move along a line, if the same slot holds a person in both that
    overlaps; otherwise the earlier look's are held.
    """
    looks = list(range(0, len(frames), every))
    found = [detector(frames[i]) for i in looks]
    boxes = np.zeros((len(frames), detector.boxes, 4), np.float32)
    scores = np.zeros(boxes.shape[:2], np.float32)
    for i, (b, s) in zip(looks, found):
        boxes[i : i + every], scores[i : i + every] = b, s
    for i, (b, s), (later, later_s) in zip(looks, found, found[1:]):
        same = (overlap(b[:, None], later[None]) > 0.3) & (s[:, None] > 0) & (later_s[None] > 0)
        for slot in range(detector.boxes):
            if not same[slot].any():
                continue
            to = later[int(np.argmax(overlap(b[slot], later) * same[slot]))]
            for step in range(1, every):
                boxes[i + step, slot] = b[slot] + (to - b[slot]) * (step / every)
    return Boxes(boxes, scores)


def of_video(
    path: Path,
    detector: Detector,
    rate: float | None,
    frames: int,
    *,
    every: int = 1,
    start: float = 0.0,
    seconds: float | None = None,
    cache: str | Path | None = None,
) -> Boxes:
    """Persons of ``frames`` frames of a file, seen at its own size, which the training size may be
    far below. Arguments as in :func:`~streamzoo.train.data.video.decode`."""

    def make() -> dict[str, np.ndarray]:
        size = _bounded(probe(path).size)
        return detect(detector, decode(path, size, rate, start=start, seconds=seconds),
                      every)._asdict()  # fmt: skip

    how = (rate, every, start, seconds, detector.identity, code(*FOUND_BY))
    name = "persons-" + key(path, *how)
    got = stored(cache, name, make)
    short = frames - len(got["scores"])
    if short > 0:  # a file cut off: hold the last ones
        got = {k: np.concatenate([v, np.repeat(v[-1:], short, axis=0)]) for k, v in got.items()}
    return Boxes(got["boxes"][:frames], got["scores"][:frames])


def _bounded(size: Size) -> Size | None:
    scale = LONGEST / max(size)
    return None if scale >= 1 else (round(size[0] * scale), round(size[1] * scale))


def told(items: Iterable[T], total: int, what: str, write: Callable | None = None) -> Iterator[T]:
    """The items, with a line on stderr every few seconds of a long work: done, left, time left."""
    write = write or (lambda line: print(line, file=sys.stderr, flush=True))
    began = last = time.monotonic()
    for i, item in enumerate(items):
        now = time.monotonic()
        if now - last > 5 and i:
            left = (now - began) / i * (total - i)
            write(f"{what}: {i} of {total}, {left:.0f} s left")
            last = now
        yield item


def opened(detector: str | Path | Detector, boxes: int) -> Detector:
    """The detector of an ONNX file, giving the best ``boxes`` persons; a Detector is left as is."""
    return detector if isinstance(detector, Detector) else Detector(detector, boxes=boxes)
