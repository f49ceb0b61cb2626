"""EgoGestAR: gestures drawn in the air, which no single frame tells apart."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from ...zoo.ranges import Count, Positive, Size, Whole
from ..data import egogestar
from ..data.base import DataError, Source
from ..data.stored import Shuffled, Subset, Varied
from .base import DataConfig, located

POINTS = "palm-points"


@dataclasses.dataclass(frozen=True)
class EgoGestARData(DataConfig):
    """Clips of EgoGestAR; see ``data.egogestar``.

    Attributes:
      path: folder with ``labels.csv``, ``classes.txt`` and ``clips``.
      frame_rate: frames/s.
      sessions: letters of the recording sessions to use, () for all. What is measured on must be
        of sessions that nothing learned from.
      none: with the clips without a gesture, which one session alone has.
      copies: further showings of each clip, drawn by chance (``data.egogestar.vary``), of a model
        that reads the palm's points.
      shuffle: the frames of every clip in an order drawn by chance: what is known of them without
        their order.
    """

    path: str = ""
    size: Size = (192, 192)
    max_boxes: Count = 1
    frame_rate: Positive = 5.0
    sessions: tuple[str, ...] = ()
    none: bool = False
    copies: Whole = 0
    shuffle: bool = False

    kind: ClassVar[str] = "egogestar"
    whole_frame: ClassVar[bool] = True
    files: ClassVar[tuple[str, ...]] = ("path",)
    where: ClassVar[str] = "github.com/varunj/EgoGestAR"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mirror or self.max_boxes != 1:
            raise DataError(
                f"mirror={self.mirror}, max_boxes={self.max_boxes}: EgoGestAR has left and right "
                "as classes, and the whole frame as its only box: mirror=False, max_boxes=1"
            )

    def open(self, cache: str) -> Source:
        return egogestar.EgoGestAR(
            located(self.path), none=self.none, size=self.size, frame_rate=self.frame_rate,
            cache=cache,
        )  # fmt: skip

    def features(self, cache: str, stem: str = "", card: Any = None) -> Source:
        if self.copies and stem != POINTS:
            raise DataError(
                f"data.copies={self.copies}: only the palm's points can be moved, and this model "
                f"reads {stem or 'pixels'}: data.copies=0, or a model …-palm"
            )
        source = super().features(cache, stem, card)  # all sessions share one set of features
        source = Subset(source, self._chosen(source))
        source = Shuffled(source) if self.shuffle else source
        return Varied(source, self.copies, egogestar.vary) if self.copies else source

    def _chosen(self, source: Source) -> list[int]:
        session = egogestar.sessions(located(self.path))
        wanted, known = set(self.sessions), {session[name] for name in source.videos}
        if unknown := wanted - known:
            raise DataError(
                f"data.sessions={self.sessions}: no session {min(unknown)!r} with a gesture; there "
                f"are {', '.join(sorted(known))}"
            )
        return [i for i, n in enumerate(source.videos) if not wanted or session[n] in wanted]
