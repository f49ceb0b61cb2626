"""A norm whose mean and variance are those of all that a stream has brought so far."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..gaps import compact, scatter
from ..running_mean import counted, running_mean
from ..streaming import Array, DType
from .emitted import Emitted, FrameForFrame, whole


class RunningNorm(FrameForFrame):
    """Normalises frames by the mean and variance of every value up to them, [B, F, D] -> the same.

    The causal form of a group norm with one group over time and channels, which needs the whole
    utterance; at an utterance's last frame both are equal. What is new counts less and less: begin
    a stream anew where another speaker or room begins.
    """

    eps: float = 1e-5
    dtype: DType = jnp.float32

    @nn.nowrap
    def init_carry(self, batch: int) -> dict[str, Array]:
        none = jnp.zeros((batch, 2), jnp.float32)  # of the values, of their squares
        return {"frames": jnp.zeros((batch,), jnp.int32), "means": none}

    def __call__(self, carry: dict[str, Array], x: Array, valid: Array | None = None):
        given = whole(x, valid)
        dense = compact(given.x.astype(jnp.float32), valid)
        wide = dense.x
        count = counted(carry["frames"], wide.shape[1], dense.fresh)
        new = jnp.stack([wide.mean(axis=2), (wide * wide).mean(axis=2)], axis=2)
        means, so_far = running_mean(carry["means"], new, count, dense.fresh)
        mean, square = so_far[..., :1], so_far[..., 1:]
        spread = jnp.maximum(square - mean * mean, 0)
        y = (wide - mean) * jax.lax.rsqrt(spread + self.eps)
        there = jnp.arange(wide.shape[1])[None] < dense.fresh[:, None]
        y = jnp.where(there[..., None], y, 0).astype(self.dtype)
        after = {"frames": count.after, "means": means}
        return after, Emitted(scatter(y, dense, valid), given.valid, given.at)
