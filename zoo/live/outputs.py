"""What a live model answers, per frame of every stream."""

from __future__ import annotations

import flax.struct
import jax

from ...layers.exportable import exportable
from ...layers.streaming import Tapped
from ..outputs import Output

Array = jax.Array


@exportable
@flax.struct.dataclass
class LiveOutput(Output):
    """B streams, T frames, K boxes, C classes, E channels of a fused feature.

    The first eight fields are those of ``action.ActionOutput``, so that whatever draws or sends the
    answers of an action model does so for a live one. At frames that never came all is zero.
    """

    logits: Array | None = None  # [B, T, C] classes of the whole frame, multi-label (sigmoid)
    boxes: Array | None = None  # [B, T, K, 4] x1, y1, x2, y2 as fractions of width and height
    box_valid: Array | None = None  # [B, T, K] bool: this slot holds a person
    box_scores: Array | None = None  # [B, T, K] probability of a person; given boxes score 1
    box_logits: Array | None = None  # [B, T, K, C] classes of each person
    person: dict[str, Array] | None = None  # raw maps of the person head, for training
    known: Array | None = None  # [B, T, C] bool: this class of the frame may be said
    box_known: Array | None = None  # [B, T, K, C] bool: and this one of a person
    event: Array | None = None  # [B, T] probability that something of interest happens now
    anomaly: Array | None = None  # [B, T] probability that something is wrong
    event_logits: Array | None = None  # [B, T]
    anomaly_logits: Array | None = None  # [B, T]
    features: Array | None = None  # [B, T, E] the frame's fused feature
    next_features: Array | None = None  # [B, T, E] what the next frame's is expected to be
    taps: Tapped | None = None  # intermediates asked for by name
