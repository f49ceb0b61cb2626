"""A norm whose mean and variance are those of all that a stream has brought so far."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..gaps import compact, scatter
from ..streaming import Array, DType
from .emitted import Emitted, FrameForFrame, whole


class RunningNorm(FrameForFrame):
    """Normalises frames by the mean and variance of every value up to them, [B, F, D] -> the same.

    The causal form of a group norm with one group over time and channels, which needs the whole
    utterance; at an utterance's last frame both are equal. Weights see less and less of what is
    new: begin a stream anew where another speaker or room begins.
    """

    eps: float = 1e-5
    dtype: DType = jnp.float32

    @nn.nowrap
    def init_carry(self, batch: int) -> dict[str, Array]:
        none = jnp.zeros((batch,), jnp.float32)
        return {"frames": jnp.zeros((batch,), jnp.int32), "mean": none, "square": none}

    def __call__(self, carry: dict[str, Array], x: Array, valid: Array | None = None):
        given = whole(x, valid)
        dense = compact(given.x.astype(jnp.float32), valid)
        wide = dense.x
        there = jnp.arange(wide.shape[1])[None] < dense.fresh[:, None]
        before = carry["frames"].astype(jnp.float32)[:, None]
        count = before + jnp.arange(1, wide.shape[1] + 1, dtype=jnp.float32)[None]
        so_far = lambda old, new: (old[:, None] * before + jnp.cumsum(new, axis=1)) / count
        mean = so_far(carry["mean"], wide.mean(axis=2))
        square = so_far(carry["square"], (wide * wide).mean(axis=2))
        spread = jnp.maximum(square - mean * mean, 0)
        y = (wide - mean[..., None]) * jax.lax.rsqrt(spread + self.eps)[..., None]
        last = jnp.maximum(dense.fresh - 1, 0)[:, None]
        end = lambda now, old: jnp.where(
            dense.fresh > 0, jnp.take_along_axis(now, last, axis=1)[:, 0], old
        )
        after = {
            "frames": carry["frames"] + dense.fresh,
            "mean": end(mean, carry["mean"]),
            "square": end(square, carry["square"]),
        }
        y = jnp.where(there[..., None], y, 0).astype(self.dtype)
        return after, Emitted(scatter(y, dense, valid), given.valid, given.at)
