"""What a source of training videos is.

B clips of a batch (one stream each), T frames, K boxes per frame, C classes.
"""

from __future__ import annotations

import abc
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np


class DataError(ValueError):
    """Data that is missing, or is not what it should be; the text says which and what to do."""


class Clip(NamedTuple):
    """Consecutive frames of one video; with a leading B axis, of a batch of streams."""

    frames: np.ndarray  # [T, H, W, 3] uint8 RGB, or float16 features [T, h, w, F] of a frozen stem
    boxes: np.ndarray  # [T, K, 4] float32 x1 y1 x2 y2 as fractions of width and height
    box_valid: np.ndarray  # [T, K] bool: this slot holds a box
    persons: np.ndarray  # [T, K] float32: the box teacher's score that it is a person, else 0
    labels: np.ndarray  # [T, K, C] float32, 1 where the class holds
    labelled: np.ndarray  # [T, K] bool: the labels of this slot are known


class Source(abc.ABC):
    """Videos by number, read at one frame rate and size.

    Attributes:
      classes: names in the order of the labels; empty without labels.
      multi_label: a box can have several classes (sigmoid), or has one (softmax).
      frame_rate: frames/s that :meth:`read` gives.
      size: (height, width) of the frames in pixels.
      max_boxes: K.
      dense: every frame is annotated; False where only keyframes are.
      videos: a name per video.
      skipped: name -> why, of what could not be used; told at the end, never dropped silently.
    """

    classes: tuple[str, ...] = ()
    multi_label: bool = True
    frame_rate: float = 0.0
    size: tuple[int, int] = (0, 0)
    max_boxes: int = 0
    dense: bool = True
    videos: tuple[str, ...] = ()
    skipped: dict[str, str]

    def __len__(self) -> int:
        return len(self.videos)

    @abc.abstractmethod
    def length(self, video: int) -> int:
        """Frames of a video."""

    @abc.abstractmethod
    def read(self, video: int, start: int, count: int) -> Clip:
        """Frames ``start`` to ``start + count`` of a video; they lie within it.

        The same call gives the same clip, whatever was read before, in any process.
        """

    def identity(self, video: int, boxes: bool = False) -> str:
        """Of what a video's pictures are made, and with ``boxes`` its boxes too: two videos of one
        identity read alike, whatever their names. Here a hash of what is read; sources that know
        it without reading (files, generators) say so."""
        clip = self.read(video, 0, self.length(video))
        found = hashlib.sha256()
        for part in (clip.frames, *((clip.boxes, clip.box_valid, clip.persons) if boxes else ())):
            found.update(repr((part.shape, part.dtype.str)).encode())
            found.update(np.ascontiguousarray(part).tobytes())
        return found.hexdigest()

    def extras(self, video: int, start: int, count: int) -> dict[str, np.ndarray]:
        """More arrays [count, ...] for the batch, such as a teacher's answers (``target_…``)."""
        return {}


def need(path: str | Path, what: str, remedy: str) -> Path:
    """The path if it exists, else a DataError that says what is missing and what to do."""
    path = Path(path)
    if not path.exists():
        raise DataError(f"{what} is not at {path}: {remedy}")
    return path


def files_below(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """The files in a folder, to the bottom, in no order; links to folders are followed, each folder
    once on its way down. Links that lead nowhere are none."""
    above: dict[str, frozenset[str]] = {}
    for place, inside, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        own = above.pop(place, frozenset()) | {real}
        # a link to what it stands in would be followed for ever
        inside[:] = [i for i in inside if os.path.realpath(os.path.join(place, i)) not in own]
        above |= {os.path.join(place, i): own for i in inside}
        yield from (p for p in (Path(place, name) for name in names) if p.is_file())
