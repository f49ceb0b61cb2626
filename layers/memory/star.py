"""STAR: a film in clusters of frames, in an abstract that is rewritten, and in a few key frames.

Source: Zhang et al., "Flash-VStream: Memory-Based Real-Time Understanding for Long Video Streams"
(arXiv 2406.08085), section 3.2, and its code, IVGSZ/Flash-VStream. What the paper says and the
streaming code does not do is what this does: weights of clusters are carried on, and key frames are
looked for among frames that are kept. ``counts=False`` and ``bank_first=True`` are the code.
"""

from __future__ import annotations

from dataclasses import replace

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from ..exportable import exportable
from ..gaps import hold, zero_invalid
from ..policies.pooling import pool_square
from ..streaming import Array, DType
from .kmeans import apart, newest, weighted_kmeans


@exportable
@flax.struct.dataclass
class Star:
    """K clusters of P cells, A abstract rows, R key frames, N frames of a bank; D channels.

    Attributes:
      centroids: [B, K, P, D]; rows that are not there yet have the weight 0.
      weights: [B, K]: frames in each.
      abstract: [B, A, D].
      keys: [B, R, S, D], whole frames nearest to the heaviest clusters.
      current: [B, S, D], the latest frame.
      bank: [B, N, S, D], whole frames; frame t is in slot t mod N (or the first N).
      pooled: [B, N, P, D] of the bank.
      frames: [B] int32, how many came.
    """

    centroids: Array
    weights: Array
    abstract: Array
    keys: Array
    current: Array
    bank: Array
    pooled: Array
    frames: Array


class StarMemory(nn.Module):
    """(carry, frames [B, T, S, D] of a square grid) -> (carry, tokens [B, T, M, D]).

    Tokens: the abstract, the clusters, the key frames and the frame itself; zeros where a part is
    not there yet.

    Attributes:
      dim: D.
      long, side: clusters K, and cells a side of each (P = side * side).
      abstract: rows A of one token.
      keys: key frames R.
      bank: frames N that are kept whole.
      ratio: how much of the abstract is rewritten by a frame.
      width: of its queries and keys.
      counts: a cluster weighs as many frames as it is of, also in later steps.
      bank_first: the bank is the first N frames, and key frames are found by the number of a row.
      dtype: of the carry.
    """

    dim: int
    long: int = 25
    side: int = 4
    abstract: int = 25
    keys: int = 3
    bank: int = 32
    ratio: float = 0.2
    width: int = 32
    counts: bool = True
    bank_first: bool = False
    dtype: DType = jnp.float32

    latency = 0

    def setup(self):
        self.query, self.key = nn.Dense(self.width), nn.Dense(self.width)

    @nn.nowrap
    def init_carry(self, batch: int, tokens: int = 64) -> Star:
        """Nothing seen; frames of ``tokens`` tokens."""
        zeros = lambda *shape: jnp.zeros((batch, *shape), self.dtype)
        cells = self.side**2
        return Star(
            zeros(self.long, cells, self.dim),
            zeros(self.long),
            zeros(self.abstract, self.dim),
            zeros(self.keys, tokens, self.dim),
            zeros(tokens, self.dim),
            zeros(self.bank, tokens, self.dim),
            zeros(self.bank, cells, self.dim),
            jnp.zeros(batch, jnp.int32),
        )

    def __call__(self, carry: Star, x: Array, valid: Array | None = None) -> tuple[Star, Array]:
        there = jnp.ones(x.shape[:2], bool) if valid is None else valid

        def step(module: StarMemory, carry: Star, now: tuple[Array, Array]):
            x, here = now
            carry = hold(module.chunk(carry, x[:, None]), carry, here)
            return carry, module.tokens(carry)

        scan = nn.scan(
            step, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1
        )
        carry, told = scan(self, carry, (zero_invalid(x, valid), there))
        return carry, zero_invalid(told, valid)

    @nn.nowrap
    def tokens(self, carry: Star) -> Array:
        """What a language model reads: [B, M, D]."""
        flat = lambda a: a.reshape(a.shape[0], -1, self.dim)
        parts = (carry.abstract, carry.centroids, carry.keys, carry.current[:, None])
        return jnp.concatenate([flat(a) for a in parts], axis=1)

    def chunk(self, carry: Star, x: Array, start: Array | None = None) -> Star:
        """Frames that come as one, as the authors' encoder gives them.

        Args:
          x: [B, T, S, D], T at most ``abstract``.
          start: [B, K] int32, rows of [clusters, frames] that k-means begins with; None: those that
            are least like an earlier one, so that a new scene is a new cluster (the authors draw
            them at random).
        """
        pooled = pool_square(x, self.side)
        seen = carry.frames
        bank, small = self._banked(carry, x, pooled)
        rows, weight, count = self._rows(carry, pooled)
        flat = rows.reshape(*rows.shape[:2], -1)
        if start is None:
            start = apart(flat, weight > 0, self.long)
        found = jax.vmap(weighted_kmeans)(flat, weight, start)
        fits = (count <= self.long)[:, None]
        centroids = jnp.where(fits[..., None], flat[:, : self.long], found.centroids)
        weights = jnp.where(fits, weight[:, : self.long], found.weights)
        after = replace(
            carry,
            centroids=centroids.reshape(carry.centroids.shape),
            weights=weights,
            abstract=self._abstracted(carry.abstract, pool_square(x, 1)[:, :, 0], seen),
            current=x[:, -1],
            bank=bank,
            pooled=small,
            frames=seen + x.shape[1],
        )
        return replace(after, keys=self._key_frames(after, flat, weight, seen))

    @nn.nowrap
    def _rows(self, carry: Star, pooled: Array) -> tuple[Array, Array, Array]:
        """Clusters and new frames, those that there are first: (rows, weights, how many)."""
        batch, steps = pooled.shape[:2]
        rows = jnp.concatenate([carry.centroids, pooled], axis=1)
        old = carry.weights if self.counts else (carry.weights > 0).astype(self.dtype)
        weight = jnp.concatenate([old, jnp.ones((batch, steps), self.dtype)], axis=1)
        order = jnp.argsort(weight <= 0, axis=1, stable=True)
        take = lambda a: jnp.take_along_axis(
            a, order.reshape(*order.shape, *(1,) * (a.ndim - 2)), 1
        )
        return take(rows), take(weight), (weight > 0).sum(axis=1, dtype=jnp.int32)

    def _abstracted(self, memory: Array, rows: Array, seen: Array) -> Array:
        """Rows [B, T, D] fill the abstract; what finds no room rewrites it, all in one update."""
        steps = rows.shape[1]
        place = seen[:, None] + jnp.arange(steps)[None]
        fills = place < self.abstract
        put = lambda m, at, new: m.at[at].set(new, mode="drop")
        memory = jax.vmap(put)(memory, jnp.where(fills, place, self.abstract), rows)
        scores = jnp.einsum("baw,btw->bat", self.query(memory), self.key(rows)) * self.width**-0.5
        late = ~fills[:, None]
        weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True)) * late.astype(scores.dtype)
        total = weights.sum(axis=-1, keepdims=True)
        weights = self.ratio * weights / jnp.where(total > 0, total, 1.0)
        kept = 1 - weights.sum(axis=-1, keepdims=True)
        return memory * kept + jnp.einsum("bat,btd->bad", weights, rows)

    @nn.nowrap
    def _banked(self, carry: Star, x: Array, pooled: Array) -> tuple[Array, Array]:
        place = carry.frames[:, None] + jnp.arange(x.shape[1])[None]
        slot = place if self.bank_first else jnp.mod(place, self.bank)
        put = jax.vmap(lambda old, at, new: old.at[at].set(new, mode="drop"))
        return put(carry.bank, slot, x), put(carry.pooled, slot, pooled)

    @nn.nowrap
    def _key_frames(self, after: Star, rows: Array, weight: Array, seen: Array) -> Array:
        heavy = jnp.argsort(-after.weights, axis=1, stable=True)[:, : self.keys]
        take = lambda a, at: jnp.take_along_axis(a, at.reshape(*at.shape, *(1,) * (a.ndim - 2)), 1)
        if self.bank_first:
            # the code compares the rows of these numbers with all rows, and takes the frames of the
            # numbers that it finds; a first call has none
            asked, held, there = take(rows, heavy), rows, weight > 0
        else:
            flat = after.centroids.reshape(*after.centroids.shape[:2], -1)
            asked = take(flat, heavy)
            held = after.pooled.reshape(*after.pooled.shape[:2], -1)
            there = jnp.arange(self.bank)[None] < after.frames[:, None]
        far = ((asked[:, :, None] - held[:, None]) ** 2).sum(axis=-1)
        far = jnp.where(there[:, None], far, jnp.inf)
        if self.bank_first:
            near = far.argmin(axis=-1)
        else:
            last = after.frames[:, None] - 1
            near = newest(far, last - jnp.mod(last - jnp.arange(self.bank)[None], self.bank))
        found = take(after.bank, jnp.minimum(near, self.bank - 1))
        some = take(after.weights, heavy) > 0
        if self.bank_first:
            some &= (seen > 0)[:, None]
        return jnp.where(some[..., None, None], found, jnp.zeros((), found.dtype))
