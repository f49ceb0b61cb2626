"""Which detections of a few frames are one object, which of them count, and what is known already.

A detector is asked now and then, of single frames, and errs in each. Its segments are laid onto one
frame; those that others support are chosen, as many as are no copies of each other, and merged with
the masks that were carried on through time. All of this runs on the host, on NumPy arrays.

Source: Cheng et al., DEVA (arXiv 2309.03903), section 3.2, and its code,
hkchengrex/Tracking-Anything-with-DEVA, ``consensus_automatic.py`` and ``segment_merging.py``: the
integer program is theirs, with the weight of a segment as it was in their experiments (1; the paper
says 0.5).

Axis letters: N segments of all frames, O objects that are tracked, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, sparse

AGREE = 0.5  # IoU above which two segments are the same; at most one of a frame is
PRICE = 1.0  # of choosing a segment: it needs support of more than half of that


class Segments(NamedTuple):
    """What a detector found in a frame: masks [S, H, W] bool that do not overlap, kinds [S] int
    (segments of different kinds are never the same)."""

    masks: np.ndarray
    kinds: np.ndarray


class Agreed(NamedTuple):
    """Chosen segments, smaller ones in front: masks [S, H, W] bool, kinds [S], and for each the
    numbers of the segments that it stands for, itself first."""

    masks: np.ndarray
    kinds: np.ndarray
    members: list[list[int]]


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of masks [S, H, W] and [R, H, W] bool: [S, R], 0 where both are empty."""
    a, b = (m.reshape(len(m), m.shape[1] * m.shape[2]).astype(np.float64) for m in (a, b))
    both = a @ b.T
    return both / np.maximum(a.sum(1)[:, None] + b.sum(1)[None] - both, 1.0)


def support(frames: Sequence[Segments]) -> np.ndarray:
    """IoU [N, N] of segments of different frames and one kind, 0 where they do not agree."""
    masks = np.concatenate([f.masks for f in frames])
    kinds = np.concatenate([f.kinds for f in frames])
    place = np.repeat(np.arange(len(frames)), [len(f.masks) for f in frames])
    may = (place[:, None] != place[None]) & (kinds[:, None] == kinds[None])
    iou = np.where(may, overlap(masks, masks), 0.0)
    return np.where(iou > AGREE, iou, 0.0)


def chosen(iou: np.ndarray) -> np.ndarray:
    """[N] bool: those that together have the most support, less ``PRICE`` each, no two of which
    support each other. iou [N, N] of :func:`support`."""
    count = len(iou)
    if not count:
        return np.zeros(0, bool)
    # the authors count a pair's support twice
    worth = 2.0 * iou.sum(0) - PRICE
    first, second = np.nonzero(np.triu(iou > 0))
    pairs = np.arange(len(first))
    rows = sparse.csr_array(
        (np.ones(2 * len(pairs)), (np.r_[pairs, pairs], np.r_[first, second])),
        shape=(max(len(pairs), 1), count),
    )
    one = optimize.LinearConstraint(rows, -np.inf, 1.0)
    found = optimize.milp(-worth, constraints=one, integrality=1, bounds=optimize.Bounds(0, 1))
    if found.x is None:
        raise RuntimeError(f"no choice among {count} segments: {found.message}")
    return found.x > 0.5


def consensus(frames: Sequence[Segments]) -> Agreed:
    """Of segments that were laid onto one frame, which count.

    Each of the chosen is drawn as it is, the largest first; it stands for those that support it.
    """
    masks = np.concatenate([f.masks for f in frames])
    kinds = np.concatenate([f.kinds for f in frames])
    iou = support(frames)
    some = np.flatnonzero(chosen(iou))
    return Agreed(
        drawn(masks[some]), kinds[some], [[int(i), *map(int, np.flatnonzero(iou[i]))] for i in some]
    )


def drawn(masks: np.ndarray, areas: np.ndarray | None = None) -> np.ndarray:
    """Masks [S, H, W] bool without what a smaller one covers (``areas`` [S], their own if None)."""
    sizes = masks.sum((1, 2)) if areas is None else areas
    out = np.zeros_like(masks)
    for i in np.argsort(-sizes, kind="stable"):
        out &= ~masks[i]
        out[i] = masks[i]
    return out


class Merged(NamedTuple):
    """masks [O + new, H, W] bool that do not overlap, those of tracked objects first; ``found`` [O]
    bool: a segment is the object's; ``new``: the segments that are nobody's, in their order."""

    masks: np.ndarray
    found: np.ndarray
    new: list[int]


def merged(
    tracked: np.ndarray, kinds: np.ndarray, segments: Segments, union: bool = True
) -> Merged:
    """Masks that were carried on [O, H, W] bool, with kinds [O], and what is detected in the frame.

    An object and a segment with IoU above ``AGREE`` are one, and have what either covers (without
    ``union``: what the segment does); larger ones are drawn first.
    """
    iou = overlap(segments.masks, tracked)
    iou *= segments.kinds[:, None] == kinds[None]
    owner = np.full(len(tracked), -1)
    new = []
    for s in range(len(segments.masks)):
        free = np.flatnonzero((iou[s] > AGREE) & (owner < 0))
        if len(free):
            owner[free[0]] = s
        else:
            new.append(s)
    found = owner >= 0
    masks, areas = tracked.copy(), tracked.sum((1, 2))
    for o in np.flatnonzero(found):
        both = tracked[o] | segments.masks[owner[o]]
        areas[o] = both.sum()
        masks[o] = both if union else segments.masks[owner[o]]
    fresh = segments.masks[new]
    every = np.concatenate([masks, fresh])
    return Merged(drawn(every, np.r_[areas, fresh.sum((1, 2))]), found, new)
