"""Attention whose look-ahead is learned frame by frame, and is paid for by a loss.

After Sunkara et al., "Adaptive Non-Causal Attention Transducer" (arXiv 2305.04159), of which the
abstract was read: per-frame connections to the future, soft while they are learned and hard when a
stream runs, and a loss on the latency that they cost. How they are made soft is ours: the ramp of
Sukhbaatar et al., "Adaptive Attention Span in Transformers" (arXiv 1905.07799), section 2.2, turned
to the future.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ..gaps import compact, window_at, zero_invalid
from ..kernels.attention import attention
from ..streaming import Array, Carry
from ..transformer import BlockConfig
from ..transformer.attention import Attention
from ..transformer.mlp import Mlp
from ..transformer.norms import layer_norm
from .emitted import Emitted


class AdaptiveAhead(nn.Module):
    """[B, T, D] -> frames in order, each as soon as those it wants to see have come.

    A frame decides from itself how many of the ``most`` frames behind it it needs. As a stream that
    is a whole number, and the frame is emitted with the last of them, but not before the frames in
    front of it. ``soft`` is the clip to learn from.

    Attributes:
      config: ``dim``, ``heads`` and ``dtype`` count.
      most: frames behind it that a frame sees at most; 0 is causal attention.
      past: frames before it that it sees.
    """

    config: BlockConfig
    most: int
    past: int

    def setup(self):
        c = self.config
        self.attn = Attention(c)
        # it begins with nearly all of its look-ahead: what is closed has no gradient to open it
        wide = nn.initializers.constant(2.0)
        self.wants = nn.Dense(1, bias_init=wide, dtype=jnp.float32)
        shape = (c.heads, self.past + 1 + self.most)
        self.near = self.param("near", nn.initializers.zeros, shape)  # by distance, oldest first

    rate = Fraction(1)

    @property
    def lookahead(self) -> Fraction:
        """Of a frame that wants all it can have."""
        return Fraction(self.most)

    @property
    def latency(self) -> int:
        return self.most

    @nn.nowrap
    def emitted(self, count: int) -> int:
        """At least so many."""
        return max(0, count - self.most)

    @nn.nowrap
    def length(self, count: int) -> int:
        return count

    @nn.nowrap
    def delay(self, late: int = 0) -> int:
        return late + self.most

    @nn.nowrap
    def init_carry(self, batch: int) -> dict[str, Carry]:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        return {
            "past": jnp.zeros((batch, self.past, 2, c.groups, c.head), dtype),
            "seen": jnp.zeros((batch,), jnp.int32),  # frames of the past, ``past`` at most
            "queue": jnp.zeros((batch, self.most, c.dim), dtype),
            "waiting": jnp.zeros((batch,), jnp.int32),  # frames of the queue
        }

    def wanted(self, x: Array) -> Array:
        """x [B, T, D] -> how far each frame wants to see ahead, 0 .. most, [B, T] float32."""
        return self.most * nn.sigmoid(self.wants(x.astype(jnp.float32))[..., 0])

    def __call__(
        self, carry: dict[str, Carry], x: Array, valid: Array | None = None
    ) -> tuple[dict[str, Carry], Emitted]:
        """x [B, T, D], valid [B, T] -> (carry, Emitted [B, T + most, D])."""
        batch, steps = x.shape[:2]
        here = jnp.ones((batch, steps), bool) if valid is None else valid
        held = jnp.arange(self.most)[None] < carry["waiting"][:, None]
        queue = carry["queue"]
        dense = compact(
            jnp.concatenate([queue, x.astype(queue.dtype)], axis=1),
            jnp.concatenate([held, here], axis=1),
        )
        last = jnp.arange(dense.x.shape[1])[None] + self._whole(dense.x)
        last = jax.lax.cummax(last, axis=1)  # in order
        ready = ((last < dense.fresh[:, None]) & self._there(dense.x, dense.fresh)).sum(axis=1)
        carry, out = self._out(carry, dense.x, dense.fresh, ready)
        place = jnp.minimum(last, dense.order.shape[1] - 1)
        at = jnp.maximum(jnp.take_along_axis(dense.order, place, axis=1) - self.most, 0)
        return carry, out._replace(at=jnp.where(out.valid, at, 0).astype(jnp.int32))

    def flush(self, carry: dict[str, Carry]) -> tuple[dict[str, Carry], Emitted | None]:
        """The frames that waited for others, which will not come."""
        if not self.most:
            return carry, None
        waiting = carry["waiting"]
        return self._out(carry, carry["queue"], waiting, waiting)

    def clip(self, x: Array, soft: bool = False) -> tuple[Array, Array]:
        """A whole stream at once, x [B, T, D] -> (y [B, T, D], ahead [B, T] frames).

        ``ahead`` is how far each frame sees; with ``soft`` not whole, and its mean is the loss to
        add. A frame that is ``r`` away ahead then counts by ``clip(ahead - r + 1, 0, 1)``.
        """
        wanted = self.wanted(x)
        ahead = wanted if soft else self._whole(x).astype(jnp.float32)
        x = x.astype(self.config.dtype)
        q, k, v = self._project(x)
        frames = x.shape[1]
        apart = np.arange(frames)[None] - np.arange(frames)[:, None]  # of key from query
        share = jnp.clip(ahead[..., None] - apart[None] + 1, 0, 1)
        share = jnp.where(apart[None] <= 0, 1.0, share)
        mask = ((apart >= -self.past) & (apart <= self.most))[None] & (share > 0)
        bias = self._by_distance(apart) + jnp.log(jnp.where(mask, share, 1.0))[:, None]
        return self._closed(x, self._read(q, k, v, jnp.asarray(mask), bias)), ahead

    def _project(self, x: Array) -> tuple[Array, Array, Array]:
        return self.attn.project(x)

    def _closed(self, x: Array, y: Array) -> Array:
        """Frames x and what attention made of them -> what is emitted."""
        del x
        return y

    def _whole(self, x: Array) -> Array:
        return jnp.round(self.wanted(x)).astype(jnp.int32)

    @nn.nowrap
    def _there(self, x: Array, count: Array) -> Array:
        return jnp.arange(x.shape[1])[None] < count[:, None]

    def _by_distance(self, apart: np.ndarray) -> Array:
        place = np.clip(apart + self.past, 0, self.past + self.most)
        return self.near[:, place][None]

    def _read(self, q: Array, k: Array, v: Array, mask: Array, bias: Any) -> Array:
        y = attention(q, k, v, mask=mask[:, None], bias=bias)
        return self.attn.out(y.reshape(*y.shape[:2], -1))

    def _out(self, carry: dict[str, Carry], x: Array, count: Array, ready: Array):
        """x [B, N, D], of which the first ``count`` are there: the first ``ready`` are emitted."""
        q, k, v = self._project(x)
        own, there = jnp.stack([k, v], axis=2), self._there(x, count)
        both = jnp.concatenate([carry["past"], own], axis=1)
        places = np.arange(-self.past, x.shape[1])
        apart = places[None] - np.arange(x.shape[1])[:, None]
        before = jnp.arange(self.past)[None] >= self.past - carry["seen"][:, None]
        keys = jnp.concatenate([before, there], axis=1)[:, None]
        mask = keys & (apart >= -self.past)[None] & (apart[None] <= self._whole(x)[..., None])
        y = self._read(q, both[:, :, 0], both[:, :, 1], mask, self._by_distance(apart))
        y = self._closed(x, y)
        emitted = self._there(x, ready)
        room = jnp.pad(x, ((0, 0), (0, self.most), (0, 0)))
        after = {
            "past": window_at(both, ready, self.past),
            "seen": jnp.minimum(carry["seen"] + ready, self.past).astype(jnp.int32),
            "queue": window_at(room, ready, self.most),
            "waiting": (count - ready).astype(jnp.int32),
        }
        return after, Emitted(
            zero_invalid(y, emitted), emitted, jnp.zeros(emitted.shape, jnp.int32)
        )


class AdaptiveBlock(AdaptiveAhead):
    """The same as a pre-norm transformer block: attention and MLP, each added to its frame."""

    def setup(self):
        super().setup()
        c = self.config
        self.norm1, self.norm2 = layer_norm(c.eps, c.dtype), layer_norm(c.eps, c.dtype)
        self.mlp = Mlp(c.dim, c.hidden, c.activation, c.dtype, c.gated, c.mlp_bias)

    def wanted(self, x: Array) -> Array:
        """As of AdaptiveAhead, of the normed frame."""
        return super().wanted(self.norm1(x))

    def _project(self, x: Array) -> tuple[Array, Array, Array]:
        return self.attn.project(self.norm1(x))

    def _closed(self, x: Array, y: Array) -> Array:
        x = x + y
        return x + self.mlp(self.norm2(x))
