"""What every action model answers, teacher or student."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import flax.struct
import jax

Array = jax.Array


@flax.struct.dataclass
class ActionOutput:
    """One answer per frame (students) or per clip (the offline teacher: no T axis).

    Fields are None where the model has no such head. B streams, T frames, K boxes, C classes.
    """

    logits: Array | None = None  # [B, T, C] classes of the whole frame
    boxes: Array | None = None  # [B, T, K, 4] x1, y1, x2, y2 as fractions of width and height
    box_valid: Array | None = None  # [B, T, K] bool: this slot holds a person
    box_scores: Array | None = None  # [B, T, K] probability of a person; given boxes score 1
    box_logits: Array | None = None  # [B, T, K, C] classes of each person, multi-label (sigmoid)
    person: dict[str, Array] | None = None  # raw maps of the person head, for training
    taps: dict[str, Any] | None = None  # intermediates asked for by name

    def replace(self, **changes: Any) -> Self:
        """A copy with other fields."""
        return dataclasses.replace(self, **changes)
