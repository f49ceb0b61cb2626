"""Figures of a live model, after the article that ``zoo/live/cross_stream/hrm.py`` names:
latencies, streams within a budget, F1, AUC, and detection mAP per frame. Host code.

What the article leaves open is settled here: latencies are told by percentiles beside
its mean, "meeting latency targets" is the 99th percentile within the budget and no frame dropped.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from .ava import frame_map
from .ava_files import EMPTY, rows

PER_DECADE = 20  # bins of a histogram, so each is 12 % wider than the one before


def f1_score(found: np.ndarray, truth: np.ndarray) -> float:
    """2 TP / (2 TP + FP + FN) of two boolean arrays; NaN where there is nothing to find and nothing
    was found."""
    hit, said = float((found & truth).sum()), float(found.sum() + truth.sum())
    return 2 * hit / said if said else math.nan


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Area under the ROC curve: how often a true one scores above a false one, ties a half.

    NaN where there is but one kind."""
    good, bad = scores[truth], scores[~truth]
    if not len(good) or not len(bad):
        return math.nan
    order = np.sort(bad)
    below, upto = (np.searchsorted(order, good, side) for side in ("left", "right"))
    return float((below + upto).mean() / 2 / len(bad))


@dataclasses.dataclass(frozen=True)
class Latency:
    """Latencies of N frames, in milliseconds.

    Attributes:
      mean: the article's figure. p50, p95, p99: percentiles, between samples linear as numpy has
        them. worst: the largest.
      edges: [M + 1] of the histogram's bins, on a fixed grid of 20 per factor of 10, so that
        histograms can be laid over each other.
      counts: [M] frames with edges[i] <= latency < edges[i + 1]; first and last are not empty.
    """

    mean: float
    p50: float
    p95: float
    p99: float
    worst: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]


def latency_summary(milliseconds: np.ndarray) -> Latency:
    """Of latencies [N]. Raises ValueError: none, or one that is not a number above 0."""
    x = np.asarray(milliseconds, np.float64)
    if x.ndim != 1 or not len(x) or not (np.isfinite(x) & (x > 0)).all():
        raise ValueError(f"latencies {x.shape}: give at least one, all of them above 0")
    p50, p95, p99 = (float(v) for v in np.percentile(x, [50, 95, 99]))
    # a bin more on both sides: the logarithm may round across an edge
    low = math.floor(PER_DECADE * math.log10(x.min())) - 1
    high = math.floor(PER_DECADE * math.log10(x.max())) + 2
    edges = 10.0 ** (np.arange(low, high + 1) / PER_DECADE)
    counts = np.bincount(np.searchsorted(edges, x, "right") - 1, minlength=len(edges) - 1)
    some = np.flatnonzero(counts)
    first, last = int(some[0]), int(some[-1])
    return Latency(
        float(x.mean()), p50, p95, p99, float(x.max()),
        tuple(edges[first : last + 2].tolist()), tuple(counts[first : last + 1].tolist()),
    )  # fmt: skip


def most_that_hold(holds: Callable[[int], bool], limit: int) -> int:
    """The largest number of streams from 1 to ``limit`` that is held, 0 if not even one is.

    Asks for 1, 2, 4, ... until one is not held, then halves the gap; no number twice, since an
    answer may be a trial of a minute. Right if whoever holds n holds fewer; otherwise a number
    that was held, whose successor (if within the limit) was not.

    Raises:
      ValueError: limit below 1.
    """
    if limit < 1:
        raise ValueError(f"limit={limit}: give at least 1 stream")
    low, high = 0, 1  # held; to be asked
    while holds(high):
        low = high
        if high == limit:
            return limit
        high = min(2 * high, limit)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def detection_map(
    boxes: np.ndarray,
    valid: np.ndarray,
    scores: np.ndarray,
    true_boxes: np.ndarray,
    labels: np.ndarray,
) -> float:
    """Mean over the classes of the average precision of boxes at IoU 0.5, frame by frame.

    AVA's evaluator ``activitynet-head``: a box found counts once per class, also in frames
    without a true box, and the best 50 of a frame are kept.

    Args:
      boxes: [N, K, 4] x1 y1 x2 y2 found in N frames. valid: [N, K] bool, which of them exist.
      scores: [N, K, C] of each box and class.
      true_boxes: [N, J, 4]. labels: [N, J, C], 1 where the class holds; a box without one is
        none.

    Returns:
      NaN where no frame has a true box.
    """
    name = np.char.mod("%d", np.arange(len(boxes)))
    frame, slot, label = np.nonzero(labels)
    if not len(frame):
        return float("nan")
    empty = np.flatnonzero(~np.asarray(labels, bool).any(axis=(1, 2)))
    truth = rows(
        np.concatenate([name[frame], name[empty]]), 0.0,
        np.concatenate([true_boxes[frame, slot], np.zeros((len(empty), 4))]),
        np.concatenate([label + 1, np.full(len(empty), EMPTY)]),
    )  # fmt: skip
    frame, slot = np.nonzero(valid)
    classes = scores.shape[-1]
    found = rows(
        np.repeat(name[frame], classes), 0.0, np.repeat(boxes[frame, slot], classes, axis=0),
        np.tile(np.arange(1, classes + 1), len(frame)), scores[frame, slot].ravel(),
    )  # fmt: skip
    return frame_map(truth, found, variant="activitynet-head").mean
