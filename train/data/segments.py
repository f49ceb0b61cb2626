"""Videos too many or too long to hold: parts of files, decoded when they are read."""

from __future__ import annotations

import abc
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import video
from .base import Clip, DataError, Source
from .kept import digest
from .video import decoded


class Segment(NamedTuple):
    """Part of a file that a lane plays as one video."""

    name: str
    path: Path
    start: float  # seconds into the file
    frames: int


class Slots(NamedTuple):
    """All of a clip but its pictures, for N frames; fields as in Clip."""

    boxes: np.ndarray
    box_valid: np.ndarray
    persons: np.ndarray
    labels: np.ndarray
    labelled: np.ndarray

    @classmethod
    def empty(cls, frames: int, boxes: int, classes: int) -> Slots:
        shape = (frames, boxes)
        return cls(
            np.zeros((*shape, 4), np.float32),
            np.zeros(shape, bool),
            np.zeros(shape, np.float32),
            np.zeros((*shape, classes), np.float32),
            np.zeros(shape, bool),
        )


class Segments(Source):
    """A source over files, of which at most ``budget`` GiB are decoded at any time.

    Each lane that plays needs its segment held: with less budget than that, every chunk decodes
    its segment anew (the same clips, slowly).

    A segment that turns out not to decode is told in ``skipped`` and read as black frames without
    boxes or labels, since the schedule has counted on its length; one that is a little shorter
    than its file promised holds its last picture.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        size: tuple[int, int],
        frame_rate: float,
        max_boxes: int,
        classes: Sequence[str],
        *,
        rate: float | None,
        budget: float = 2.0,
        skipped: Mapping[str, str] | None = None,
    ):
        self.segments = tuple(segments)
        self.videos = tuple(s.name for s in segments)
        self.size, self.frame_rate, self.max_boxes = size, frame_rate, max_boxes
        self.classes, self._rate = tuple(classes), rate
        self.skipped = dict(skipped or {})
        self._pictures = Recent(budget * 2**30, self._decode)
        self._slots = Recent(budget * 2**30 / 8, self._make_slots)

    @abc.abstractmethod
    def slots(self, number: int) -> Slots:
        """Boxes and labels of a whole segment."""

    def length(self, video: int) -> int:
        return self.segments[video].frames

    def read(self, video: int, start: int, count: int) -> Clip:
        at = slice(start, start + count)
        (frames,) = self._pictures(video)
        slots = self._slots(video)
        if self.segments[video].name in self.skipped:
            slots = Slots.empty(len(frames), self.max_boxes, len(self.classes))
        return Clip(frames[at], *(field[at] for field in slots))

    def identity(self, video: int, boxes: bool = False) -> str:
        _, path, start, frames = self.segments[video]
        pictures = decoded(path, self.size, self._rate, start, frames)
        return digest(pictures, self.boxed(video)) if boxes else pictures

    def boxed(self, number: int) -> str:
        """Of what the boxes of a segment are made; here a hash of them."""
        return digest(*self._slots(number)[:3])

    def _decode(self, number: Hashable) -> tuple[np.ndarray, ...]:
        return (self.decode(self.segments[number]),)  # pyright: ignore

    def decode(self, segment: Segment) -> np.ndarray:
        """All pictures of a segment; black ones if it cannot be decoded."""
        seconds = None if self._rate is None else segment.frames / self._rate
        try:
            frames = video.decode(
                segment.path, self.size, self._rate, start=segment.start, seconds=seconds
            )
        except DataError as error:
            self.skipped[segment.name] = str(error)
            return np.zeros((segment.frames, *self.size, 3), np.uint8)
        frames = frames[: segment.frames]
        if short := segment.frames - len(frames):
            frames = np.concatenate([frames, np.repeat(frames[-1:], short, axis=0)])
        return frames

    def _make_slots(self, number: Hashable) -> Slots:
        try:
            return self.slots(number)  # pyright: ignore
        except DataError as error:
            segment = self.segments[number]  # pyright: ignore
            self.skipped[segment.name] = str(error)
            return Slots.empty(segment.frames, self.max_boxes, len(self.classes))


class Recent:
    """``make(key)``, tuples of arrays, of which the last used are kept, ``limit`` bytes in all.

    Threads that ask for one key wait for one making of it; other keys go on meanwhile.
    """

    def __init__(self, limit: float, make: Callable[[Hashable], tuple[np.ndarray, ...]]):
        self.limit, self.make, self.bytes = limit, make, 0
        self._kept: OrderedDict[Hashable, tuple[np.ndarray, ...]] = OrderedDict()
        self._busy: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def __call__(self, key: Hashable):
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            busy = self._busy.setdefault(key, threading.Lock())
        with busy:
            with self._lock:
                if key in self._kept:
                    return self._kept[key]
            made = self.make(key)
            with self._lock:
                self._kept[key] = made
                self.bytes += sum(a.nbytes for a in made)
                while self.bytes > self.limit and len(self._kept) > 1:
                    _, old = self._kept.popitem(last=False)
                    self.bytes -= sum(a.nbytes for a in old)
                self._busy.pop(key, None)
        return made


def cut(
    paths: Mapping[str, Path], rate: float, seconds: float, skipped: dict[str, str]
) -> list[Segment]:
    """Files in parts of about ``seconds`` each, equal within a file; bad files into ``skipped``."""
    out = []
    for name, path in paths.items():
        try:
            frames = video.count(video.probe(path), rate)
        except DataError as error:
            skipped[name] = str(error)
            continue
        parts = max(1, round(frames / (seconds * rate)))
        edges = [round(i * frames / parts) for i in range(parts + 1)]
        for low, high in zip(edges, edges[1:], strict=False):
            if high > low:
                label = name if parts == 1 else f"{name}@{low / rate:g}s"
                out.append(Segment(label, path, low / rate, high - low))
    return out
