"""Figures of merit on host arrays: AVA frame-mAP, average precision, top-1, delay, J&F, probes."""

from .ava import VARIANTS, FrameMap, frame_map
from .ava_files import read_csv, read_excluded, read_labels, rows
from .average_precision import (
    AveragePrecision,
    average_precision,
    top1,
    voc_average_precision,
)
from .delay import Delay, Event, detection_delay
from .jf import (
    Jaccard,
    boundary_accuracy,
    jf,
    region_similarity,
    statistics,
    tracking_length,
)
from .probe import Probe, knn, linear_probe

__all__ = [
    "VARIANTS",
    "AveragePrecision",
    "Delay",
    "Event",
    "FrameMap",
    "Jaccard",
    "Probe",
    "average_precision",
    "boundary_accuracy",
    "detection_delay",
    "frame_map",
    "jf",
    "knn",
    "linear_probe",
    "read_csv",
    "read_excluded",
    "read_labels",
    "region_similarity",
    "rows",
    "statistics",
    "top1",
    "tracking_length",
    "voc_average_precision",
]
