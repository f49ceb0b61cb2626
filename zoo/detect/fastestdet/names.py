"""FastestDet by name."""

from __future__ import annotations

from ...registry import Card, register
from ..coco import CLASSES
from .model import FastestDet, FastestDetConfig

register(
    "fastestdet-tiny",
    FastestDet,
    FastestDetConfig(),
    Card(
        "fastestdet-tiny",
        summary="boxes of the 80 classes of COCO in single frames, 0.24 M parameters",
        licence="BSD-3-Clause",
        paper="dog-qiuqiu/FastestDet; ShuffleNet V2 (arXiv 1807.11164)",
        input_size=(352, 352),
        mean=(0.0, 0.0, 0.0),  # frames come as 0 to 1
        std=(1.0, 1.0, 1.0),
        classes=CLASSES,
        multi_label=False,
    ),
)
