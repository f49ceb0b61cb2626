"""Figures of merit on host arrays: AVA frame-mAP, average precision, top-1, detection delay."""

from .ava import VARIANTS, FrameMap, frame_map
from .ava_files import read_csv, read_excluded, read_labels, rows
from .average_precision import (
    AveragePrecision,
    average_precision,
    top1,
    voc_average_precision,
)
from .delay import Delay, Event, detection_delay

__all__ = [
    "VARIANTS",
    "AveragePrecision",
    "Delay",
    "Event",
    "FrameMap",
    "average_precision",
    "detection_delay",
    "frame_map",
    "read_csv",
    "read_excluded",
    "read_labels",
    "rows",
    "top1",
    "voc_average_precision",
]
