"""Data sets that say what is done and not by whom: a detector finds the persons."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from ... import zoo
from ...layers.streaming import Fields
from ...zoo.detect import YOLOXConfig
from ..data.base import DataError
from ..data.registered_detector import RegisteredDetector
from .base import DataConfig, exists, installed, located


@dataclasses.dataclass(frozen=True)
class DetectedData(DataConfig):
    """Videos of a folder or archive, the whole frame in slot 0, persons in the others.

    Attributes:
      path: the folder or archive.
      detector: the box teacher: ONNX file of a YOLOX, or a registered name such as the bundled
        ``yolox-nano/coco``; "" for the whole frame alone.
    """

    path: str = ""
    detector: str = ""

    whole_frame: ClassVar[bool] = True
    files: ClassVar[tuple[str, ...]] = ("path",)

    def check(self, setting: str) -> None:
        super().check(setting)
        if self.named:
            if not isinstance(zoo.model_config(self.detector), YOLOXConfig):
                raise DataError(f"{setting}.detector: {self.detector} is no YOLOX")
        elif self.detector:
            exists(f"{setting}.detector", self.detector)
            installed("onnxruntime", f"{setting}.detector", "train")

    @property
    def named(self) -> bool:
        """The detector is a registered name, not a file."""
        return bool(self.detector) and self.detector in zoo.list_models()

    def found(self, cache: str) -> Fields:
        """What the readers of such sets take."""
        detector: Any = located(self.detector) if self.detector else None
        persons = self.max_boxes - 1
        if self.named:
            detector = RegisteredDetector(self.detector, boxes=persons) if persons else None
        return dict(size=self.size, max_boxes=self.max_boxes, detector=detector, cache=cache)
