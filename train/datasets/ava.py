"""Videos with AVA's annotations: CSV, label map and video files."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ...zoo.ranges import Positive
from ..data.ava import AVA
from ..data.base import DataError, Source
from .base import DataConfig, exists, located


@dataclasses.dataclass(frozen=True)
class AVAData(DataConfig):
    """Stretches of film around AVA's keyframes; see ``data.ava``. Rows of AVA's actions that the
    label map leaves out (it lists 60 of 80) are dropped and counted.

    Attributes:
      frame_rate: frames/s.
      path: folder of the video files.
      csv, labels: the annotations and the label map (.pbtxt).
      timestamps: file of those that count; "" for all.
      origin: timestamp of a file's first picture, 900 for files cut at minute 15; ``auto`` takes,
        file by file, the one of 0 and 900 that its timestamps fit.
    """

    frame_rate: Positive = 5.0
    path: str = ""
    csv: str = ""
    labels: str = ""
    timestamps: str = ""
    origin: str = "auto"

    kind: ClassVar[str] = "ava"
    files: ClassVar[tuple[str, ...]] = ("path", "csv", "labels")
    where: ClassVar[str] = "research.google.com/ava/download.html"

    def check(self, setting: str) -> None:
        super().check(setting)
        seconds(self.origin)
        if self.timestamps:
            exists(f"{setting}.timestamps", self.timestamps)

    def open(self, cache: str) -> Source:
        return AVA(
            located(self.csv), located(self.path), located(self.labels),
            timestamps=located(self.timestamps) if self.timestamps else None,
            origin=seconds(self.origin), other_actions="drop",
            frame_rate=self.frame_rate, size=self.size, max_boxes=self.max_boxes,
        )  # fmt: skip


def seconds(text: str) -> float | None:
    """``data.origin``: None for ``auto``. Raises DataError for another word."""
    try:
        return None if text == "auto" else float(text)
    except ValueError:
        raise DataError(f"data.origin={text}: auto, or seconds such as 900") from None
