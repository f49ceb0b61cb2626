"""Frame-mAP at IoU 0.5 on AVA, as each of the four evaluators in use computes it.

They share the matching (a detection claims the true box it overlaps most, once; the second claim is
a false positive) and the AP (VOC, all points), and differ in which rows they look at. The same
detections score up to a factor of two apart, so a figure without its variant's name says little.

Read in, and proved equal per class to: activitynet/ActivityNet Evaluation/get_ava_performance.py
at 82304fa (``activitynet-head``) and 3fee089 (``activitynet-2019``); facebookresearch/SlowFast
slowfast/utils/ava_eval_helper.py at 287ec00; open-mmlab/mmaction2
mmaction/evaluation/functional/ava_utils.py at 4d6c934.
"""

from __future__ import annotations

import dataclasses
import difflib
import heapq
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..data.base import DataError
from .average_precision import voc_average_precision

IOU = 0.5


@dataclasses.dataclass(frozen=True)
class Variant:
    """What an evaluator does with the rows it reads.

    Attributes:
      cap: detections kept per keyframe, the best over all boxes and classes; 0 keeps all.
      order: of the rows of a keyframe, which decides who claims a true box first: ``heap`` (by
        score, ties as a binary heap leaves them), ``score`` (ties as in the file) or ``file``.
      keyframes: where detections count: ``listed`` (in the ground truth's file, with or without a
        box), ``labelled`` (with a true box of an evaluated class) or ``any``.
      exclusions: takes a list of keyframes to leave out.
      excluded_positives: true boxes of excluded keyframes still count as positives.
      fractions: timestamps may have fractions of a second.
      strict_boxes: raises on a detection that is inside out; else drops those without an area.
      skip_undetected: a class that no detection names is left out of the mean; else its AP is 0.
      dtype: of boxes and scores in the computation.
    """

    name: str
    cap: int
    order: str
    keyframes: str
    exclusions: bool = True
    excluded_positives: bool = False
    fractions: bool = False
    strict_boxes: bool = False
    skip_undetected: bool = False
    dtype: Any = np.float64


VARIANTS: dict[str, Variant] = {
    v.name: v
    for v in (
        Variant("activitynet-head", 50, "heap", "listed", exclusions=False, fractions=True),
        Variant("activitynet-2019", 50, "heap", "any"),
        Variant("slowfast", 0, "file", "any"),
        Variant(
            "mmaction2",
            0,
            "score",
            "labelled",
            excluded_positives=True,
            strict_boxes=True,
            skip_undetected=True,
            dtype=np.float32,
        ),
    )
}


@dataclasses.dataclass(frozen=True)
class FrameMap:
    """A frame-mAP and what it was computed from.

    Attributes:
      mean: over the classes whose AP is a number.
      per_class: class number -> AP; NaN for a class without a true box and, in ``mmaction2``, for
        one without a detection.
      variant: the evaluator's name, with the option where one was changed.
      counts: rows and keyframes that were used, and why others were not.
      note: why nothing could be measured, or "".
    """

    mean: float
    per_class: dict[int, float]
    variant: str
    counts: dict[str, int]
    note: str = ""


def frame_map(
    truth: np.ndarray,
    detections: np.ndarray,
    *,
    variant: str = "activitynet-head",
    classes: Mapping[int, str] | Iterable[int] | None = None,
    excluded: Iterable[tuple[str, float]] = (),
    ignore_empty_frames: bool = True,
) -> FrameMap:
    """Frame-mAP@0.5 of detections.

    The order of tied scores over the keyframes is left to ``np.argsort``, as in the originals:
    equal to them to the last bit on the same machine, perhaps not between machines.

    Args:
      truth, detections: records as :func:`rows` and :func:`read_csv` make them. Rows with label 0
        are keyframes without boxes; only ``activitynet-head`` knows them (the other originals stop
        at one), elsewhere they change nothing.
      variant: a name in :data:`VARIANTS`.
      classes: class numbers (or a label map) to evaluate; those of the ground truth if not given.
      excluded: (video, second) of keyframes to leave out.
      ignore_empty_frames: ``mmaction2`` alone; False counts detections in keyframes without a true
        box as false positives.

    Without a single detection every class has the evaluator's figure for that. Where there are
    detections but none in a keyframe of the truth, the two files are not of the same videos or
    count time differently: all figures are NaN, and ``note`` says what stands in either.

    Raises:
      DataError: an unknown variant, an option that the variant lacks, truth without a row of the
        classes, a true box that is inside out, fractions of seconds where whole ones are needed,
        or (``mmaction2``) a detection that is inside out.
    """
    rule, name = _rule(variant, ignore_empty_frames)
    excluded = list(excluded)
    if excluded and not rule.exclusions:
        raise DataError(
            f"{name} takes no excluded timestamps: it knows keyframes without boxes from lines "
            "video,timestamp in the ground truth; drop the list or use activitynet-2019"
        )
    wanted = np.unique(np.asarray(list(classes) if classes is not None else truth["label"], int))
    wanted = wanted[wanted > 0]
    keyframe = _Keys(rule, truth, detections, excluded)

    keep = np.isin(truth["label"], wanted)
    positives, keys = truth[keep], keyframe.truth[keep]
    if not len(positives):
        raise DataError(f"no row of the ground truth has one of the {len(wanted)} classes")
    _check_truth(positives)
    inside = ~np.isin(keys, keyframe.excluded)
    counted = positives if rule.excluded_positives else positives[inside]
    positives, keys = positives[inside], keys[inside]

    known = np.isin(detections["label"], wanted)
    allowed = ~np.isin(keyframe.detections, keyframe.excluded)
    if rule.keyframes == "listed":
        framed = np.isin(keyframe.detections, keyframe.truth)
    elif rule.keyframes == "labelled":
        framed = np.isin(keyframe.detections, keys)
    else:
        framed = np.ones(len(detections), bool)
    used = np.flatnonzero(known & allowed & framed)
    # The evaluators walk over keyframes as they first appear in one of the files.
    leading = keys if rule.keyframes == "labelled" else keyframe.detections[known]
    order, over = _arrange(detections[used], keyframe.detections[used], leading, rule)
    used = used[order]
    boxes = detections["box"][used].astype(rule.dtype)
    used, degenerate = _check_detections(used, boxes, detections, rule)
    boxes = detections["box"][used].astype(rule.dtype)
    labels = detections["label"][used].astype(np.int64)
    scores = detections["score"][used].astype(rule.dtype)

    true_order, _ = _arrange(positives, keys, keys, rule, cap=0)
    hits = _match(
        _group(keyframe.detections[used], labels, wanted),
        boxes,
        _group(keys, positives["label"], wanted)[true_order],
        positives["box"][true_order].astype(rule.dtype),
    )
    per_class = {}
    for c in wanted.tolist():
        own = labels == c
        ranked = np.argsort(scores[own])[::-1]
        ap = voc_average_precision(hits[own][ranked], int((counted["label"] == c).sum()))
        per_class[c] = float("nan") if rule.skip_undetected and not own.any() else ap
    note = _strangers(truth, detections, keyframe)
    if note:
        per_class = dict.fromkeys(per_class, float("nan"))
    figures = np.asarray(list(per_class.values()))
    scored = ~np.isnan(figures)
    return FrameMap(
        float(np.nanmean(figures)) if scored.any() else float("nan"),
        per_class,
        name,
        {
            "classes": len(wanted),
            "classes scored": int(scored.sum()),
            "true boxes": len(counted),
            "keyframes with a true box": len(np.unique(keys)),
            "detections": int((detections["label"] > 0).sum()),
            "detections scored": len(used),
            "of other classes": int((~known & (detections["label"] > 0)).sum()),
            "in excluded keyframes": int((known & ~allowed).sum()),
            "in keyframes that do not count": int((known & allowed & ~framed).sum()),
            "over the cap": over,
            "without an area": degenerate,
        },
        note,
    )


def _strangers(truth: np.ndarray, detections: np.ndarray, keyframe: _Keys) -> str:
    if not len(detections) or np.isin(keyframe.detections, keyframe.truth).any():
        return ""
    ours, theirs = (f"{a['video'][0]} at {a['time'][0]:g} s" for a in (detections, truth))
    return (
        f"no detection lies in a keyframe of the ground truth (the first of them is in {ours}, the "
        f"first true row in {theirs}): check the videos' names and the timestamps"
    )


def _rule(variant: str, ignore_empty_frames: bool) -> tuple[Variant, str]:
    if variant not in VARIANTS:
        near = difflib.get_close_matches(variant, VARIANTS, 1, 0.3)
        hint = f", did you mean {near[0]}?" if near else ""
        raise DataError(f"unknown variant {variant!r}{hint} (there are {', '.join(VARIANTS)})")
    rule = VARIANTS[variant]
    if ignore_empty_frames:
        return rule, variant
    if rule.keyframes != "labelled":
        raise DataError(f"{variant} has no option ignore_empty_frames: only mmaction2 has")
    return dataclasses.replace(rule, keyframes="any"), f"{variant} (ignore_empty_frames=False)"


class _Keys:
    """One number per keyframe (video, microsecond), the same in all three lists: [N] int64 each."""

    def __init__(self, rule: Variant, truth, detections, excluded):
        videos = [truth["video"], detections["video"], [v for v, _ in excluded]]
        times = [truth["time"], detections["time"], [t for _, t in excluded]]
        time = np.concatenate([np.asarray(t, np.float64) for t in times])
        if not rule.fractions and (time != np.floor(time)).any():
            raise DataError(
                f"timestamp {time[time != np.floor(time)][0]:g} is not a whole second: "
                f"{rule.name} takes no other, activitynet-head does"
            )
        video = np.unique(
            np.concatenate([np.asarray(v, np.str_) for v in videos]), return_inverse=True
        )[1]
        moment = np.unique(np.rint(time * 1e6), return_inverse=True)[1]
        key = video.astype(np.int64) * (moment.max(initial=0) + 1) + moment
        ends = np.cumsum([len(v) for v in videos])
        self.truth, self.detections, self.excluded = np.split(key, ends[:2])


def _arrange(
    records: np.ndarray,
    keys: np.ndarray,
    leading: np.ndarray,
    rule: Variant,
    cap: int | None = None,
) -> tuple[np.ndarray, int]:
    """Row numbers by keyframe and, within one, in the variant's order; how many the cap cost."""
    cap = rule.cap if cap is None else cap
    names, first = np.unique(leading, return_index=True)
    place = first[np.searchsorted(names, keys)] if len(keys) else keys
    if rule.order == "score":
        return np.lexsort((-records["score"], place)), 0
    order = np.argsort(place, kind="stable")
    if rule.order == "file" or not len(order):
        return order, 0
    ends = np.flatnonzero(np.append(np.diff(place[order]) != 0, True)) + 1
    kept = [_heaped(records, part, cap) for part in np.split(order, ends[:-1])]
    return np.concatenate(kept), len(order) - sum(map(len, kept))


def _heaped(records: np.ndarray, part: np.ndarray, cap: int) -> np.ndarray:
    """The ``cap`` best rows of a keyframe (all if 0), best first.

    Among equal scores the one that a heap of (score, class, y1, x1, y2, x2) drops or lists first
    goes first; at the cap's edge this decides which classes keep a row.
    """
    heap: list[tuple] = []
    columns = (records[part][field].tolist() for field in ("score", "label", "box"))
    for row, score, label, (x1, y1, x2, y2) in zip(part.tolist(), *columns, strict=True):
        item = (score, label, y1, x1, y2, x2, row)
        if cap < 1 or len(heap) < cap:
            heapq.heappush(heap, item)
        elif score > heap[0][0]:
            heapq.heapreplace(heap, item)
    return np.asarray([item[-1] for item in sorted(heap, key=lambda item: -item[0])], np.int64)


def _check_truth(records: np.ndarray) -> None:
    box = records["box"]
    wrong = ~np.isfinite(box).all(axis=1) | (box[:, :2] > box[:, 2:]).any(axis=1)
    if wrong.any():
        video, time, corners = records[wrong][0][["video", "time", "box"]]
        raise DataError(
            f"ground truth box {corners.tolist()} of {video} at {time:g} s is inside out or not "
            "finite: the order is x1, y1, x2, y2"
        )


def _check_detections(
    used: np.ndarray, boxes: np.ndarray, detections: np.ndarray, rule: Variant
) -> tuple[np.ndarray, int]:
    """Rows with a box that the variant takes, and how many it drops without a word."""
    if not rule.strict_boxes:
        good = (boxes[:, :2] < boxes[:, 2:]).all(axis=1)
        return used[good], int((~good).sum())
    wrong = (boxes[:, :2] > boxes[:, 2:]).any(axis=1)
    if wrong.any():
        video, time, corners = detections[used[wrong][0]][["video", "time", "box"]]
        raise DataError(
            f"detected box {corners.tolist()} of {video} at {time:g} s is inside out, which "
            f"{rule.name} refuses; the other variants drop such boxes"
        )
    return used, 0


def _group(keys: np.ndarray, labels: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """One number per keyframe and class: only rows of the same one can match."""
    return keys * len(wanted) + np.searchsorted(wanted, labels)


def _match(
    groups: np.ndarray, boxes: np.ndarray, true_groups: np.ndarray, true_boxes: np.ndarray
) -> np.ndarray:
    """Which detections [N] are true positives; both lists in the variant's order."""
    hits = np.zeros(len(groups), bool)
    # All pairs of a detection and a true box of its group, by detection.
    by_group = np.argsort(true_groups, kind="stable")
    ranked = true_groups[by_group]
    low = np.searchsorted(ranked, groups, "left")
    count = np.searchsorted(ranked, groups, "right") - low
    some = np.flatnonzero(count)
    if not len(some):
        return hits
    low, count = low[some], count[some]
    start = np.cumsum(count) - count
    owner = np.repeat(np.arange(len(some)), count)
    other = by_group[np.arange(len(owner)) - start[owner] + low[owner]]
    iou = _iou(boxes[some][owner], true_boxes[other])
    best = np.maximum.reduceat(iou, start)  # a NaN (two boxes without area) stays, and never hits
    # The first true box of the highest overlap is the one claimed.
    claim = np.flatnonzero((iou == best[owner]) & (best[owner] >= IOU))
    claimers, at = np.unique(owner[claim], return_index=True)
    claimed = other[claim[at]]
    _, winners = np.unique(claimed, return_index=True)  # claimers are in order: the first wins
    hits[some[claimers[winners]]] = True
    return hits


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [P, 4] with boxes [P, 4].

    Sides and areas are in the boxes' precision, the rest in float64: ``mmaction2``'s mixture.
    """
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])
    span = np.maximum(high - low, np.zeros(1))  # float64 from here on
    inter = span[:, 0] * span[:, 1]
    area = lambda z: (z[:, 2] - z[:, 0]) * (z[:, 3] - z[:, 1])
    with np.errstate(invalid="ignore"):
        return inter / (area(a) + area(b) - inter)
