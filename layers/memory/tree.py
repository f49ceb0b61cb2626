"""A tree of what was seen: clusters of frames, and of each a few frames that differ most.

Source: Wang et al., "VideoTree: Adaptive Tree-based Video Representation for LLM Reasoning on Long
Videos" (arXiv 2405.19209) and its code, Ziyang412/VideoTree: frames are clustered by cosine, a
question says which clusters matter, and those are read in more detail. Theirs clusters a film that
has ended, and asks a language model how relevant each cluster is; this tree grows frame by frame in
a fixed number of nodes, and relevance is the inner product with the question, as in LongVU.
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
from .kmeans import apart


@exportable
class Tree(NamedTuple):
    """K clusters with J frames each, of S cells of D channels; P cells of a cluster.

    centroids [B, K, P, D]; weights [B, K], frames that joined, 0 for a cluster that is not there;
    leaves [B, K, J, S, D]; times [B, K, J] int32, -1 for none; frames [B] int32, how many came.
    """

    centroids: Array
    weights: Array
    leaves: Array
    times: Array
    frames: Array


@dataclass(frozen=True)
class ClusterTree:
    """(carry, frames [B, T, S, D] of a square grid) -> (carry, tokens [B, T, M, D]).

    A frame joins the cluster that it is like, or begins another; where there is no room for it, the
    two clusters that are most alike become one. Of a cluster's frames those stay that are farthest
    from each other.

    Attributes:
      clusters, side: K, and cells a side of each (P = side * side).
      leaves: frames J of a cluster.
      wide: clusters that a question reads in full, the most relevant ones.
      alike: least cosine to a centroid of a frame that joins.

    Raises:
      ValueError: fewer than two clusters, or no frames.
    """

    clusters: int = 32
    side: int = 2
    leaves: int = 4
    wide: int = 8
    alike: float = 0.9

    def __post_init__(self) -> None:
        if self.clusters < 2 or min(self.side, self.leaves, self.wide) < 1:
            raise ValueError(f"{self}: at least two clusters, and one cell, frame and wide one")
        if self.wide > self.clusters:
            raise ValueError(f"{self.wide} clusters read in full, of {self.clusters}")

    def init_carry(self, batch: int, tokens: int, dim: int) -> Tree:
        """Nothing seen; frames of ``tokens`` tokens [dim]."""
        zeros = lambda *shape: jnp.zeros((batch, *shape))
        return Tree(
            zeros(self.clusters, self.side**2, dim), zeros(self.clusters),
            zeros(self.clusters, self.leaves, tokens, dim),
            jnp.full((batch, self.clusters, self.leaves), -1, jnp.int32),
            jnp.zeros(batch, jnp.int32),
        )  # fmt: skip

    def __call__(
        self, carry: Tree, x: Array, valid: Array | None = None, asked: Array | None = None
    ) -> tuple[Tree, Array]:
        """``asked`` as of :meth:`tokens`, the same for all frames."""
        there = jnp.ones(x.shape[:2], bool) if valid is None else valid

        def step(carry: Tree, now: tuple[Array, Array]):
            x, here = now
            carry = hold(self.add(carry, x), carry, here)
            return carry, self.tokens(carry, asked)

        over = (zero_invalid(x, valid).swapaxes(0, 1), there.swapaxes(0, 1))
        carry, told = jax.lax.scan(step, carry, over)
        return carry, zero_invalid(told.swapaxes(0, 1), valid)

    def add(self, carry: Tree, x: Array) -> Tree:
        """One frame [B, S, D] of every stream."""
        return jax.vmap(self._add)(carry, x)

    def tokens(self, carry: Tree, asked: Array | None = None) -> Array:
        """What a language model reads: the frames of the clusters that matter, then all clusters.

        Args:
          carry: what was seen.
          asked: [B, L, D], embedded words of a question; None: the heaviest clusters matter.

        Returns:
          [B, M, D], M = wide * J * S + K * P; zeros where there is nothing.
        """
        if asked is None:
            score = carry.weights
        else:
            score = jnp.einsum("bkpd,bld->bk", carry.centroids, asked) / carry.centroids.shape[2]
        rank = jnp.where(carry.weights > 0, score, -jnp.inf)
        best = jnp.argsort(-rank, axis=1, stable=True)[:, : self.wide]
        read = jnp.take_along_axis(carry.leaves, best[..., None, None, None], axis=1)
        flat = lambda a: a.reshape(a.shape[0], -1, a.shape[-1])
        return jnp.concatenate([flat(read), flat(carry.centroids)], axis=1)

    def _add(self, tree: Tree, x: Array) -> Tree:
        """Of one stream."""
        small = pool_square(x, self.side)
        like = self._cosine(tree.centroids, small[None])[:, 0]
        there = tree.weights > 0
        like = jnp.where(there, like, -jnp.inf)
        joins = like.max() >= self.alike
        full = there.all() & ~joins
        tree = jax.tree.map(lambda a, b: jnp.where(full, a, b), self._merged(tree), tree)
        node = jnp.where(joins, like.argmax(), jnp.argmin(tree.weights > 0))
        weight = jnp.where(joins, tree.weights[node], 0.0)
        centre = (tree.centroids[node] * weight + small) / (weight + 1)
        frames = jnp.concatenate([tree.leaves[node], x[None]])
        times = jnp.concatenate([jnp.where(joins, tree.times[node], -1), tree.frames[None]])
        leaves, times = self._spread(frames, times)
        return Tree(
            tree.centroids.at[node].set(centre), tree.weights.at[node].set(weight + 1),
            tree.leaves.at[node].set(leaves), tree.times.at[node].set(times), tree.frames + 1,
        )  # fmt: skip

    def _merged(self, tree: Tree) -> Tree:
        """The two clusters that are most alike are one, and the other's place is free."""
        like = self._cosine(tree.centroids, tree.centroids)
        later = jnp.triu(jnp.ones_like(like, bool), 1)
        left, right = jnp.unravel_index(jnp.where(later, like, -jnp.inf).argmax(), like.shape)
        weight = tree.weights[left] + tree.weights[right]
        share = tree.weights[left] / jnp.maximum(weight, 1e-9)
        centre = share * tree.centroids[left] + (1 - share) * tree.centroids[right]
        pair = lambda a: jnp.concatenate([a[left], a[right]])
        leaves, times = self._spread(pair(tree.leaves), pair(tree.times))
        return Tree(
            tree.centroids.at[left].set(centre).at[right].set(0.0),
            tree.weights.at[left].set(weight).at[right].set(0.0),
            tree.leaves.at[left].set(leaves).at[right].set(0.0),
            tree.times.at[left].set(times).at[right].set(-1), tree.frames,
        )  # fmt: skip

    def _spread(self, frames: Array, times: Array) -> tuple[Array, Array]:
        """J of N frames [N, S, D], those that are farthest from an earlier one, in their order."""
        order = jnp.argsort(jnp.where(times < 0, jnp.iinfo(jnp.int32).max, times), stable=True)
        frames, times = frames[order], times[order]
        flat = pool_square(frames, self.side).reshape(1, len(frames), -1)
        kept = apart(flat, (times >= 0)[None], self.leaves)[0]
        held = times[kept]
        return jnp.where((held >= 0)[:, None, None], frames[kept], 0.0), held

    @staticmethod
    def _cosine(a: Array, b: Array) -> Array:
        """[N, P, D] and [M, P, D] -> [N, M]."""
        flat = lambda x: x.reshape(x.shape[0], -1)
        unit = lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
        return unit(flat(a)) @ unit(flat(b)).T
