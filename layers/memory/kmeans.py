"""Weighted k-means of rows, at fixed shapes.

Source: Zhang et al., "Flash-VStream: Memory-Based Real-Time Understanding for Long Video Streams"
(arXiv 2406.08085) and its code, IVGSZ/Flash-VStream, compress_functions.py.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..streaming import Array


class Clusters(NamedTuple):
    """centroids [K, F]; weights [K]: of their rows; labels [N] int32: the cluster of each row.

    Weights and labels are of the last assignment, which the centroids may be one step ahead of.
    """

    centroids: Array
    weights: Array
    labels: Array


def weighted_kmeans(
    x: Array,
    weights: Array,
    start: Array,
    spare: Array | None = None,
    steps: int = 10,
    tolerance: float = 1e-4,
) -> Clusters:
    """Clusters rows by their distance.

    Args:
      x: [N, F].
      weights: [N], 0 for a row that is not there.
      start: [K] int32, the rows that are the first centroids.
      spare: [S] int32, rows that clusters without any take, in order (the authors draw them at
        random); None: the rows that are farthest from their centroid.
      steps: at most.
      tolerance: it ends once all centroids together would move less, and they do not.
    """
    x, weights = jnp.asarray(x), jnp.asarray(weights)
    count = start.shape[0]

    def distances(centroids: Array) -> Array:
        return ((x[:, None] - centroids[None]) ** 2).sum(axis=2)

    def step(state, _):
        centroids, _, _, done, used = state
        new = improved(centroids, used)
        # once it ended, nothing changes; a loop of fixed length has a gradient
        kept = jax.tree.map(lambda old, new: jnp.where(done, old, new), state, new)
        return kept, None

    def improved(centroids: Array, used: Array):
        far = distances(centroids)
        labels = far.argmin(axis=1).astype(jnp.int32)
        own = (labels[:, None] == jnp.arange(count)[None]).astype(x.dtype) * weights[:, None]
        total = own.sum(axis=0)
        empty = total <= 0
        rank = jnp.cumsum(empty, dtype=jnp.int32) - 1
        if spare is None:
            reach = jnp.where(weights > 0, far.min(axis=1), -1.0)
            rows = jnp.argsort(-reach, stable=True)[jnp.clip(rank, 0, x.shape[0] - 1)]
        else:
            rows = spare[jnp.clip(used + rank, 0, max(spare.shape[0] - 1, 0))]
        mean = (own.T @ x) / jnp.where(empty, 1.0, total)[:, None]
        new = jnp.where(empty[:, None], x[rows], mean)
        moved = jnp.linalg.norm(new - centroids, axis=1).sum()
        done = moved < tolerance
        used = used + empty.sum(dtype=jnp.int32)
        return jnp.where(done, centroids, new), total, labels, done, used

    first = (
        x[start],
        jnp.zeros(count, x.dtype),
        jnp.zeros(x.shape[0], jnp.int32),
        jnp.bool_(False),
        jnp.int32(0),
    )
    (centroids, total, labels, *_), _ = jax.lax.scan(step, first, length=steps)
    return Clusters(centroids, total, labels)


def apart(rows: Array, there: Array, count: int) -> Array:
    """The ``count`` rows that are farthest from any row before them: rows [B, N, F], there [B, N]
    bool -> [B, count] int32, in order."""
    far = ((rows[:, :, None] - rows[:, None]) ** 2).sum(axis=-1)
    place = jnp.arange(rows.shape[1])
    before = (place[:, None] > place[None])[None] & there[:, None]
    nearest = jnp.where(before, far, jnp.inf).min(axis=2)
    nearest = jnp.where(there, nearest, -1.0)
    return jnp.sort(jnp.argsort(-nearest, axis=1, stable=True)[:, :count], axis=1).astype(jnp.int32)


def newest(far: Array, times: Array) -> Array:
    """Of the nearest frames the latest: far [B, R, N], times [B, N] -> [B, R] int32.

    The middle of two frames is as far from one as from the other, so a plain minimum would be
    rounding's choice, and another one in another program.
    """
    least = far.min(axis=-1, keepdims=True)
    alike = far <= least * (1 + 1e-3)
    return jnp.where(alike, times[:, None], -2).argmax(axis=-1).astype(jnp.int32)


def merge_neighbours(x: Array, count: int) -> Array:
    """Frames come one by one; once there are more than ``count``, the two neighbours that are most
    alike become their mean. x [N, F] -> [count, F]."""
    return _merge(x, count, neighbours=True)


def merge_pairs(x: Array, count: int) -> Array:
    """As :func:`merge_neighbours`, of any two. x [N, F] -> [count, F]."""
    return _merge(x, count, neighbours=False)


def _merge(x: Array, count: int, neighbours: bool) -> Array:
    if x.shape[0] <= count:
        return x
    place = jnp.arange(count + 1)
    apart = place[None] - place[:, None]
    allowed = (apart == 1) if neighbours else (apart > 0)

    def add(rows: Array, new: Array):
        rows = jnp.concatenate([rows, new[None]])
        unit = rows / jnp.maximum(jnp.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        like = jnp.where(allowed, unit @ unit.T, -jnp.inf)
        left, right = jnp.unravel_index(like.argmax(), like.shape)
        rows = rows.at[right].set((rows[left] + rows[right]) / 2)
        order = jnp.where(jnp.arange(count) < left, jnp.arange(count), jnp.arange(count) + 1)
        return rows[order], None

    rows, _ = jax.lax.scan(add, jnp.asarray(x[:count]), jnp.asarray(x[count:]))
    return rows
