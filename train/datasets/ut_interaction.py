"""UT-Interaction: two persons, six interactions and background."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

from ...zoo.ranges import Count, Positive, Whole
from ..data import ut_interaction
from ..data.base import DataError, Source
from ..data.stored import Subset
from .base import located
from .detected import DetectedData


@dataclasses.dataclass(frozen=True)
class UTInteractionData(DetectedData):
    """Clips of UT-Interaction; see ``data.ut_interaction``.

    Attributes:
      frame_rate: frames/s.
      path: folder with ``set1``, ``set2`` and ``classes.txt``.
      sequences: those to use, () for all.
      sets: 1, 2 or both.
      background: with the background clips.
    """

    frame_rate: Positive = 5.0
    sequences: tuple[Whole, ...] = ()
    sets: tuple[Count, ...] = (1, 2)
    background: bool = True

    kind: ClassVar[str] = "ut"
    where: ClassVar[str] = "cvrc.ece.utexas.edu/SDHA2010/Human_Interaction.html (segmented set)"

    def check(self, setting: str) -> None:
        super().check(setting)
        # sequences 1 to 10 are set 1, 11 to 20 set 2
        if self.sequences and not {1 + (n > 10) for n in self.sequences} & set(self.sets):
            raise DataError(
                f"{setting}.sequences={self.sequences}: {setting}.sets={self.sets} have none"
            )

    def open(self, cache: str) -> Source:
        source: Source = ut_interaction.UTInteraction(
            located(self.path), sets=self.sets, frame_rate=self.frame_rate,
            background=self.background, **self.found(cache),
        )  # fmt: skip
        if not self.sequences:
            return source
        chosen = [i for i, name in enumerate(source.videos) if _sequence(name) in self.sequences]
        if not chosen:
            raise DataError(f"data.sequences={self.sequences}: sets {self.sets} have none")
        return Subset(source, chosen)


def _sequence(name: str) -> int:
    return ut_interaction.parse(Path(name))[1]
