"""UCF101-24: sports with a box and a class per person and frame."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from ..data.base import Source
from ..data.ucf101_24 import UCF101_24
from .base import DataConfig, located


@dataclasses.dataclass(frozen=True)
class UCF101x24Data(DataConfig):
    """Clips of UCF101-24 at 25 frames/s; see ``data.ucf101_24``.

    Attributes:
      path: folder with ``classes.txt``, ``clips_ava_style.csv`` and ``clips``.
    """

    path: str = ""

    kind: ClassVar[str] = "ucf101-24"
    files: ClassVar[tuple[str, ...]] = ("path",)
    where: ClassVar[str] = (
        "www.crcv.ucf.edu/data/UCF101.php; boxes: github.com/gurkirt/corrected-UCF101-Annots"
    )

    def open(self, cache: str) -> Source:
        return UCF101_24(located(self.path), size=self.size, max_boxes=self.max_boxes)
