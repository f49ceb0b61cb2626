"""Drawn persons, without end and without a file."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ...zoo.ranges import Count, Positive
from ..data.base import Source
from ..data.synth import Synth
from .base import DataConfig


@dataclasses.dataclass(frozen=True)
class SynthData(DataConfig):
    """Drawn persons with boxes and 13 labels; see ``data.synth``.

    Attributes:
      frame_rate: frames/s.
      videos: how many, 12 s each.
      split: ``train``, ``val`` or ``test``: other videos.
    """

    frame_rate: Positive = 5.0
    videos: Count = 320
    split: str = "train"

    kind: ClassVar[str] = "synth"
    exchanged: ClassVar[tuple[tuple[str, str], ...]] = (("walk_left", "walk_right"),)

    def open(self, cache: str) -> Source:
        return Synth(
            self.videos, frame_rate=self.frame_rate, split=self.split, size=self.size,
            max_boxes=self.max_boxes,
        )  # fmt: skip
