"""Flash memory: clusters of small frames in the order of time, and whole frames of the heaviest.

Source: Zhang et al., "Flash-VStream: Efficient Real-Time Understanding for Long Video Streams"
(arXiv 2506.23825), section 3, and its code, IVGSZ/Flash-VStream (Flash-VStream-Qwen): context
synopsis memory (CSM), detail augmentation memory (DAM) and their positions (AM-RoPE).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from ..streaming import Array
from .kmeans import weighted_kmeans


class Synopsis(NamedTuple):
    """K clusters in the order of time.

    centroids [K, F], weights [K], times [K] float: the mean number of their frames.
    """

    centroids: Array
    weights: Array
    times: Array


def synopsis(
    x: Array, start: Array, weights: Array | None = None, weighted_time: bool = True
) -> Synopsis:
    """CSM: clusters of frames.

    Args:
      x: [N, F] small frames in their order.
      start: [K] int32, frames that k-means begins with.
      weights: [N]; None for ones.
      weighted_time: a cluster's time is weighted as its centroid is; False is the authors' code.
    """
    weights = jnp.ones(x.shape[0], x.dtype) if weights is None else weights
    found = weighted_kmeans(x, weights, start)
    own = (found.labels[:, None] == jnp.arange(start.shape[0])[None]) & (weights > 0)[:, None]
    share = own * weights[:, None] if weighted_time else own.astype(x.dtype)
    number = jnp.arange(x.shape[0], dtype=x.dtype)
    total = share.sum(axis=0)
    times = (share * number[:, None]).sum(axis=0) / jnp.where(total > 0, total, 1.0)
    order = jnp.argsort(times, stable=True)
    return Synopsis(found.centroids[order], found.weights[order], times[order])


def details(told: Synopsis, x: Array, count: int) -> Array:
    """DAM: the frames nearest to the ``count`` heaviest clusters, heaviest first: [count] int32."""
    heavy = jnp.argsort(-told.weights, stable=True)[:count]
    far = ((told.centroids[heavy][:, None] - x[None]) ** 2).sum(axis=-1)
    return far.argmin(axis=1).astype(jnp.int32)


def flash_places(
    start: int,
    frames: Array,
    grid: tuple[int, int],
    times: Array,
    small: tuple[int, int],
    shift: bool = False,
) -> Array:
    """AM-RoPE: (time, height, width) of the whole frames and then of the clusters.

    Args:
      start: position of the first.
      frames: [R] int32, numbers of the whole frames.
      grid, small: rows and columns of tokens of a whole frame, and of a cluster.
      times: [K] float, of the clusters.
      shift: clusters stand behind the whole frames, on all three axes by their number of tokens, as
        in the authors' code; else all share one time and one picture.

    Returns:
      [R * h * w + K * h' * w', 3] int32.
    """

    def cells(number: Array, size: tuple[int, int]) -> Array:
        height, width = size
        shape = (number.shape[0], height, width)
        axes = (
            number[:, None, None],
            jnp.arange(height, dtype=jnp.int32)[None, :, None],
            jnp.arange(width, dtype=jnp.int32)[None, None],
        )
        return jnp.stack([jnp.broadcast_to(a, shape) for a in axes], axis=-1).reshape(-1, 3)

    whole = cells(frames.astype(jnp.int32), grid)
    coarse = cells(jnp.round(times).astype(jnp.int32), small)
    if shift:
        coarse = coarse + whole.shape[0]
    return start + jnp.concatenate([whole, coarse])
