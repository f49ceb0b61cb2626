"""HRM, the Hierarchical Reasoning Module: what a stream should know of the other streams, looked
up now and then.

Not the Hierarchical Reasoning Model of the same acronym (Wang et al., arXiv 2506.21734).

Every stream puts a token on the table: the mean of its last ``period`` fused features beside its
own memory. At a stream's tick its query attends over the tokens of the other active streams; what
it finds is held until the next tick.

A stream's ticks are counted in its own frames: its first one, and every ``period``-th after it.
Streams that joined at different times tick at different times, a gap delays a tick by as much, and
resetting one stream moves nobody else's clock.

Source: the article "StreamingVLM: Real-Time Understanding Across Infinite Video Streams and Its
Impact on Real-Time Video Analytics" (128 key dimensions, every 16 frames). It leaves open what a
token is, how streams are compared, the number of heads and the case of a single stream: mean
feature and memory, by the cosine of one projection, a field, and a learned "nobody" that can
always be attended to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.exportable import exportable
from ....layers.gaps import hold
from ....layers.streaming import DType
from ....layers.transformer import layer_norm

Array = jax.Array


@exportable
class HRMState(NamedTuple):
    """What one stream of B keeps of itself and of the others."""

    ring: Array  # [B, P, E] float32, its last P fused features
    seen: Array  # [B] int32, frames so far: the place in the ring and the clock of the ticks
    context: Array  # [B, K] float32, what it found at its last tick


class CrossStream(nn.Module):
    """Attention of each stream over the other active ones, by likeness.

    One projection makes keys and queries, of unit length: a stream finds those whose tokens are
    like its own, from the first step on. It attends to another one rather than to nobody where
    their likeness (a cosine) is above a learned bar.

    Equivariant to the order of the streams; an inactive stream neither reads nor is read, whatever
    its token holds (NaN included).

    Attributes:
      key_dim: of each head, and the width K of the context.
      heads: number of heads; their values are ``key_dim / heads`` wide.
    """

    key_dim: int = 128
    heads: int = 2
    dtype: DType = jnp.float32

    def setup(self):
        if self.key_dim % self.heads:
            raise ValueError(f"key_dim {self.key_dim} is not divisible by heads {self.heads}")
        self.norm = layer_norm(1e-6, self.dtype)
        self.key = nn.Dense(self.heads * self.key_dim, dtype=self.dtype)
        self.value = nn.Dense(self.key_dim, use_bias=False, dtype=self.dtype)
        self.out = nn.Dense(self.key_dim, dtype=self.dtype)
        constant = nn.initializers.constant
        self.sharpness = self.param("sharpness", constant(1.5), (self.heads,))  # a logarithm
        self.bar = self.param("bar", constant(0.3), (self.heads,))
        self.nobody = self.param("nobody", nn.initializers.normal(0.02), (self.key_dim,))

    def __call__(self, tokens: Array, active: Array) -> Array:
        """tokens [S, D], active [S] bool -> context [S, K] float32, zero where not active."""
        streams = tokens.shape[0]
        tokens = jnp.where(active[:, None], tokens, 0.0)  # NaN times a weight of 0 is NaN
        others = active[None, :] & ~jnp.eye(streams, dtype=bool)
        scores = jnp.where(others, self.scores(tokens), -jnp.inf)
        scores = jnp.pad(scores, ((0, 0), (0, 0), (0, 1)))  # nobody's score is 0
        weights = jax.nn.softmax(scores, axis=-1)
        split = lambda a: a.astype(jnp.float32).reshape(*a.shape[:-1], self.heads, -1)
        found = jnp.einsum("hqk,khd->qhd", weights[..., :-1], split(self.value(self.norm(tokens))))
        found = found + jnp.einsum("hq,hd->qhd", weights[..., -1], split(self.nobody))
        context = self.out(found.reshape(streams, -1)).astype(jnp.float32)
        return jnp.where(active[:, None], context, 0.0)

    def scores(self, tokens: Array) -> Array:
        """tokens [S, D] -> [heads, S, S] float32, log-odds of "this one" against "nobody"."""
        keys = self.key(self.norm(tokens)).astype(jnp.float32)
        keys = keys.reshape(tokens.shape[0], self.heads, self.key_dim)
        keys = keys * jax.lax.rsqrt((keys**2).sum(axis=-1, keepdims=True) + 1e-6)
        likeness = jnp.einsum("qhd,khd->hqk", keys, keys)
        return jnp.exp(self.sharpness)[:, None, None] * (likeness - self.bar[:, None, None])


def init_state(batch: int, period: int, embed: int, key_dim: int) -> HRMState:
    """Of ``batch`` streams that have seen nothing."""
    return HRMState(
        jnp.zeros((batch, period, embed), jnp.float32),
        jnp.zeros((batch,), jnp.int32),
        jnp.zeros((batch, key_dim), jnp.float32),
    )


def watch(state: HRMState, x: Array) -> HRMState:
    """The state after one more frame's fused feature x [B, E]; the context stays."""
    period = state.ring.shape[1]
    here = jnp.arange(period)[None] == (state.seen % period)[:, None]
    ring = jnp.where(here[..., None], x[:, None].astype(jnp.float32), state.ring)
    return state._replace(ring=ring, seen=state.seen + 1)


def token(state: HRMState, memory: Array) -> Array:
    """What a stream puts on the table: [B, E + D], mean of its ring beside its memory [B, D]."""
    period = state.ring.shape[1]
    count = jnp.clip(state.seen, 1, period).astype(jnp.float32)
    return jnp.concatenate([state.ring.sum(axis=1) / count[:, None], memory], axis=-1)


def tick(
    attend: Callable[[Array, Array], Array],
    state: HRMState,
    tokens: Array,
    came: Array,
    active: Array,
) -> HRMState:
    """Renews the context of the streams whose tick it is; costs nothing where there is none
    (under ``vmap`` it is computed for every frame).

    attend: (tokens [B, D], active [B]) -> contexts [B, K]. state: after :func:`watch`;
    tokens: of :func:`token`. came: [B] bool, a frame of this stream has just come; active: [B]
    bool.
    """
    period = state.ring.shape[1]
    due = came & ((state.seen - 1) % period == 0)

    def renew(state: HRMState) -> HRMState:
        context = attend(tokens, active & (state.seen > 0))
        return hold(state._replace(context=context), state, due)

    return jax.lax.cond(due.any(), renew, lambda s: s, state)
