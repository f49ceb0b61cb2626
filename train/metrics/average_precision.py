"""Average precision, in the two definitions in use, and top-1 accuracy. Host code."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


def figure(value: float, form: str = ".4g") -> str:
    """A figure as text; one that is not defined (NaN) is n/a."""
    return "n/a" if np.isnan(value) else format(value, form)


class AveragePrecision(NamedTuple):
    """Per-class AP; the mean is over the classes with a positive example."""

    mean: float
    per_class: np.ndarray  # [C], NaN without a positive example
    positives: np.ndarray  # [C] int


def average_precision(
    scores: np.ndarray, labels: np.ndarray, valid: np.ndarray | None = None
) -> AveragePrecision:
    """AP of multi-label scores where the boxes (or frames) are given, so nothing is matched.

    sum_n (R_n - R_{n-1}) P_n over the distinct scores, high to low, as scikit-learn's
    ``average_precision_score`` has it: no interpolation, and tied scores enter together, so their
    order does not matter.

    Args:
      scores: [N, C]. labels: [N, C], 0 or 1. valid: [N] bool, rows that count; all if not given.

    Raises:
      ValueError: shapes that differ, labels other than 0 and 1, a score that is not a number.
    """
    scores, labels = _rows(scores, labels, valid)
    per_class = np.full(scores.shape[1], np.nan)
    for c in range(scores.shape[1]):
        if not labels[:, c].any():
            continue
        order = np.argsort(-scores[:, c], kind="stable")
        ranked, hits = scores[order, c], labels[order, c]
        last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # of a run of ties
        found = np.cumsum(hits)[last]
        precision = found / (last + 1)
        recall = found / found[-1]
        per_class[c] = np.sum(np.diff(recall, prepend=0.0) * precision)
    known = per_class[~np.isnan(per_class)]
    mean = float(known.mean()) if len(known) else float("nan")
    return AveragePrecision(mean, per_class, labels.sum(axis=0))


def top1(scores: np.ndarray, labels: np.ndarray, valid: np.ndarray | None = None) -> float:
    """Share of rows whose highest score is of a right class; of tied scores the first counts.

    Args:
      scores: [N, C]. labels: [N] class numbers from 0, or [N, C] of 0 and 1, where any class of a
        row is right and a row without one does not count.
      valid: [N] bool, rows that count; all if not given.

    Returns:
      A fraction; NaN where no row counts.

    Raises:
      ValueError: as :func:`average_precision`, or a class number outside 0 to C - 1.
    """
    labels = np.asarray(labels)
    if labels.ndim == 1:
        classes = np.shape(scores)[-1]
        if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
            raise ValueError(f"labels must lie in 0 to {classes - 1}, the columns of the scores")
        labels = labels[:, None] == np.arange(classes)
    scores, labels = _rows(scores, labels, valid)
    right = labels[np.arange(len(scores)), scores.argmax(axis=1)] if len(scores) else labels[:, 0]
    counted = labels.any(axis=1)
    return float(right[counted].mean()) if counted.any() else float("nan")


def voc_average_precision(hits: np.ndarray, positives: int) -> float:
    """AP of PASCAL VOC from 2010 on: the area under the monotone precision envelope, all points.

    Args:
      hits: [N] bool, detections from the best score down; True where it is a true positive.
      positives: true boxes, found or not.

    Returns:
      0 without detections, NaN without true boxes.
    """
    if positives == 0:
        return float("nan")
    found = np.cumsum(hits)
    recall = np.concatenate([[0.0], found / positives, [1.0]])
    precision = np.concatenate([[0.0], found / np.arange(1, len(found) + 1), [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    return float(np.sum((recall[steps] - recall[steps - 1]) * envelope[steps]))


def _rows(scores, labels, valid) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} must be the same [N, C]")
    if valid is not None:
        valid = np.asarray(valid, bool)
        if valid.shape != scores.shape[:1]:
            raise ValueError(f"valid {valid.shape} must be [N] for scores {scores.shape}")
        scores, labels = scores[valid], labels[valid]
    if not np.isfinite(scores).all():
        row, column = np.argwhere(~np.isfinite(scores))[0]
        raise ValueError(f"score [{row}, {column}] is not finite: leave such rows out with valid")
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError("labels must be 0 or 1")
    return scores, labels.astype(bool)
