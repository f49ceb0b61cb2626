"""Tokens that stay because the newest frames attend to them, from whatever frame they are.

Source: Yi et al., "Deep Forcing" (arXiv 2512.05081), section 4.3 and algorithm 1. Two things
differ. A slot holds the same token in all layers, so its score is the sum over layers and heads.
And the queries of finished frames are not kept: those of the block that begins are summed, which
are three of the paper's four recent frames.
"""

from __future__ import annotations

import jax.numpy as jnp

from ..memory import Reader
from ..streaming import Array


class Weigher(Reader):
    """Reads as a :class:`~streamzoo.layers.memory.Reader` does; in the place of keys to keep it
    gives the score of each remembered token, the sum of all its products with queries:
    [B, K, 1, 1] fp32."""

    __slots__ = ()

    def __call__(
        self, q: Array, k: Array, v: Array, softcap: float | None = None
    ) -> tuple[Array, Array, Array]:
        y, _, _ = super().__call__(q, k, v, softcap)
        cos, sin = self.query_turn
        # a sum of products is the product with a sum
        turned = self._turn(q, (cos[:, :, 0], sin[:, :, 0])).astype(jnp.float32).sum(axis=1)
        turned = turned.reshape(turned.shape[0], k.shape[2], -1, turned.shape[-1]).sum(axis=2)
        slots = self.keys.shape[1]
        cos, sin = (a[:, :slots] for a in self.key_turn)
        keys = self._turn(self.keys.astype(k.dtype), (cos, sin)).astype(jnp.float32)
        return y, jnp.einsum("bgd,bkgd->bk", turned, keys)[..., None, None], v


def strongest(score: Array, time: Array, here: Array, count: int) -> Array:
    """Which tokens stay, in the order of their time: [B, count] int32.

    Whatever slots tokens lie in, the same ones are chosen: of equal scores the earlier.

    Args:
      score: [B, T], more is better.
      time: [B, T] int32, no two alike.
      here: [B, T] bool, candidates, at least ``count`` of them.
    """
    worst = jnp.where(here, -score, jnp.inf)
    best = jnp.lexsort((time, worst), axis=-1)[:, :count]
    when = jnp.take_along_axis(time, best, axis=1)
    order = jnp.argsort(when, axis=1)
    return jnp.take_along_axis(best, order, axis=1).astype(jnp.int32)
