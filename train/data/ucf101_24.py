"""UCF101-24 clips with a box, class and track per person and frame: real data for evaluation.

Sources: Soomro et al., "UCF101" (arXiv 1212.0402); Singh et al., "Online Real-time Multiple
Spatiotemporal Action Localisation and Prediction" (ICCV 2017) for the corrected boxes.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np

from . import tables, video
from .base import DataError, need
from .segments import Segment, Segments, Slots

Person = tuple[int, tuple[float, float, float, float]]  # class, box


class UCF101_24(Segments):
    """Clips of a table ``video,frame,x1,y1,x2,y2,class,track`` (frames counted from 0).

    Boxes are drawn only while the action lasts; before and after it a clip has none, though a
    person may be seen.

    Args:
      root: folder with ``classes.txt``, ``clips_ava_style.csv`` and ``clips``.
      size: (height, width) of the frames.
      stride: take every so many frames; ``frame_rate`` is 25 (nominal, of all files) / stride.
      max_boxes: K. Boxes beyond it are left out, and told in ``skipped``.

    Raises:
      DataError: a missing file or column, a box outside [0, 1], an unknown class, a frame that the
        video does not have, or no video that can be read.
    """

    multi_label = False

    def __init__(
        self,
        root: str | Path,
        *,
        size: tuple[int, int] = (224, 224),
        stride: int = 1,
        max_boxes: int = 8,
        budget: float = 2.0,
    ):
        if stride < 1 or max_boxes < 1:
            raise DataError(f"stride={stride}, max_boxes={max_boxes}: both are at least 1")
        root = need(
            root, "the UCF101-24 folder", "give the folder that holds clips and classes.txt"
        )
        text = need(root / "classes.txt", "the list of classes", "it belongs beside clips")
        classes = tuple(line.strip() for line in text.read_text().splitlines() if line.strip())
        marks = read(root / "clips_ava_style.csv", classes)
        segments, skipped = [], {}
        self.stride, self._marks, self._pictures_of = stride, {}, {}
        for name, frames in marks.items():
            path = root / "clips" / f"{name}.mp4"
            try:
                length = video.probe(path).frames
            except DataError as error:
                skipped[name] = str(error)
                continue
            if max(frames) >= length:
                raise DataError(f"{name}: a box in frame {max(frames)}, but it has {length} frames")
            self._pictures_of[name] = length
            segments.append(Segment(name, path, 0.0, -(-length // stride)))
            self._marks[name] = {f // stride: p for f, p in frames.items() if f % stride == 0}
            over = sum(max(0, len(p) - max_boxes) for p in self._marks[name].values())
            if over:
                skipped[f"{name} (boxes)"] = f"{over} boxes beyond max_boxes={max_boxes}"
        if not segments:
            raise DataError(f"none of {len(marks)} videos can be used: {_first(skipped)}")
        super().__init__(
            segments, size, 25.0 / stride, max_boxes, classes,
            rate=None, budget=budget, skipped=skipped,
        )  # fmt: skip

    def slots(self, number: int) -> Slots:
        segment = self.segments[number]
        out = Slots.empty(segment.frames, self.max_boxes, len(self.classes))
        for frame, persons in self._marks[segment.name].items():
            for k, (label, box) in enumerate(persons[: self.max_boxes]):
                out.boxes[frame, k] = box
                out.labels[frame, k, label] = 1.0
                out.box_valid[frame, k] = out.labelled[frame, k] = True
                out.persons[frame, k] = 1.0
        return out

    def decode(self, segment: Segment) -> np.ndarray:
        whole = segment._replace(frames=self._pictures_of[segment.name])
        return super().decode(whole)[:: self.stride]


def read(path: str | Path, classes: tuple[str, ...]) -> dict[str, dict[int, list[Person]]]:
    """Persons by video and frame. Raises DataError for the first bad line."""
    out: dict[str, dict[int, list[Person]]] = {}
    columns = ("video", "frame", "x1", "y1", "x2", "y2", "class")
    for row in tables.rows(path, columns, optional=("track",)):
        name, label = row.values["video"], row.values["class"]
        if label not in classes:
            close = difflib.get_close_matches(label, classes, 3)
            known = f"did you mean {' or '.join(close)}?" if close else f"there are {len(classes)}"
            raise DataError(f"{row.where}: unknown class {label!r}; {known}")
        frame = tables.number(row, "frame")
        if frame < 0 or frame != int(frame):
            raise DataError(f"{row.where}: frame {frame:g} is not a count from 0")
        persons = out.setdefault(name, {}).setdefault(int(frame), [])
        persons.append((classes.index(label), tables.box(row)))
    if not out:
        raise DataError(f"{path}: no boxes in it")
    return out


def _first(skipped: dict[str, str]) -> str:
    return next(iter(skipped.values()))
