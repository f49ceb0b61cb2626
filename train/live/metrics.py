"""The metrics of watched scenes: arrays in, numbers out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..data import handover
from ..metrics.average_precision import top1
from ..metrics.stream import auc, detection_map, f1_score


def scene_metrics(rows: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Of answers and truth of scenes, arrays [S, C, T, ...] by name (see ``evaluation.measure``).

    ``anomaly_f1``, ``anomaly_auc``: one example per camera of a pair, its score the mean over the
    frames after the time limit; F1 at a probability of 0.5. ``always_f1``: of always saying yes.
    ``event_f1``: per frame. ``class_f1``: per frame and class, at 0.5. ``iou``: of the best box
    found with an actor in view. ``future``: error of the expected next feature over the error of
    repeating the last one. NaN: nothing to measure, such as scenes without anomalies.
    """
    all_ = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    judged = all_["judged"]
    asked = (all_["known"] & (np.arange(handover.FRAMES) >= handover.ENTERING[0]))[judged]
    late = asked & (np.cumsum(~all_["known"][judged], axis=1) > 0)
    answered = late.any(axis=1)  # a camera that is never asked has no score
    score = (all_["anomaly_score"][judged] * late)[answered].sum(1) / late[answered].sum(1)
    truth = all_["anomaly"][judged][answered].max(1) > 0
    seen, repeat = all_["iou"][all_["box_valid"][..., 0]], float(all_["repeat"].sum())
    said = all_["class_score"] > 0.5
    return {
        "anomaly_f1": f1_score(score > 0.5, truth),
        "anomaly_auc": auc(score, truth),
        "always_f1": f1_score(np.ones_like(truth), truth),
        "event_f1": f1_score(all_["event_score"] > 0.5, all_["event"] > 0),
        "class_f1": f1_score(said, all_["labels"].max(-2) > 0),
        "iou": float(seen.mean()) if len(seen) else math.nan,
        "future": float(all_["future"].sum()) / repeat if repeat else math.nan,
    }


def recognised(rows: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Of the same rows: ``top1``, how often a frame's most certain class is that of an actor in
    view (frames without one do not count), and ``mAP``, detection at IoU 0.5 over all frames, a
    box scored by its certainty times its class's."""
    all_ = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    frames: Any = lambda name, axes: all_[name].reshape(-1, *all_[name].shape[-axes:])
    labels, sure = frames("labels", 2), frames("box_score", 1)[..., None]
    return {
        "top1": top1(frames("class_score", 1), labels.max(axis=1)),
        "mAP": detection_map(
            frames("box", 2), frames("found", 1), sure * frames("box_class_score", 2),
            frames("boxes", 2), labels,
        ),
    }  # fmt: skip
