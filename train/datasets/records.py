"""Drawn persons as ArrayRecord files, which ``train.data.synth_tfds`` writes."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ..data.base import Source
from ..data.synth_tfds import SynthRecords
from .base import DataConfig, installed, located


@dataclasses.dataclass(frozen=True)
class RecordsData(DataConfig):
    """The synthetic set from its files, whose size, frame rate and boxes are those they have.

    Attributes:
      path: what ``python -m streamzoo.train.data.synth_tfds --out`` wrote.
      split: ``train`` or ``test``.
    """

    path: str = ""
    split: str = "train"

    kind: ClassVar[str] = "records"
    resizes: ClassVar[bool] = False
    exchanged: ClassVar[tuple[tuple[str, str], ...]] = (("walk_left", "walk_right"),)
    files: ClassVar[tuple[str, ...]] = ("path",)
    where: ClassVar[str] = "python -m streamzoo.train.data.synth_tfds --out FOLDER"

    def check(self, setting: str) -> None:
        super().check(setting)
        installed("tensorflow_datasets", f"{setting}.kind=records", "tfds")

    def open(self, cache: str) -> Source:
        return SynthRecords(located(self.path), self.split)
