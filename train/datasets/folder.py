"""Any folder of videos, without labels: what one distils on."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

from ...zoo.ranges import Positive, Range
from ..data.base import Source
from ..data.folder import Folder
from .base import located
from .detected import DetectedData


@dataclasses.dataclass(frozen=True)
class FolderData(DetectedData):
    """One's own videos, searched to the bottom of a folder; see ``data.folder``.

    Attributes:
      frame_rate: frames/s.
      held_out: part of the files that the student's agreement with its teachers is measured on.
    """

    frame_rate: Positive = 5.0
    held_out: Annotated[float, Range(0, 1, below=True)] = 0.0  # pyright: ignore

    kind: ClassVar[str] = "folder"
    labelled: ClassVar[bool] = False

    def open(self, cache: str) -> Source:
        return Folder(
            located(self.path), frame_rate=self.frame_rate, whole_frame=True, **self.found(cache)
        )
