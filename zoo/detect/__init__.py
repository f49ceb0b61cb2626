"""Detectors: boxes, classes and scores of the objects in a frame."""

from typing import TYPE_CHECKING

from ...layers.lazy import on_demand

if TYPE_CHECKING:
    from .boxes import overlap, suppress
    from .coco import CLASSES
    from .outputs import Detections
    from .yolox.model import YOLOX, YOLOXConfig

__all__ = ["CLASSES", "YOLOX", "Detections", "YOLOXConfig", "overlap", "suppress"]
__getattr__ = on_demand(__name__, __file__)
