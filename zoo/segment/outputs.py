"""What the image models of this room answer."""

from __future__ import annotations

import flax.struct
import jax

from ...layers.exportable import exportable
from ...layers.streaming import Tapped
from ..outputs import Output

Array = jax.Array


@exportable
@flax.struct.dataclass
class ImageFeatures(Output):
    """A frame, encoded once for any number of prompts. B images, h x w cells of D channels."""

    embedding: Array  # [B, h, w, D]
    skips: tuple[Array, Array] | None = None  # [B, 4h, 4w, D / 8], [B, 2h, 2w, D / 4]
    taps: Tapped | None = None  # intermediates asked for by name


@exportable
@flax.struct.dataclass
class SegmentOutput(Output):
    """Masks of P prompts per image, M of each (three, or one)."""

    masks: Array  # [B, P, M, 4h, 4w] logits, positive inside, a quarter of the frame's size
    iou: Array  # [B, P, M] predicted quality
    object_logits: Array | None = None  # [B, P, 1], positive if the object is in the frame
    taps: Tapped | None = None  # intermediates asked for by name


def resize_logits(masks: Array, size: tuple[int, int]) -> Array:
    """Mask logits [..., h, w] at another size (height, width), bilinear."""
    return jax.image.resize(masks, (*masks.shape[:-2], *size), "bilinear", antialias=False)
