"""The detectors by name."""

from __future__ import annotations

from ...registry import Card, register
from ..coco import CLASSES
from .model import FILL, YOLOX, YOLOXConfig

register(
    "yolox-nano",
    YOLOX,
    YOLOXConfig(),
    Card(
        "yolox-nano",
        summary="boxes of the 80 classes of COCO in single frames, 0.9 M parameters",
        paper="Ge et al., YOLOX (arXiv 2107.08430)",
        input_size=(416, 416),
        fit="letterbox",
        fill=int(FILL),
        mean=(0.0, 0.0, 0.0),  # frames stay as they come, 0 to 255
        std=(1 / 255, 1 / 255, 1 / 255),
        classes=CLASSES,
        multi_label=False,
    ),
)
