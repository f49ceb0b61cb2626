"""Heads on a frame's feature map: whole-frame classes, classes per box, and finding persons."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ...layers.exportable import exportable
from ...layers.roi_align import roi_align
from ...layers.streaming import DType
from ...layers.transformer import layer_norm

Array = jax.Array


class FrameHead(nn.Module):
    """Mean over tokens, norm, linear. features [..., N, D] -> logits [..., C]."""

    classes: int
    dtype: DType = jnp.float32

    def setup(self):
        self.norm = layer_norm(1e-6, self.dtype)
        self.fc = nn.Dense(self.classes, dtype=self.dtype)

    def __call__(self, features: Array) -> Array:
        return self.fc(self.norm(features.mean(axis=-2))).astype(jnp.float32)


class RoIHead(nn.Module):
    """RoIAlign, mean over the cells, norm, linear: multi-label action logits per box.

    features [M, h, w, D], boxes [M, K, 4] in [0, 1], mask [M, K]
    -> (logits [M, K, C], the pooled vectors [M, K, D]).
    """

    classes: int
    size: int = 7
    dtype: DType = jnp.float32

    def setup(self):
        self.norm = layer_norm(1e-6, self.dtype)
        self.fc = nn.Dense(self.classes, dtype=self.dtype)

    def __call__(self, features: Array, boxes: Array, mask: Array) -> tuple[Array, Array]:
        # The mean over size x size cells of 2 x 2 samples is one cell of 2 size x 2 size samples.
        pooled = roi_align(features, boxes, size=1, sampling_ratio=2 * self.size, mask=mask)
        pooled = pooled[:, :, 0, 0]
        logits = self.fc(self.norm(pooled)).astype(jnp.float32)
        return jnp.where(mask[..., None], logits, 0.0), pooled


@exportable
class Persons(NamedTuple):
    """The person head's raw maps (what training compares) and the boxes read off them."""

    objectness: Array  # [M, h, w] logits
    edges: Array  # [M, h, w, 4] distances to left, top, right, bottom, fractions of the frame
    boxes: Array  # [M, K, 4]
    scores: Array  # [M, K] probabilities, best first
    valid: Array  # [M, K] bool


class PersonHead(nn.Module):
    """A small anchor-free detector on the same features: no external detector is needed.

    Each cell says whether a person's centre lies in it and how far that person's edges are
    (FCOS, arXiv 1904.01355); local maxima are the candidates (CenterNet, arXiv 1904.07850),
    and a greedy pass removes overlaps above ``iou``.
    """

    boxes: int = 16
    hidden: int = 128
    threshold: float = 0.3
    cells: int = 1  # per token and axis
    iou: float = 0.6
    dtype: DType = jnp.float32

    def setup(self):
        self.hid = nn.Dense(self.hidden, dtype=self.dtype)
        # Rare positives: start from a probability of 1 % (RetinaNet, arXiv 1708.02002).
        parts = self.cells**2
        rare = nn.initializers.constant(-4.6)
        self.objectness = nn.Dense(parts, bias_init=rare, dtype=self.dtype)
        self.edges = nn.Dense(4 * parts, dtype=self.dtype)

    def __call__(self, features: Array) -> Persons:
        """features [M, h, w, D] -> :class:`Persons`."""
        h = nn.gelu(self.hid(features))
        objectness = self._spread(self.objectness(h).astype(jnp.float32))[..., 0]
        edges = jax.nn.softplus(self._spread(self.edges(h).astype(jnp.float32)) - 2.0)
        k = min(self.boxes, objectness.shape[1] * objectness.shape[2])
        boxes, scores = peaks(objectness, edges, k)
        valid = (scores > self.threshold) & suppress(boxes, self.iou)
        if k < self.boxes:
            pad = self.boxes - k
            boxes = jnp.pad(boxes, ((0, 0), (0, pad), (0, 0)))
            scores, valid = (jnp.pad(a, ((0, 0), (0, pad))) for a in (scores, valid))
        return Persons(objectness, edges, boxes, scores, valid)

    def _spread(self, x: Array) -> Array:
        """[M, h, w, cells * cells * C] -> [M, h * cells, w * cells, C]."""
        m, h, w, _ = x.shape
        n = self.cells
        x = x.reshape(m, h, w, n, n, -1).swapaxes(2, 3)
        return x.reshape(m, h * n, w * n, -1)


def peaks(objectness: Array, edges: Array, k: int) -> tuple[Array, Array]:
    """The k best local maxima: boxes [M, k, 4] clipped to the frame, scores [M, k] best first."""
    m, h, w = objectness.shape
    around = jax.lax.reduce_window(objectness, -jnp.inf, jax.lax.max, (1, 3, 3), (1, 1, 1), "SAME")
    score = jnp.where(objectness >= around, jax.nn.sigmoid(objectness), 0.0)
    best, cell = jax.lax.top_k(score.reshape(m, h * w), k)
    edge = jnp.take_along_axis(edges.reshape(m, h * w, 4), cell[..., None], axis=1)
    x, y = ((at.astype(jnp.float32) + 0.5) / n for at, n in ((cell % w, w), (cell // w, h)))
    corners = [x - edge[..., 0], y - edge[..., 1], x + edge[..., 2], y + edge[..., 3]]
    return jnp.clip(jnp.stack(corners, axis=-1), 0.0, 1.0), best


def box_iou(a: Array, b: Array) -> Array:
    """Intersection over union of boxes [..., A, 4] and [..., B, 4] -> [..., A, B]."""
    low = jnp.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = jnp.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    inter = jnp.prod(jnp.maximum(high - low, 0.0), axis=-1)
    area = lambda z: jnp.prod(jnp.maximum(z[..., 2:] - z[..., :2], 0.0), axis=-1)
    return inter / jnp.maximum(area(a)[..., :, None] + area(b)[..., None, :] - inter, 1e-9)


def suppress(boxes: Array, iou: float) -> Array:
    """Greedy non-maximum suppression of boxes [M, K, 4], best first -> keep [M, K]."""
    overlap = box_iou(boxes, boxes) > iou
    rank = jnp.arange(boxes.shape[1])[None]

    def visit(i, keep):
        beaten = overlap[:, i] & (rank > i) & keep[:, i, None]
        return keep & ~beaten

    return jax.lax.fori_loop(0, boxes.shape[1], visit, jnp.ones(boxes.shape[:2], bool))
