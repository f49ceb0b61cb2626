"""UCF11: eleven actions, five frames a clip."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ..data.base import Source
from ..data.ucf11 import UCF11
from .base import located
from .detected import DetectedData


@dataclasses.dataclass(frozen=True)
class UCF11Data(DetectedData):
    """Clips of UCF11, of 5 frames at nominally 1 frame/s; see ``data.ucf11``.

    Attributes:
      path: archive of ``<split>/<class>/v_<word>_<group>_<clip>_<frame>.jpg``.
      split: ``train`` or ``test``.
    """

    split: str = "train"

    kind: ClassVar[str] = "ucf11"
    where: ClassVar[str] = "www.crcv.ucf.edu/data/UCF_YouTube_Action.php, five frames of each clip"

    def open(self, cache: str) -> Source:
        return UCF11(located(self.path), self.split, **self.found(cache))
