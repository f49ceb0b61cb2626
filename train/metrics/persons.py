"""Persons that a model finds, against those that a box teacher is sure of."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from .mot import overlap


@dataclasses.dataclass(frozen=True)
class Found:
    """Boxes counted over frames; counts of several frames are added."""

    right: int = 0
    said: int = 0  # what the model found, but for what only matches a weak box of the teacher's
    wanted: int = 0  # boxes that the teacher is sure of

    def __add__(self, other: Found) -> Found:
        return Found(self.right + other.right, self.said + other.said, self.wanted + other.wanted)


def persons(found: Found) -> dict[str, float]:
    """``person_recall`` is the part of the boxes with a score of at least ``sure`` that the model
    finds, ``person_precision`` the part of its boxes that are one of these; a box that only matches
    a weaker one of the teacher's counts for neither. NaN where there is no box to find, and where
    none was found."""
    return {
        "person_recall": found.right / found.wanted if found.wanted else math.nan,
        "person_precision": found.right / found.said if found.said else math.nan,
    }


def match(said: np.ndarray, boxes: np.ndarray, scores: np.ndarray, sure: float) -> Found:
    """Greedy one-to-one matching at IoU 0.5, best answer first.

    said [n, 4], boxes [K, 4], scores [K], 0 for no person.
    """
    free = scores > 0
    right = counted = 0
    for box in said:
        iou = np.where(free, overlap(box, boxes)[0], 0.0)
        # a sure box is preferred to a weak one that overlaps more
        best = int(np.argmax(np.where(iou >= 0.5, iou + (scores >= sure), 0.0)))
        if iou[best] < 0.5:
            counted += 1
            continue
        free[best] = False
        if scores[best] >= sure:
            right, counted = right + 1, counted + 1
    return Found(right, counted, int((scores >= sure).sum()))
