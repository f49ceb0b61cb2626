"""Attention to a memory: which key a query sees, and where both stand."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..kernels.attention import attention
from ..positions import rotate_halves
from ..streaming import Array


class View(NamedTuple):
    """How T new tokens see K keys: those of the slots, then their own.

    Positions are relative to anything that suits the policy, as only differences count; they stay
    small, so that their angles are exact however long a stream runs.

    Attributes:
      seen: [B, T, K] bool, T or B of length one where they all see the same; None: all of it.
      keys: [B, K, A] int32, positions on A axes (1 for texts; time, height and width for M-RoPE).
      queries: [B, T, P, A] int32: where a query stands for the keys of each of P groups.
      group: [B, K] int32, the group of a key; None where P is 1.
      source: [B, K] int32, which row is read as the k-th key, where that is not the k-th row: a row
        may be read twice, from two places, and others not at all.
    """

    seen: Array | None
    keys: Array
    queries: Array
    group: Array | None = None
    source: Array | None = None


class Rotary(NamedTuple):
    """Rotary angles: ``rates`` [Dh / 2] per position, ``axis`` [Dh / 2], which axis a pair turns
    with."""

    rates: np.ndarray
    axis: np.ndarray

    def angles(self, places: Array) -> tuple[Array, Array]:
        """places [..., A] -> cos, sin, each [..., Dh / 2]."""
        one = places if places.shape[-1] == 1 else jnp.take(places, self.axis, axis=-1)
        rates = self.rates.reshape((1,) * (one.ndim - 1) + (-1,))  # ranks are said, not promoted
        angle = one.astype(jnp.float32) * rates
        return jnp.cos(angle), jnp.sin(angle)


class Reader(NamedTuple):
    """The slots of one layer, or of all of them, ready to be read by new tokens.

    Attributes:
      keys, values: [B, C, G, Dh], or [B, L, C, G, Dh] of all layers.
      seen: [B, T, K] bool or None, as of :class:`View`; or [B, H, T, K], head by head.
      key_turn: (cos, sin) [B, K, 1, Dh / 2].
      query_turn: (cos, sin) [B, T, P, 1, Dh / 2].
      group, source: [B, K] int32 or None.
      turned: bool, or [L] of all layers: whether the layer turns its queries and keys (NoPE).
      rest: attention may go nowhere: weights are exp(s) / (1 + sum of exp(s)), as if there were a
        key of zeros whose value is zero ("zero sink", Xiao et al., arXiv 2309.17453, section 3.3).
    """

    keys: Array
    values: Array
    seen: Array | None
    key_turn: tuple[Array, Array]
    query_turn: tuple[Array, Array]
    group: Array | None
    source: Array | None
    turned: Array
    rest: bool = False

    @classmethod
    def of(
        cls,
        keys: Array,
        values: Array,
        view: View,
        rotary: Rotary,
        turned: Array,
        rest: bool = False,
    ) -> Reader:
        """Of all layers: keys, values [B, L, C, G, Dh], turned [L]."""
        key_turn = rotary.angles(view.keys[:, :, None])
        query_turn = rotary.angles(view.queries[:, :, :, None])
        turns = key_turn, query_turn
        return cls(keys, values, view.seen, *turns, view.group, view.source, turned, rest)

    def layer(self, index: Array) -> Reader:
        """The slots of one layer."""
        one = lambda a, axis: jax.lax.dynamic_index_in_dim(a, index, axis, keepdims=False)
        return self._replace(
            keys=one(self.keys, 1), values=one(self.values, 1), turned=one(self.turned, 0)
        )

    def __call__(
        self, q: Array, k: Array, v: Array, softcap: float | None = None
    ) -> tuple[Array, Array, Array]:
        """q [B, T, H, Dh], k and v [B, T, G, Dh] of the new tokens, un-rotated -> (y [B, T, H, Dh],
        the keys and values to keep, which are k and v)."""
        scale, new = q.shape[-1] ** -0.5, (k, v)
        k = jnp.concatenate([self.keys.astype(k.dtype), k], axis=1)
        v = jnp.concatenate([self.values.astype(v.dtype), v], axis=1)
        if self.source is not None:
            k, v = (jnp.take_along_axis(a, self.source[..., None, None], axis=1) for a in (k, v))
        k = self._turn(k, self.key_turn)
        groups = self.query_turn[0].shape[2]
        cos, sin = self.query_turn
        q = jnp.concatenate(
            [self._turn(q, (cos[:, :, p], sin[:, :, p])) for p in range(groups)], axis=-1
        )
        if self.group is not None:
            # a key is zero where queries stand for other groups, so each product is of one turn
            own = (self.group[..., None] == jnp.arange(groups)[None, None]).astype(k.dtype)
            k = jnp.concatenate([k * own[:, :, p, None, None] for p in range(groups)], axis=-1)
        mask = self.seen[:, None] if self.seen is not None and self.seen.ndim == 3 else self.seen
        if self.rest:
            k, v = (jnp.pad(a, ((0, 0), (0, 1), (0, 0), (0, 0))) for a in (k, v))
            if mask is not None:
                mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 0), (0, 1)), constant_values=True)
        return attention(q, k, v, mask=mask, scale=scale, softcap=softcap), *new

    def _turn(self, x: Array, turn: tuple[Array, Array]) -> Array:
        return jnp.where(self.turned, rotate_halves(x, *turn).astype(x.dtype), x)
