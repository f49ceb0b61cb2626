"""Blocks of the tiny autoencoders: three convolutions and a shortcut, with the past or without."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from ...layers.streaming import Array, DType
from ...layers.video_conv import FrameConv


def soft_clip(x: Array) -> Array:
    """Latents within -3..3, smoothly."""
    return 3 * jnp.tanh(x / 3)


class Three(nn.Module):
    """Three convolutions with ReLU between them: [M, H, W, C] -> [M, H, W, features]."""

    features: int
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i in range(3):
            x = nn.relu(x) if i else x
            x = FrameConv(self.features, dtype=self.dtype, name=f"conv{i}")(x)
        return x


class TinyBlock(nn.Module):
    """x and three convolutions of it, after ReLU.

    ``pooled`` looks at the whole picture first, by a group norm over it: it is not the same on a
    part of a picture.
    """

    features: int
    pooled: bool = False
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.pooled:
            wide = nn.Dense(4 * self.features, use_bias=False, dtype=self.dtype, name="wide")(x)
            norm = nn.GroupNorm(
                4, epsilon=1e-5, dtype=self.dtype, use_fast_variance=False, name="norm"
            )
            narrow = nn.Dense(self.features, use_bias=False, dtype=self.dtype, name="narrow")
            x = x + narrow(nn.relu(norm(wide)))
        return nn.relu(Three(self.features, self.dtype, name="convs")(x) + x)


class MemoryBlock(nn.Module):
    """The same, with each frame's predecessor beside it."""

    features: int
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, last: Array, x: Array) -> tuple[Array, Array]:
        """(the frame before [B, H, W, C], chunk [B, n, H, W, C]) -> (its last frame, the chunk)."""
        batch, frames = x.shape[:2]
        history = jnp.concatenate([last[:, None].astype(x.dtype), x], axis=1)
        pair = jnp.concatenate([x, history[:, :-1]], axis=-1)
        y = Three(self.features, self.dtype, name="convs")(pair.reshape(-1, *pair.shape[2:]))
        y = nn.relu(y.reshape(batch, frames, *y.shape[1:]) + x)
        return history[:, -1].astype(last.dtype), y
