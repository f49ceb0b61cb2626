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


@exportable
@flax.struct.dataclass
class Instances(Output):
    """Instances of concepts, best first. B streams, T frames, N slots, P concepts.

    Empty slots, and all of a frame that never came, are zeros.
    """

    boxes: Array  # [B, T, N, 4] x1, y1, x2, y2 as fractions of the frame's width and height
    scores: Array  # [B, T, N] probability
    labels: Array  # [B, T, N] int32, which of the concepts
    valid: Array  # [B, T, N] bool: this slot holds an instance
    masks: Array  # [B, T, N, h, w] logits, positive inside
    areas: Array  # [B, T, P, h, w] logits of all instances of a concept together
    presence: Array  # [B, T, P] probability that the concept is in the frame
    taps: Tapped | None = None  # intermediates asked for by name

    def masks_at(self, size: tuple[int, int], threshold: float = 0.5) -> Array:
        """[B, T, N, height, width] bool, the masks at the size of a picture: where the
        probability, resized, is above ``threshold``; nothing in empty slots."""
        sure = resize_logits(jax.nn.sigmoid(self.masks), size)
        return (sure > threshold) & self.valid[..., None, None]


def resize_logits(masks: Array, size: tuple[int, int]) -> Array:
    """Mask logits [..., h, w] at another size (height, width), bilinear."""
    return jax.image.resize(masks, (*masks.shape[:-2], *size), "bilinear", antialias=False)
