"""Frames of one scene in two sets of videos: what must not stand on both sides of a split.

Two descriptions of a whole frame, coarse enough to forgive who stands in it: its grey thumbnail,
compared by correlation, and its colours, compared by the Bhattacharyya coefficient of histograms.
One alone finds near copies; both together, at lower thresholds, other moments of the same scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

THUMBNAIL = (15, 20)  # (height, width)
BINS = 8  # of each colour
COPY = 0.97  # of thumbnails: the same picture, or nearly
ALIKE = (0.90, 0.96)  # of thumbnails and of colours, in one pair of frames: the same scene
FLAT = 4.0  # least deviation of a thumbnail's greys: a black frame is like every other one


class Likeness(NamedTuple):
    """Of two groups of frames: the largest of each over all pairs of frames."""

    thumbnail: float
    colours: float  # among the pairs whose thumbnails are alike (``ALIKE[0]``), else 0
    same: bool  # one scene, by either rule


def described(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames [N, H, W, 3] uint8 -> thumbnails [N, 300] of mean 0 and length 1 (all zero for a flat
    one) and square roots of colour histograms [N, 512]."""
    from PIL import Image

    height, width = THUMBNAIL
    small = [
        np.asarray(Image.fromarray(f).convert("L").resize((width, height), Image.Resampling.BOX))
        for f in frames
    ]
    grey = np.asarray(small, np.float32).reshape(len(frames), -1)
    grey -= grey.mean(axis=1, keepdims=True)
    kept = grey.std(axis=1, keepdims=True) >= FLAT
    grey = np.where(kept, grey / np.maximum(np.linalg.norm(grey, axis=1, keepdims=True), 1e-6), 0)
    cells = (frames // (256 // BINS)).astype(np.int64) @ [BINS * BINS, BINS, 1]
    counts = [np.bincount(c.ravel(), minlength=BINS**3) for c in cells]
    return grey.astype(np.float32), np.sqrt(np.asarray(counts, np.float32) / cells[0].size)


def likeness(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> Likeness:
    """Of two groups, each as :func:`described` gives it."""
    thumbnails, colours = one[0] @ other[0].T, one[1] @ other[1].T
    alike = thumbnails >= ALIKE[0]
    tint = float(colours[alike].max(initial=0.0))
    best = float(thumbnails.max(initial=0.0))
    return Likeness(best, tint, best >= COPY or tint >= ALIKE[1])


def shared(
    train: dict[str, np.ndarray], test: dict[str, np.ndarray], within: Sequence[str] = ()
) -> dict[tuple[str, str], Likeness]:
    """Pairs of groups (name -> frames [N, H, W, 3]) that show one scene.

    within: prefixes of names; only groups of one prefix are compared. (): all with all.
    """
    known = {name: described(frames) for name, frames in test.items()}
    found = {}
    for name, frames in train.items():
        mine = described(frames)
        for other, theirs in known.items():
            if within and not any(name.startswith(p) and other.startswith(p) for p in within):
                continue
            pair = likeness(mine, theirs)
            if pair.same:
                found[name, other] = pair
    return found
