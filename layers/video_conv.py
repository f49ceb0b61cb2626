"""Convolutions over frames and pictures that see the past only, and keep what they need of it."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from .ranks import to_rank
from .streaming import Array, DType


class CausalConv3d(nn.Module):
    """[B, n, H, W, C] frames of a chunk -> [B, n', H, W, O] after the ``kernel[0] - 1`` before it.

    Attributes:
      features: O.
      kernel: taps over frames, rows and columns.
      stride: over frames.
      padded: zeros around a picture, so that it keeps its size.
      tail: frames that the carry holds; None: ``kernel[0] - 1``.
    """

    features: int
    kernel: tuple[int, int, int] = (3, 3, 3)
    stride: int = 1
    tail: int | None = None
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, tail: Array, x: Array) -> tuple[Array, Array]:
        """(tail [B, tail, H, W, C], chunk) -> (the next tail, frames)."""
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        kernel = self.param("kernel", init, (*self.kernel, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        kept = self.kernel[0] - 1 if self.tail is None else self.tail
        history = jnp.concatenate([tail.astype(self.dtype), x.astype(self.dtype)], axis=1)
        around = [(k // 2, k // 2) for k in self.kernel[1:]]
        y = jax.lax.conv_general_dilated(
            history,
            kernel.astype(self.dtype),
            (self.stride, 1, 1),
            [(0, 0), *around],
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        )
        after = history[:, history.shape[1] - kept :].astype(tail.dtype)
        return after, y + to_rank(bias.astype(y.dtype), y)


class FrameConv(nn.Module):
    """A convolution of single pictures, [M, H, W, C] -> [M, H', W', O], torch's padding."""

    features: int
    size: int = 3
    stride: int = 1
    pad: tuple[tuple[int, int], tuple[int, int]] | None = None
    bias: bool = True
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        half = self.size // 2
        rows, columns = self.pad or ((half, half), (half, half))
        return nn.Conv(
            self.features,
            (self.size, self.size),
            (self.stride, self.stride),
            [rows, columns],
            use_bias=self.bias,
            dtype=self.dtype,
            name="conv",
        )(x)


def twice(x: Array) -> Array:
    """[M, H, W, C] -> [M, 2H, 2W, C], each pixel four times (torch's nearest)."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
