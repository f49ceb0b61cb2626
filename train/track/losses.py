"""The losses of tracking, as SAM 2's (Ravi et al., arXiv 2408.00714, appendix D): masks, the
quality that the tracker gives them, and whether the object is there.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ..losses import masked_mean

Array = jax.Array
TERMS = ("pixels", "dice", "quality", "presence")


def pixel_loss(logits: Array, target: Array) -> Array:
    """Cross-entropy, mean over the last two axes: [..., h, w], target in [0, 1] -> [...]."""
    return (jax.nn.softplus(logits) - target * logits).mean((-2, -1))


def dice_loss(logits: Array, target: Array) -> Array:
    """1 - Dice with one pixel of smoothing: [..., h, w] -> [...]."""
    p = jax.nn.sigmoid(logits)
    both = (p * target).sum((-2, -1))
    return 1 - (2 * both + 1) / (p.sum((-2, -1)) + target.sum((-2, -1)) + 1)


def compare(out: Any, masks: Array, asked: Array) -> dict[str, Array]:
    """The terms of the loss, and the IoU, of ``Tracks`` with one object.

    masks: [B, T, H, W] bool, the truth; asked: [B, T] bool, the tracker had to find the mask.
    Mask and quality count where the object is in the picture.
    """
    logits = out.masks[:, :, 0].astype(jnp.float32)
    (batch, steps, height, width), (h, w) = masks.shape, logits.shape[-2:]
    cells = masks.reshape(batch, steps, h, height // h, w, width // w)
    target = cells.mean((3, 5), dtype=jnp.float32)  # the covered part of each cell
    there = masks.any((-2, -1))
    counts = asked & there
    said, true = logits > 0, target > 0.5
    union = (said | true).sum((-2, -1))
    iou = (said & true).sum((-2, -1)) / jnp.maximum(union, 1)
    score = out.scores[:, :, 0]
    return {
        "pixels": masked_mean(pixel_loss(logits, target), counts),
        "dice": masked_mean(dice_loss(logits, target), counts),
        "quality": masked_mean(jnp.abs(out.iou[:, :, 0] - iou), counts),
        "presence": masked_mean(jax.nn.softplus(score) - there * score, asked),
        "iou": masked_mean(iou, counts),
    }
