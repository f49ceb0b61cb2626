"""Boxes of detectors with static shapes: overlap, suppression of duplicates, letterboxing."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ...layers.gaps import zero_invalid
from ..preprocess import fitted

Array = jax.Array


def overlap(a: Array, b: Array) -> Array:
    """Intersection over union of boxes x1, y1, x2, y2 [..., 4], broadcast over leading axes."""
    rank = max(jnp.ndim(a), jnp.ndim(b))
    a, b = (jax.lax.broadcast_to_rank(jnp.asarray(x), rank) for x in (a, b))
    low, high = jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])
    inter = jnp.prod(jnp.maximum(high - low, 0.0), axis=-1)
    area_a = jnp.prod(jnp.maximum(a[..., 2:] - a[..., :2], 0.0), axis=-1)
    area_b = jnp.prod(jnp.maximum(b[..., 2:] - b[..., :2], 0.0), axis=-1)
    return inter / jnp.maximum(area_a + area_b - inter, 1e-9)


class Kept(NamedTuple):
    """The candidates of one frame that survive, best first."""

    picks: Array  # [N] int32 into the candidates, 0 in an empty slot
    valid: Array  # [N] bool


def suppress(
    boxes: Array, scores: Array, labels: Array, *, slots: int, threshold: float, iou: float
) -> Kept:
    """Greedy non-maximum suppression within each class, of all candidates of one frame.

    Takes the best candidate left, drops those of its class that overlap it by more than ``iou``,
    and goes on until ``slots`` are full or nothing above ``threshold`` is left. Of equal scores
    the first candidate wins. Nothing is cut off before: the answer is that of the plain algorithm
    on every candidate.

    Args:
      boxes: [M, 4] x1, y1, x2, y2 in pixels or fractions.
      scores: [M].
      labels: [M] int.
      slots: boxes that are given at most.
      threshold: a score must be above it.
      iou: intersection over union.
    """
    # The choice has no gradient: what is chosen is gathered by index outside.
    boxes, scores = jax.lax.stop_gradient((jnp.asarray(boxes), jnp.asarray(scores)))

    def going(state):
        count, left, _ = state
        return (count < slots) & (left.max() > threshold)

    def pick(state):
        count, left, chosen = state
        best = jnp.argmax(left).astype(jnp.int32)
        again = (overlap(boxes, boxes[best]) > iou) & (labels == labels[best])
        left = jnp.where(again, -jnp.inf, left).at[best].set(-jnp.inf)
        return count + 1, left, chosen.at[count].set(best)

    start = jnp.int32(0), scores.astype(jnp.float32), jnp.zeros(slots, jnp.int32)
    count, _, chosen = jax.lax.while_loop(going, pick, start)
    return Kept(chosen, jnp.arange(slots) < count)


def best(
    boxes: Array, scores: Array, labels: Array, *, slots: int, threshold: float, iou: float
) -> tuple[Array, Array, Array, Array]:
    """(boxes [M, N, 4], scores, labels, valid [M, N]) of M frames: what :func:`suppress` keeps of
    the candidates boxes [M, A, 4], scores and labels [M, A], zeros in empty slots."""

    def choose(boxes: Array, scores: Array, labels: Array) -> tuple[Array, Array, Array, Array]:
        kept = suppress(boxes, scores, labels, slots=slots, threshold=threshold, iou=iou)
        pick = lambda a: zero_invalid(a[kept.picks][None], kept.valid[None])[0]
        return pick(boxes), pick(scores), pick(labels), kept.valid

    return jax.vmap(choose)(boxes, scores, labels)


def letterbox(frames: Array, side: tuple[int, int], fill: float) -> Array:
    """Frames [M, H, W, 3] -> [M, *side, 3]: scaled with the aspect ratio kept (bilinear, pixel
    centres at halves, as OpenCV's INTER_LINEAR), at the top left, the rest ``fill``.

    Frames of the fitted size are not resampled.
    """
    size = frames.shape[1], frames.shape[2]
    rows, cols = fitted(size, side)
    if (rows, cols) != size:
        shape = (frames.shape[0], rows, cols, frames.shape[3])
        frames = jax.image.resize(frames, shape, "bilinear", antialias=False)
    pads = ((0, 0), (0, side[0] - rows), (0, side[1] - cols), (0, 0))
    return jnp.pad(frames, pads, constant_values=fill)
