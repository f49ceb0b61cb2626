"""A small data set in memory with one label per video: what UT-Interaction and UCF11 are.

Slot 0 of every frame is the whole frame; the further ones are the box teacher's persons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .base import Clip, DataError, Source
from .box_cache import Boxes


class LabelledVideos(Source):
    """Videos with one class each.

    Args:
      frames: [N, H, W, 3] uint8 per video, all of one size.
      labels: class number per video.
      boxes: persons per video (:class:`Boxes` of [N, n, ...]), or None for the whole frame alone.
      max_boxes: K, at least 1; slots beyond the persons stay empty.
      label_persons: a person has the video's class; otherwise only the whole frame has it.

    Raises:
      DataError: no videos, sizes or counts that differ, or a label that is not a class.
    """

    multi_label = False

    def __init__(
        self,
        names: Sequence[str],
        frames: Sequence[np.ndarray],
        labels: Sequence[int],
        classes: Sequence[str],
        frame_rate: float,
        *,
        boxes: Sequence[Boxes] | None = None,
        max_boxes: int = 1,
        label_persons: bool = True,
        skipped: Mapping[str, str] | None = None,
    ):
        if not frames:
            raise DataError(f"{type(self).__name__}: no videos left of this choice")
        if max_boxes < 1:
            raise DataError(f"max_boxes={max_boxes}: slot 0 is the whole frame, so at least 1")
        if bad := [label for label in labels if not 0 <= label < len(classes)]:
            raise DataError(f"label {bad[0]} is not one of the {len(classes)} classes")
        if len({f.shape[1:] for f in frames}) > 1:
            raise DataError("the videos are not all of one size; decode them to one")
        self.classes, self.frame_rate = tuple(classes), frame_rate
        self.videos, self.labels = tuple(names), np.asarray(labels, np.int32)
        self.size = (int(frames[0].shape[1]), int(frames[0].shape[2]))
        self.max_boxes, self.label_persons = max_boxes, label_persons
        self.skipped = dict(skipped or {})
        self._frames, self._boxes = list(frames), boxes and list(boxes)

    def length(self, video: int) -> int:
        return len(self._frames[video])

    def read(self, video: int, start: int, count: int) -> Clip:
        at = slice(start, start + count)
        slots = (count, self.max_boxes)
        boxes, persons = np.zeros((*slots, 4), np.float32), np.zeros(slots, np.float32)
        boxes[:, 0] = 0.0, 0.0, 1.0, 1.0
        if self._boxes:
            found = self._boxes[video]
            n = min(self.max_boxes - 1, found.scores.shape[1])
            boxes[:, 1 : 1 + n] = found.boxes[at, :n]
            persons[:, 1 : 1 + n] = found.scores[at, :n]
        valid = persons > 0
        valid[:, 0] = True
        labelled = valid.copy()
        if not self.label_persons:
            labelled[:, 1:] = False
        labels = np.zeros((*slots, len(self.classes)), np.float32)
        labels[..., self.labels[video]] = labelled
        return Clip(self._frames[video][at], boxes, valid, persons, labels, labelled)
