"""Figures of merit on host arrays: AVA frame-mAP, average precision, top-1, delay, J&F,
tracking (HOTA, MOTA, IDF1), probes, latencies, sound beside picture."""

from .ava import VARIANTS, FrameMap, frame_map
from .ava_files import read_csv, read_excluded, read_labels, rows
from .average_precision import (
    AveragePrecision,
    average_precision,
    figure,
    top1,
    voc_average_precision,
)
from .delay import Delay, Event, detection_delay
from .depth import DepthError, depth_error, flicker, trajectory_error
from .jf import (
    Jaccard,
    boundary_accuracy,
    jf,
    region_similarity,
    statistics,
    tracking_length,
)
from .mot import Followed, Tracking, followed, tracking
from .probe import Probe, knn, linear_probe
from .stream import Latency, auc, detection_map, f1_score, latency_summary, most_that_hold
from .sync import Sync, loudness, motion, sync_offset

__all__ = [
    "Sync",
    "loudness",
    "motion",
    "sync_offset",
    "trajectory_error",
    "flicker",
    "depth_error",
    "DepthError",
    "VARIANTS",
    "AveragePrecision",
    "Delay",
    "Event",
    "Followed",
    "FrameMap",
    "Jaccard",
    "Latency",
    "Probe",
    "Tracking",
    "auc",
    "average_precision",
    "boundary_accuracy",
    "detection_delay",
    "detection_map",
    "f1_score",
    "figure",
    "followed",
    "frame_map",
    "jf",
    "knn",
    "latency_summary",
    "linear_probe",
    "most_that_hold",
    "read_csv",
    "read_excluded",
    "read_labels",
    "region_similarity",
    "rows",
    "statistics",
    "top1",
    "tracking",
    "tracking_length",
    "voc_average_precision",
]
