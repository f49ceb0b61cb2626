"""Multi-object tracking: HOTA, MOTA and IDF1 of ids against the truth. Host code.

Sources: Luiten et al., "HOTA" (IJCV 2020, arXiv 2009.07736); Bernardin and Stiefelhagen,
"Evaluating Multiple Object Tracking Performance: The CLEAR MOT Metrics" (2008); Ristani et al.,
"Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking" (arXiv 1609.01775).
The values are those of TrackEval, of one sequence and one class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

ALPHAS = np.arange(0.05, 0.99, 0.05)  # overlaps over which HOTA is a mean
TINY = np.finfo(float).eps


class Tracking(NamedTuple):
    """Of one sequence; all but the counts in [0, 1], MOTA at most 1."""

    hota: float  # mean over ALPHAS of the root of detection times association
    det_a: float  # detection accuracy, mean over ALPHAS
    ass_a: float  # association accuracy, mean over ALPHAS
    mota: float  # 1 - (missed + false + switches) / objects, at overlap 0.5
    idf1: float  # F1 of boxes with the right identity, at overlap 0.5
    switches: int  # an object is matched to another id than the last time
    missed: int
    false: int
    objects: int  # boxes of the truth


class Followed(NamedTuple):
    """Of one object of the truth."""

    frames: int  # in which it is there
    matched: int  # in which a track is on it, at overlap 0.5
    switches: int  # it is matched to another id than the last time


class _Frame(NamedTuple):
    truth: np.ndarray  # [n] index of the object
    found: np.ndarray  # [m] index of the track
    overlap: np.ndarray  # [n, m]


def tracking(
    truth_ids: Sequence[np.ndarray],
    truth_boxes: Sequence[np.ndarray],
    found_ids: Sequence[np.ndarray],
    found_boxes: Sequence[np.ndarray],
) -> Tracking:
    """Metrics of a sequence of T frames.

    Args:
      truth_ids, found_ids: T arrays of ids [n], any integers; each once per frame.
      truth_boxes, found_boxes: T arrays [n, 4] x1, y1, x2, y2 in one unit.

    Raises:
      ValueError: not as many frames, or ids as boxes; an id twice in a frame.
    """
    frames, known, tracks = _frames(truth_ids, truth_boxes, found_ids, found_boxes)
    objects = len(known)
    counts = _per_id([f.truth for f in frames], objects), _per_id([f.found for f in frames], tracks)
    hota, det_a, ass_a = _hota(frames, *counts)
    hits, switches = (int(of.sum()) for of in _clear(frames, objects))
    total, given = int(counts[0].sum()), int(counts[1].sum())
    missed, false = total - hits, given - hits
    mota = 1 - (missed + false + switches) / max(total, 1)
    return Tracking(
        hota, det_a, ass_a, mota, _idf1(frames, *counts), switches, missed, false, total
    )


def followed(
    truth_ids: Sequence[np.ndarray],
    truth_boxes: Sequence[np.ndarray],
    found_ids: Sequence[np.ndarray],
    found_boxes: Sequence[np.ndarray],
) -> dict[int, Followed]:
    """How well each object of the truth is followed, by its id; matches and switches are those of
    :func:`tracking`. Arguments and errors as there."""
    frames, known, _ = _frames(truth_ids, truth_boxes, found_ids, found_boxes)
    there = _per_id([f.truth for f in frames], len(known)).astype(int)
    each = zip(there.tolist(), *(of.tolist() for of in _clear(frames, len(known))), strict=True)
    return {int(who): Followed(*one) for who, one in zip(known, each, strict=True)}


def _frames(
    truth_ids: Sequence, truth_boxes: Sequence, found_ids: Sequence, found_boxes: Sequence
) -> tuple[list[_Frame], np.ndarray, int]:
    """The frames with numbers for ids, the ids of the truth, and how many tracks there are."""
    parts = (truth_ids, truth_boxes, found_ids, found_boxes)
    if len({len(part) for part in parts}) > 1:
        raise ValueError(f"{', '.join(str(len(p)) for p in parts)} frames; give as many of each")
    objects, truth = _numbered(truth_ids, truth_boxes, "truth")
    tracks, found = _numbered(found_ids, found_boxes, "found")
    frames = [
        _Frame(a, b, overlap(np.asarray(x, float), np.asarray(y, float)))
        for a, b, x, y in zip(truth, found, truth_boxes, found_boxes, strict=True)
    ]
    return frames, objects, len(tracks)


def _numbered(ids: Sequence, boxes: Sequence, side: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """The ids, and per frame the ids as numbers from 0."""
    ids = [np.asarray(a).reshape(-1) for a in ids]
    for t, (a, b) in enumerate(zip(ids, boxes, strict=True)):
        if np.shape(b) != (len(a), 4):
            raise ValueError(f"{side}, frame {t}: {len(a)} ids for boxes {np.shape(b)}")
        if len(np.unique(a)) < len(a):
            raise ValueError(f"{side}, frame {t}: an id stands twice in {a.tolist()}")
    joined = np.concatenate(ids) if ids else np.zeros(0, int)
    known, index = np.unique(joined, return_inverse=True)
    return known, np.split(index, np.cumsum([len(a) for a in ids])[:-1]) if ids else []


def _per_id(frames: list[np.ndarray], count: int) -> np.ndarray:
    joined = np.concatenate(frames) if frames else np.zeros(0, int)
    return np.bincount(joined.astype(int), minlength=count).astype(float)


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [n, 4] with boxes [m, 4]: [n, m]; 0 of empty ones."""
    a, b = a.reshape(-1, 1, 4), b.reshape(1, -1, 4)
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    inter = np.prod(np.maximum(high - low, 0.0), axis=-1)
    area = lambda z: np.prod(np.maximum(z[..., 2:] - z[..., :2], 0.0), axis=-1)
    return inter / np.maximum(area(a) + area(b) - inter, TINY)


def _hota(frames: list[_Frame], objects: np.ndarray, tracks: np.ndarray):
    """HOTA, DetA and AssA, means over ALPHAS (paper, sections 5 and 6)."""
    if not objects.sum() or not tracks.sum():
        return 0.0, 0.0, 0.0
    # How well each object and each track go together over the whole sequence decides, beside the
    # overlap, which of them are matched in a frame.
    together = np.zeros((len(objects), len(tracks)))
    for f in frames:
        union = f.overlap.sum(0) + f.overlap.sum(1, keepdims=True) - f.overlap
        share = np.divide(f.overlap, union, out=np.zeros_like(f.overlap), where=union > TINY)
        together[np.ix_(f.truth, f.found)] += share
    together /= objects[:, None] + tracks - together
    matches = np.zeros((len(ALPHAS), len(objects), len(tracks)))
    for f in frames:
        rows, columns = linear_sum_assignment(
            together[np.ix_(f.truth, f.found)] * f.overlap, maximize=True
        )
        near = f.overlap[rows, columns] >= ALPHAS[:, None] - TINY  # [alphas, pairs]
        matches[:, f.truth[rows], f.found[columns]] += near
    hits = matches.sum((1, 2))
    det = hits / np.maximum(objects.sum() + tracks.sum() - hits, 1)
    pairs = matches / np.maximum(objects[:, None] + tracks - matches, 1)
    ass = (matches * pairs).sum((1, 2)) / np.maximum(hits, 1)
    return float(np.sqrt(det * ass).mean()), float(det.mean()), float(ass.mean())


def _clear(frames: list[_Frame], objects: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each object, matched boxes and switches of identity, at overlap 0.5 (Bernardin, section
    2)."""
    last = np.full(objects, -1)  # the track of each object when it was last matched
    before = np.full(objects, -1)  # in the last frame
    hits, switches = np.zeros(objects, int), np.zeros(objects, int)
    for f in frames:
        if not len(f.truth) or not len(f.found):
            continue  # as TrackEval: such a frame does not break what was matched before it
        # A pair of the last frame goes on while it overlaps; else the greatest overlap counts.
        score = 1000 * (f.found == before[f.truth][:, None]) + f.overlap
        score[f.overlap < 0.5 - TINY] = 0
        rows, columns = linear_sum_assignment(score, maximize=True)
        kept = score[rows, columns] > TINY
        who, by = f.truth[rows[kept]], f.found[columns[kept]]
        hits[who] += 1
        switches[who] += (last[who] >= 0) & (last[who] != by)
        last[who] = by
        before[:] = -1
        before[who] = by
    return hits, switches


def _idf1(frames: list[_Frame], objects: np.ndarray, tracks: np.ndarray) -> float:
    """Objects and tracks are paired once for the sequence, so that most boxes are right."""
    together = np.zeros((len(objects), len(tracks)))
    for f in frames:
        together[np.ix_(f.truth, f.found)] += f.overlap >= 0.5
    rows, columns = linear_sum_assignment(together, maximize=True)
    right = together[rows, columns].sum()
    return float(2 * right / max(objects.sum() + tracks.sum(), 1))
