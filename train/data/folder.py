"""Any folder of unlabelled videos, with persons from a detector: what one distils on."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from . import box_cache, video
from .base import DataError
from .kept import code, digest
from .segments import Segments, Slots, cut
from .yolox import Detector


class Folder(Segments):
    """Videos under a folder, at any depth, without labels.

    Args:
      path: the folder; files with the usual suffixes are taken.
      size: (height, width) of the frames.
      frame_rate: frames/s; faster files lose pictures, slower ones repeat them.
      max_boxes: K.
      detector: ONNX YOLOX file (or a Detector) that finds the persons, or None for no boxes.
      every: look for persons in every so many frames; between two looks a box moves on a line.
      whole_frame: slot 0 of every frame is the whole frame, as in data with one label per video.
      classes: names of the labels, all zero and not known here; those of the teacher, usually.
      multi_label: whether those classes exclude each other (False) or not.
      segment: seconds of the parts that longer files are cut into.
      cache: folder that keeps the boxes.
      budget: GiB of decoded frames held.

    Videos that cannot be read are in ``skipped``.

    Raises:
      DataError: no such folder, no videos in it, none that can be read, or a bad detector.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        size: tuple[int, int] = (224, 224),
        frame_rate: float = 10.0,
        max_boxes: int = 8,
        detector: str | Path | Detector | None = None,
        every: int = 3,
        whole_frame: bool = False,
        classes: Sequence[str] = (),
        multi_label: bool = True,
        segment: float = 20.0,
        cache: str | Path | None = None,
        budget: float = 2.0,
    ):
        for name, value in (("frame_rate", frame_rate), ("every", every), ("segment", segment)):
            if value <= 0:
                raise DataError(f"{name}={value}: must be above 0")
        if max_boxes < 1:
            raise DataError(f"max_boxes={max_boxes}: a frame needs at least 1 slot")
        path = Path(path)
        paths = {str(p.relative_to(path)): p for p in video.find(path)}
        skipped: dict[str, str] = {}
        segments = cut(paths, frame_rate, segment, skipped)
        if not segments:
            name, why = next(iter(skipped.items()))
            raise DataError(f"{path}: none of {len(paths)} videos can be read, e.g. {why}")
        self.multi_label, self.every, self.cache = multi_label, every, cache
        self.whole_frame = int(whole_frame)
        persons = max_boxes - self.whole_frame
        self._finder = None
        if detector is not None and persons:
            self._finder = box_cache.opened(detector, persons)
            self._one_at_a_time = threading.Lock()
        super().__init__(
            segments, size, frame_rate, max_boxes, classes,
            rate=frame_rate, budget=budget, skipped=skipped,
        )  # fmt: skip

    def prepare(self) -> None:
        """Find the persons of all videos now, told on stderr, instead of when they are first read.

        Without a ``cache`` only what fits the budget is kept.
        """
        if self._finder is None:
            return
        numbers = range(len(self.segments))
        for number in box_cache.told(numbers, len(numbers), "persons"):
            self._slots(number)

    def boxed(self, number: int) -> str:
        if self._finder is None:
            return super().boxed(number)
        how = (self._finder.identity, self.every, self.max_boxes, self.whole_frame)
        return digest(*how, code(*box_cache.FOUND_BY))  # known without looking for them

    def slots(self, number: int) -> Slots:
        segment = self.segments[number]
        out = Slots.empty(segment.frames, self.max_boxes, len(self.classes))
        if self.whole_frame:
            out.boxes[:, 0] = 0.0, 0.0, 1.0, 1.0
            out.box_valid[:, 0] = True
        if self._finder is not None:
            with self._one_at_a_time:
                found = box_cache.of_video(
                    segment.path, self._finder, self.frame_rate, segment.frames,
                    every=self.every, start=segment.start,
                    seconds=segment.frames / self.frame_rate, cache=self.cache,
                )  # fmt: skip
            n = min(found.scores.shape[1], self.max_boxes - self.whole_frame)
            at = slice(self.whole_frame, self.whole_frame + n)
            out.boxes[:, at], out.persons[:, at] = found.boxes[:, :n], found.scores[:, :n]
            out.box_valid[:, at] = np.asarray(found.scores[:, :n]) > 0
        return out
