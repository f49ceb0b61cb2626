"""What every action model answers, teacher or student."""

from __future__ import annotations

import flax.struct
import jax

from ...layers.exportable import exportable
from ...layers.streaming import Tapped
from ..outputs import Output

Array = jax.Array


@exportable
@flax.struct.dataclass
class ActionOutput(Output):
    """One answer per frame (students) or per clip (the offline teacher: no T axis).

    Fields are None where the model has no such head. B streams, T frames, K boxes, C classes.
    """

    logits: Array | None = None  # [B, T, C] classes of the whole frame
    boxes: Array | None = None  # [B, T, K, 4] x1, y1, x2, y2 as fractions of width and height
    box_valid: Array | None = None  # [B, T, K] bool: this slot holds a person
    box_scores: Array | None = None  # [B, T, K] probability of a person; given boxes score 1
    box_logits: Array | None = None  # [B, T, K, C] classes of each person, multi-label (sigmoid)
    person: dict[str, Array] | None = None  # raw maps of the person head, for training
    # Of a model that decides what it knows (``action.decision``); its logits are calibrated.
    known: Array | None = None  # [B, T, C] bool: this class of the frame may be said
    box_known: Array | None = None  # [B, T, K, C] bool: and this one of a person
    taps: Tapped | None = None  # intermediates asked for by name
