"""A transformer block over time whose frames see a window of others, some of them yet to come.

Source: the encoder of Moonshine v2 (transformers' ``moonshine_streaming``): no positions, every
layer a window of its own. A frame waits for the ``after`` frames behind it, so a stack of such
blocks is late by their sum, and a stream is the clip with the same masks.
"""

from __future__ import annotations

import math
from fractions import Fraction

import flax.linen as nn
import jax.numpy as jnp

from ..gaps import zero_invalid
from ..streaming import Array
from ..transformer.attention import Attention
from ..transformer.config import BlockConfig
from ..transformer.mlp import Mlp
from ..transformer.norms import layer_norm, rms_norm
from .conv import Tail, advance, init_tail
from .emitted import Emitted


class Sliding(nn.Module):
    """Pre-norm attention and MLP, [B, T, D] -> [B, F, D]; a frame sees the ``before`` frames in
    front of it, itself and the ``after`` frames behind it, as many of them as the stream has.

    The carry holds inputs, queries, keys and values of the last before + after frames: nothing is
    projected twice. ``config`` is that of any block; its options for frames of many tokens
    (``causal``, ``window``, ``cross``, ``modulated``, ``layer_scale``) are refused.

    Raises:
      ValueError: such an option, or a negative window.
    """

    config: BlockConfig
    before: int
    after: int = 0

    def __post_init__(self):
        c = self.config
        if c.causal or c.cross is not None or c.modulated or c.layer_scale is not None:
            raise ValueError(
                "a block that slides over time takes no causal, cross, modulated or layer_scale"
            )
        if min(self.before, self.after) < 0:
            raise ValueError(f"window ({self.before}, {self.after}) should be of 0 frames or more")
        super().__post_init__()

    @property
    def span(self) -> int:
        return self.before + 1 + self.after

    @property
    def lookahead(self) -> Fraction:
        return Fraction(self.after)

    @property
    def latency(self) -> int:
        return self.after

    rate = Fraction(1)

    @nn.nowrap
    def emitted(self, count: int) -> int:
        return max(0, count - self.after)

    @nn.nowrap
    def length(self, count: int) -> int:
        return count

    @nn.nowrap
    def delay(self, late: int = 0) -> int:
        return late + math.ceil(self.lookahead)

    @property
    def widths(self) -> tuple[int, int, int, int, int]:
        """Of what is kept of a frame: input, query, key, value, and 1 for a frame that is there."""
        c = self.config
        return c.dim, c.heads * c.head, c.groups * c.head, c.groups * c.head, 1

    def setup(self):
        c = self.config
        make = rms_norm if c.norm == "rms" else layer_norm
        self.norm1, self.norm2 = make(c.eps, c.dtype), make(c.eps, c.dtype)
        self.attn = Attention(c)
        self.mlp = Mlp(c.dim, c.hidden, c.activation, c.dtype, c.gated, c.mlp_bias)

    @nn.nowrap
    def init_carry(self, batch: int) -> Tail:
        return init_tail(batch, self.span, self.after + 1, (sum(self.widths),), self.config.dtype)

    def __call__(self, carry: Tail, x: Array, valid: Array | None = None) -> tuple[Tail, Emitted]:
        """x [B, T, D], valid [B, T] -> (carry, Emitted [B, T, D])."""
        x = zero_invalid(x, valid).astype(self.config.dtype)
        parts = [a.reshape(*x.shape[:2], -1) for a in self.attn.project(self.norm1(x))]
        there = jnp.ones((*x.shape[:2], 1), x.dtype)
        return self._slide(carry, jnp.concatenate([x, *parts, there], axis=-1), valid)

    def flush(self, carry: Tail) -> tuple[Tail, Emitted | None]:
        """The frames that were waiting for others; nobody sees what comes behind the last."""
        if not self.after:
            return carry, None
        batch = carry["left"].shape[0]
        nothing = jnp.zeros((batch, self.after, sum(self.widths)), self.config.dtype)
        return self._slide(carry, nothing, None)

    def _slide(self, carry: Tail, new: Array, valid: Array | None) -> tuple[Tail, Emitted]:
        carry, kept, out = advance(carry, new, valid, self.span, 1, causal=self.after == 0)
        frames, c = out.valid.shape[1], self.config
        cuts = [sum(self.widths[: i + 1]) for i in range(4)]
        x, q, k, v, there = jnp.split(kept, cuts, axis=-1)
        own = slice(self.before, self.before + frames)
        heads = lambda a: a.reshape(*a.shape[:2], -1, c.head)
        # from a window's first
        distance = jnp.arange(kept.shape[1])[None] - jnp.arange(frames)[:, None]
        seen = ((distance >= 0) & (distance < self.span))[None] & (there[..., 0] > 0)[:, None]
        # a frame that is not there sees itself, not NaN
        seen = seen | (distance == self.before)[None]
        y, _ = self.attn.attend(heads(q[:, own]), heads(k), heads(v), mask=seen[:, None])
        x = x[:, own] + y
        x = x + self.mlp(self.norm2(x))
        return carry, out._replace(x=zero_invalid(x, out.valid))
