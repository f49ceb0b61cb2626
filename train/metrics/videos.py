"""What a model's answers about videos are worth: per box, per video, and how late they come."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .average_precision import average_precision
from .delay import detection_delay, label_runs


class Answers(NamedTuple):
    """What a model said about one video, and the truth."""

    video: int
    scores: np.ndarray  # [T, K, C] probabilities
    box_valid: np.ndarray  # [T, K]
    labels: np.ndarray  # [T, K, C]
    labelled: np.ndarray  # [T, K]


def box_metrics(
    found: Sequence[Answers], classes: Sequence[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Of several labels per box: overall, ``mAP`` (mean over classes of the average precision over
    all labelled boxes of all frames), and ``AP/class``."""
    known = [a.labelled & a.box_valid for a in found]
    scores = np.concatenate([a.scores[k] for a, k in zip(found, known, strict=True)])
    labels = np.concatenate([a.labels[k] for a, k in zip(found, known, strict=True)])
    result = average_precision(scores, labels)
    pairs = zip(classes, result.per_class, strict=True)
    return {"mAP": result.mean}, {f"AP/{name}": float(ap) for name, ap in pairs}


def video_metrics(
    found: Sequence[Answers], classes: Sequence[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Of one label per video, read off slot 0 (the whole frame): overall, ``top1`` of the mean of
    the probabilities over the video, ``top1_last`` of the last frame's and ``top1_frame`` of every
    frame's, and ``class/...``, recall by class. Videos without a label do not count."""
    found = [a for a in found if a.labelled[0, 0] and a.labels[0, 0].any()]
    truth = np.asarray([a.labels[0, 0].argmax() for a in found], int)
    mean = np.asarray([a.scores[:, 0].mean(axis=0).argmax() for a in found], int)
    last = np.asarray([a.scores[-1, 0].argmax() for a in found], int)
    frame = [a.scores[:, 0].argmax(-1) == y for a, y in zip(found, truth, strict=True)]
    overall = {
        "top1": share(mean == truth),
        "top1_last": share(last == truth),
        "top1_frame": share(np.concatenate(frame or [np.zeros(0)])),
    }
    right = mean == truth
    return overall, {f"class/{c}": share(right[truth == i]) for i, c in enumerate(classes)}


def share(right: np.ndarray) -> float:
    """The mean of answers that are right or not; NaN of none."""
    return float(right.mean()) if len(right) else math.nan


def delay_metrics(found: Sequence[Answers], frame_rate: float, latency: int) -> dict[str, float]:
    """``detected``, the part of the runs of a label in which its score rises above 1/2, and
    ``delay_s``, the median time in seconds from a run's start to that, the model's ``latency`` in
    frames included. NaN of no videos, and of no runs."""
    delays = [
        detection_delay(
            a.scores, label_runs(a.labels), frame_rate=frame_rate, latency=latency, threshold=0.5
        )
        for a in found
    ]
    each = np.concatenate([d.seconds for d in delays] or [np.zeros(0)])
    hit = ~np.isnan(each)
    median = float(np.median(each[hit])) if hit.any() else math.nan
    return {"detected": share(hit), "delay_s": median}


def agreement(
    said: Sequence[Answers], taught: Sequence[Answers], whole: bool = False
) -> dict[str, float]:
    """Metrics of a student's scores against its teacher's, over the boxes of all frames.

    ``teacher_top1``: part of the boxes whose most certain class is the teacher's; ``teacher_gap``:
    mean difference of the probabilities. NaN without a box. whole: of the whole frame, slot 0,
    alone.
    """
    same, gaps = [], []
    for one, other in zip(said, taught, strict=True):
        there = one.box_valid.copy()
        if whole:
            there[:, 1:] = False
        a, b = one.scores[there], other.scores[there]
        same.append(a.argmax(-1) == b.argmax(-1))
        gaps.append(np.abs(a - b).mean(-1))
    each, gap = np.concatenate(same or [[]]), np.concatenate(gaps or [[]])
    if not len(each):
        return {"teacher_top1": math.nan, "teacher_gap": math.nan}
    return {"teacher_top1": float(each.mean()), "teacher_gap": float(gap.mean())}
