"""What goes into a tracker frame by frame, what it keeps and what comes out.

Axis letters: B streams, T frames, O object slots, P point slots, K pinned memories, R recent
memories, L tokens of a memory, (H, W) the model's input, (4h, 4w) = (H / 4, W / 4).
"""

from __future__ import annotations

import jax
import numpy as np
from flax import struct

from ...layers.exportable import exportable
from ...layers.feature_bank import Bank
from ...layers.streaming import Fields, Tapped
from .prompt import ABSENT

Array = jax.Array

ABSENT_LOGIT = -1024.0  # of masks and scores of an object that is not there


@exportable
@struct.dataclass
class Prompts:
    """Prompts of every frame and object slot, in arrays whose shapes never change.

    points:  [B, T, O, P, 2] (x, y) in pixels of the model's input
    labels:  [B, T, O, P] int32: 1 object, 0 background, 2 and 3 the corners of a box, -10 unused
    pointed: [B, T, O] bool: the points of this slot count
    masks:   [B, T, O, H, W] bool, or None where no frame has a mask prompt
    masked:  [B, T, O] bool: the mask of this slot counts (and the points do not)
    remove:  [B, T, O] bool: forget the object of this slot, before any prompt of this frame
    """

    points: Array
    labels: Array
    pointed: Array
    masks: Array | None
    masked: Array
    remove: Array


def no_prompts(
    batch: int, frames: int, objects: int, points: int, mask_size: tuple[int, int] | None = None
) -> Prompts:
    """Prompts that say nothing; ``mask_size`` (H, W) makes room for masks. Leaves are numpy."""
    lead = (batch, frames, objects)
    fields: Fields = dict(
        points=np.zeros((*lead, points, 2), np.float32),
        labels=np.full((*lead, points), ABSENT, np.int32),
        pointed=np.zeros(lead, bool),
        masks=None if mask_size is None else np.zeros((*lead, *mask_size), bool),
        masked=np.zeros(lead, bool),
        remove=np.zeros(lead, bool),
    )
    return Prompts(**fields)


@exportable
@struct.dataclass
class TrackCarry:
    """State of every stream; its size depends on the config alone.

    frame:    [B] int32, number of the next frame
    active:   [B, O] bool: the slot tracks an object
    prompted: frames that were prompted: ``memory`` [B, O, K, L, 64], ``pointer`` [B, O, K, D]
    recent:   frames that were tracked: ``memory`` [B, O, R, L, 64]
    pointers: ``pointer`` [B, O, max_pointers - 1, D] of frames that were tracked
    """

    frame: Array
    active: Array
    prompted: Bank
    recent: Bank
    pointers: Bank


@exportable
@struct.dataclass
class Tracks:
    """Masks of every object slot.

    masks:    [B, T, O, 4h, 4w] logits, positive inside; ABSENT_LOGIT where there is no object
    scores:   [B, T, O] logit that the object is in the frame; ABSENT_LOGIT for a free slot
    iou:      [B, T, O] the model's own estimate of the mask's quality, 0 for a free slot
    active:   [B, T, O] bool
    taps:     the intermediates that were asked for, or None
    """

    masks: Array
    scores: Array
    iou: Array
    active: Array
    taps: Tapped | None = None
