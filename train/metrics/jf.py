"""Video object segmentation: region J, boundary F and J&F, and how long a track lasts. Host code.

Source: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object
Segmentation" (CVPR 2016), section 4; Pont-Tuset et al., "The 2017 DAVIS Challenge" (arXiv
1704.00675). The figures are those of the official davis2017-evaluation, semi-supervised task.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np


class Statistics(NamedTuple):
    """Of the values of one object over the frames of one sequence."""

    mean: float
    recall: float  # part of the frames above 0.5
    decay: float  # mean of the first quarter minus mean of the last


class Jaccard(NamedTuple):
    """J and F over sequences: means over all objects, every object counting once."""

    jf: float  # mean of j and f
    j: float
    j_recall: float
    j_decay: float
    f: float
    f_recall: float
    f_decay: float
    per_object: dict[str, tuple[float, float]]  # "sequence_id" -> (j, f)


def region_similarity(
    annotation: np.ndarray, result: np.ndarray, void: np.ndarray | None = None
) -> np.ndarray:
    """J, intersection over union: masks [..., H, W] -> [...]; 1 where both are empty.

    ``void`` [..., H, W] marks pixels that do not count.

    Raises:
      ValueError: masks of different shapes.
    """
    a, b = _masks(annotation, result, void)
    union = (a | b).sum(axis=(-2, -1))
    both = (a & b).sum(axis=(-2, -1))
    return np.where(union == 0, 1.0, both / np.maximum(union, 1))


def boundary_accuracy(
    annotation: np.ndarray,
    result: np.ndarray,
    void: np.ndarray | None = None,
    tolerance: float = 0.008,
) -> np.ndarray:
    """F, how well the outlines agree: masks [..., H, W] -> [...].

    Harmonic mean of the parts of either outline that lie near the other one: within ``tolerance``
    times the image's diagonal, rounded up (in pixels if it is 1 or more).

    Raises:
      ValueError: masks of different shapes.
    """
    a, b = _masks(annotation, result, void)
    height, width = a.shape[-2:]
    reach = tolerance if tolerance >= 1 else math.ceil(tolerance * math.hypot(height, width))
    lead = a.shape[:-2]
    pairs = zip(a.reshape(-1, height, width), b.reshape(-1, height, width), strict=True)
    return np.asarray([_boundary_f(x, y, int(reach)) for x, y in pairs]).reshape(lead)


def _masks(annotation, result, void) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(annotation, bool), np.asarray(result, bool)
    shapes = {a.shape, b.shape} | ({np.shape(void)} if void is not None else set())
    if len(shapes) > 1 or a.ndim < 2:
        raise ValueError(
            f"annotation {a.shape}, result {b.shape}"
            + (f", void {np.shape(void)}" if void is not None else "")
            + ": masks are [..., height, width] of one shape; resize the results first"
        )
    if void is None:
        return a, b
    keep = ~np.asarray(void, bool)
    return a & keep, b & keep


def outline(mask: np.ndarray) -> np.ndarray:
    """Pixels of [H, W] that differ from the next one to the right, below or diagonally; at the
    right and lower edge from those there are."""
    mask = np.asarray(mask, bool)
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge


def _boundary_f(annotation: np.ndarray, result: np.ndarray, reach: int) -> float:
    truth, guess = outline(annotation), outline(result)
    if not guess.any() and not truth.any():
        return 1.0
    if not guess.any() or not truth.any():
        return 0.0
    precision, recall = _near(guess, truth, reach), _near(truth, guess, reach)
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0


def _near(points: np.ndarray, target: np.ndarray, reach: int) -> float:
    """The part of the set pixels of ``points`` with one of ``target`` within a disc of radius
    ``reach``. Row by row of the disc, from running sums along the rows of ``target``."""
    ys, xs = np.nonzero(points)
    width = target.shape[1]
    sums = np.zeros((target.shape[0] + 2 * reach, width + 1), np.int32)
    np.cumsum(target, axis=1, out=sums[reach : reach + target.shape[0], 1:])
    found = np.zeros(len(ys), bool)
    for dy in range(-reach, reach + 1):
        half = math.isqrt(reach * reach - dy * dy)
        right = np.minimum(xs + half + 1, width)
        row = ys + dy + reach
        found |= sums[row, right] > sums[row, np.maximum(xs - half, 0)]
    return float(found.mean())


def statistics(values: np.ndarray) -> Statistics:
    """Mean, recall and decay of per-frame values [T]; NaN values are left out.

    The official code keeps its quarter marks in 8 bits, so that its decay (alone) is another
    number on sequences of more than 256 frames; here they are right for any length.

    Raises:
      ValueError: no values.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"values {values.shape}: at least one frame, [T]")
    marks = (np.round(np.linspace(1, len(values), 5) + 1e-10) - 1).astype(int)
    first, last = values[: marks[1] + 1], values[marks[3] : marks[4] + 1]
    known = values[~np.isnan(values)]
    if not len(known):
        return Statistics(math.nan, math.nan, math.nan)
    # as there, a frame that is NaN counts as one not above 0.5
    return Statistics(
        float(known.mean()), float((values > 0.5).mean()), float(_mean(first) - _mean(last))
    )


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def jf(
    sequences: Mapping[str, tuple[np.ndarray, np.ndarray]]
    | Iterable[tuple[str, tuple[np.ndarray, np.ndarray]]],
    *,
    ends: bool = False,
    tolerance: float = 0.008,
) -> Jaccard:
    """J&F over sequences.

    Args:
      sequences: name -> (annotation, result), each [T, H, W] of object ids: 0 is background, 255
        is void and counts as background. The objects that count are 1 .. K, K the highest id of
        the annotation's first frame, as in the official semi-supervised task: one that enters
        later is not asked for, in neither of the two. A stream of (name, (annotation, result))
        pairs is read one by one.
      ends: count the first frame (which is given) and the last one too; officially they do not.
      tolerance: as in :func:`boundary_accuracy`.

    Raises:
      ValueError: shapes that differ, an id in a result that the annotation lacks, or nothing to
        score.
    """
    pairs = sequences.items() if isinstance(sequences, Mapping) else sequences
    found: dict[str, tuple[Statistics, Statistics]] = {}
    for name, (annotation, result) in pairs:
        annotation, result = np.asarray(annotation), np.asarray(result)
        if annotation.ndim != 3 or annotation.shape != result.shape:
            raise ValueError(
                f"{name}: annotation {annotation.shape} and result {result.shape} are not one"
                " [frames, height, width]"
            )
        known = int(np.where(annotation == 255, 0, annotation).max(initial=0))
        highest = int(np.where(result == 255, 0, result).max(initial=0))
        if highest > known:
            raise ValueError(f"{name}: object {highest} in the result, {known} in the annotation")
        # as there: who is not in the first frame was never shown to the tracker, and is not asked
        objects = int(np.where(annotation[:1] == 255, 0, annotation[:1]).max(initial=0))
        cut = slice(None) if ends else slice(1, -1)
        annotation, result = annotation[cut], result[cut]
        if not len(annotation):
            raise ValueError(f"{name}: no frames between the first and the last; see ends=")
        for number in range(1, objects + 1):
            masks = annotation == number, result == number
            found[f"{name}_{number}"] = (
                statistics(region_similarity(*masks)),
                statistics(boundary_accuracy(*masks, tolerance=tolerance)),
            )
    if not found:
        raise ValueError("no sequences, or none with an object in its first frame")
    means = [np.asarray([pair[i] for pair in found.values()]).mean(axis=0) for i in (0, 1)]
    j, f = (Statistics(*(float(value) for value in row)) for row in means)
    return Jaccard(
        jf=(j.mean + f.mean) / 2,
        j=j.mean,
        j_recall=j.recall,
        j_decay=j.decay,
        f=f.mean,
        f_recall=f.recall,
        f_decay=f.decay,
        per_object={name: (a.mean, b.mean) for name, (a, b) in found.items()},
    )


def tracking_length(
    j: np.ndarray, visible: np.ndarray | None = None, *, threshold: float = 0.0, patience: int = 1
) -> int:
    """Frames until a track is lost.

    It is lost at the first of ``patience`` frames in a row on which the object is there and J is
    not above ``threshold``. Frames on which the object is out of sight neither break nor prolong
    such a run.

    Args:
      j: [T] J of one object. visible: [T] bool, None for always.

    Returns:
      The number of frames before that one; T for a track that lasts.

    Raises:
      ValueError: visible of another shape, or patience below 1.
    """
    j = np.asarray(j)
    seen = np.ones(j.shape, bool) if visible is None else np.asarray(visible, bool)
    if seen.shape != j.shape or j.ndim != 1 or patience < 1:
        raise ValueError(f"j {j.shape} and visible {seen.shape}: one [T]; patience {patience} >= 1")
    (frames,) = np.nonzero(seen)
    misses = j[frames] <= threshold
    for first in range(len(frames) - patience + 1):
        if misses[first : first + patience].all():
            return int(frames[first])
    return len(j)
