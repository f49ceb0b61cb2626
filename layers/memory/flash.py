"""Flash memory: clusters of small frames in the order of time, and whole frames of the heaviest.

Source: Zhang et al., "Flash-VStream: Efficient Real-Time Understanding for Long Video Streams"
(arXiv 2506.23825), section 3, and its code, IVGSZ/Flash-VStream (Flash-VStream-Qwen): context
synopsis memory (CSM), detail augmentation memory (DAM) and their positions (AM-RoPE).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..exportable import exportable
from ..gaps import hold, zero_invalid
from ..policies.pooling import pool_square
from ..streaming import Array
from .kmeans import apart, newest, weighted_kmeans


class Synopsis(NamedTuple):
    """K clusters in the order of time.

    centroids [K, F], weights [K], times [K] float: the mean number of their frames.
    """

    centroids: Array
    weights: Array
    times: Array


def synopsis(
    x: Array,
    start: Array,
    weights: Array | None = None,
    weighted_time: bool = True,
    times: Array | None = None,
) -> Synopsis:
    """CSM: clusters of frames.

    Args:
      x: [N, F] small frames in their order.
      start: [K] int32, frames that k-means begins with.
      weights: [N]; None for ones.
      weighted_time: a cluster's time is weighted as its centroid is; False is the authors' code.
      times: [N], of the frames; None: their numbers.
    """
    weights = jnp.ones(x.shape[0], x.dtype) if weights is None else weights
    found = weighted_kmeans(x, weights, start)
    own = (found.labels[:, None] == jnp.arange(start.shape[0])[None]) & (weights > 0)[:, None]
    own = own.astype(x.dtype)
    share = own * weights[:, None] if weighted_time else own
    number = jnp.arange(x.shape[0], dtype=x.dtype) if times is None else times
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


@exportable
class Flash(NamedTuple):
    """K clusters of P cells, N whole frames of S cells, D channels.

    centroids [B, K, P, D] in the order of time, weights [B, K] (0: none), times [B, K]; bank
    [B, N, S, D], the frames that are kept whole, and when each came, bank_times [B, N] int32 (-1:
    none); frames [B] int32, how many came.
    """

    centroids: Array
    weights: Array
    times: Array
    bank: Array
    bank_times: Array
    frames: Array


@dataclass(frozen=True)
class FlashMemory:
    """The two memories as a stream: (carry, frames [B, T, S, D] of a square grid) -> (carry, tokens
    [B, T, R * S + K * P, D]).

    The authors cluster a whole film at once. Here a frame joins the clusters that there are, which
    carry their weights; of the whole frames those stay that are nearest to the heaviest clusters,
    and then the latest ones.

    Attributes:
      long, side: clusters K, and cells a side of each (P = side * side).
      details: whole frames R that are read.
      bank: whole frames N that are kept, more than R.

    Raises:
      ValueError: no room in the bank beside the frames that are read.
    """

    long: int = 60
    side: int = 4
    details: int = 30
    bank: int = 40

    def __post_init__(self) -> None:
        if min(self.long, self.side, self.details) < 1 or self.bank <= self.details:
            raise ValueError(f"{self}: at least one cluster, cell and frame, and a larger bank")
        if self.details > self.long:
            raise ValueError(
                f"{self.details} whole frames of {self.long} clusters: at most one each"
            )

    def init_carry(self, batch: int, tokens: int, dim: int) -> Flash:
        """Nothing seen; frames of ``tokens`` tokens [dim]."""
        cells = self.side**2
        zeros = lambda *shape: jnp.zeros((batch, *shape))
        return Flash(
            zeros(self.long, cells, dim), zeros(self.long), zeros(self.long),
            zeros(self.bank, tokens, dim), jnp.full((batch, self.bank), -1, jnp.int32),
            jnp.zeros(batch, jnp.int32),
        )  # fmt: skip

    def __call__(self, carry: Flash, x: Array, valid: Array | None = None) -> tuple[Flash, Array]:
        there = jnp.ones(x.shape[:2], bool) if valid is None else valid

        def step(carry: Flash, now: tuple[Array, Array]):
            x, here = now
            carry = hold(self.add(carry, x), carry, here)
            return carry, self.tokens(carry)

        over = (zero_invalid(x, valid).swapaxes(0, 1), there.swapaxes(0, 1))
        carry, told = jax.lax.scan(step, carry, over)
        return carry, zero_invalid(told.swapaxes(0, 1), valid)

    def add(self, carry: Flash, x: Array) -> Flash:
        """One frame [B, S, D] of every stream."""
        rows = jnp.concatenate([carry.centroids, pool_square(x, self.side)[:, None]], axis=1)
        weight = jnp.concatenate([carry.weights, jnp.ones_like(carry.weights[:, :1])], axis=1)
        now = carry.frames.astype(x.dtype)[:, None]
        times = jnp.concatenate([carry.times, now], axis=1)
        order = jnp.argsort(weight <= 0, axis=1, stable=True)  # those that there are first
        take = lambda a: jnp.take_along_axis(
            a, order.reshape(*order.shape, *(1,) * (a.ndim - 2)), 1
        )
        rows, weight, times = take(rows), take(weight), take(times)
        flat = rows.reshape(*rows.shape[:2], -1)
        start = apart(flat, weight > 0, self.long)
        told = jax.vmap(lambda x, s, w, t: synopsis(x, s, w, times=t))(flat, start, weight, times)
        fits = ((weight > 0).sum(axis=1) <= self.long)[:, None]
        pick = lambda few, many: jnp.where(fits.reshape(-1, *(1,) * (few.ndim - 1)), few, many)
        centroids = pick(flat[:, : self.long], told.centroids)
        weights = pick(weight[:, : self.long], told.weights)
        bank, bank_times = self._banked(carry, x, centroids, weights)
        return Flash(
            centroids.reshape(carry.centroids.shape), weights,
            pick(times[:, : self.long], told.times), bank, bank_times, carry.frames + 1,
        )  # fmt: skip

    def tokens(self, carry: Flash) -> Array:
        """What a language model reads: whole frames, heaviest cluster first, then the clusters."""
        near, there = self._claims(carry.bank, carry.bank_times, carry.centroids, carry.weights)
        take = lambda a, at: jnp.take_along_axis(a, at.reshape(*at.shape, *(1,) * (a.ndim - 2)), 1)
        whole = jnp.where(there[..., None, None], take(carry.bank, near), 0.0)
        flat = lambda a: a.reshape(a.shape[0], -1, a.shape[-1])
        return jnp.concatenate([flat(whole), flat(carry.centroids)], axis=1)

    def _claims(self, bank: Array, times: Array, centroids: Array, weights: Array):
        """(frames of the bank nearest to the heaviest clusters [B, R], which there are)."""
        heavy = jnp.argsort(-weights, axis=1, stable=True)[:, : self.details]
        small = pool_square(bank, self.side)
        small = small.reshape(*small.shape[:2], -1)
        centres = centroids.reshape(*centroids.shape[:2], -1)
        asked = jnp.take_along_axis(centres, heavy[..., None], axis=1)
        far = ((asked[:, :, None] - small[:, None]) ** 2).sum(axis=-1)
        near = newest(jnp.where((times >= 0)[:, None], far, jnp.inf), times)
        return near, jnp.take_along_axis(weights, heavy, axis=1) > 0

    def _banked(self, carry: Flash, x: Array, centroids: Array, weights: Array):
        """The frame takes a free slot, or that of the oldest frame that no cluster claims."""
        near, there = self._claims(carry.bank, carry.bank_times, centroids, weights)
        stream = jnp.arange(len(x))[:, None]
        claimed = jnp.zeros(carry.bank_times.shape, bool).at[stream, near].max(there)
        age = jnp.where(
            claimed & (carry.bank_times >= 0), jnp.iinfo(jnp.int32).max, carry.bank_times
        )
        slot = age.argmin(axis=1)
        put = lambda old, new: old.at[stream[:, 0], slot].set(new)
        return put(carry.bank, x), put(carry.bank_times, carry.frames)
