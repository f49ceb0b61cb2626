"""Causal depthwise convolution over time, one per token position, with a tail of past frames.

Source: the streaming form of a padded 1-D convolution: what a clip pads with zeros on the left,
a stream keeps as the last ``kernel - 1`` frames. A look-ahead only renames the outputs: the value
computed at frame s belongs to frame s - lookahead.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from .gaps import compact, scatter, window_at
from .ranks import to_rank
from .streaming import DType

Array = jax.Array


def dense_conv(
    x: Array, tail: Array, kernel: Array, bias: Array | None = None, count: Array | None = None
) -> tuple[Array, Array]:
    """Causal depthwise convolution of frames without gaps.

    Args:
      x: [B, T, ..., C]; with ``count``, only the first count[b] frames of each stream are real.
      tail: [B, k - 1, ..., C], the frames before x (zeros at the start of a stream).
      kernel: [k, C]; ``kernel[-1]`` multiplies the newest frame.
      bias: [C] or None.
      count: [B] int32 or None (all T).

    Returns:
      (y [B, T, ..., C] in the dtype of x, the new tail in the dtype of the old one).
    """
    size, steps = kernel.shape[0], x.shape[1]
    history = jnp.concatenate([tail.astype(x.dtype), x], axis=1)
    # A sum of k shifted products: XLA fuses it, and it needs no layout change of the frames.
    weights = kernel.astype(jnp.float32)
    y = sum(
        to_rank(weights[j], x) * history[:, j : j + steps].astype(jnp.float32) for j in range(size)
    )
    if bias is not None:
        y = y + to_rank(bias.astype(jnp.float32), x)
    new_tail = history[:, steps:] if count is None else window_at(history, count, size - 1)
    return jnp.asarray(y).astype(x.dtype), new_tail.astype(tail.dtype)


def causal_conv(
    x: Array,
    tail: Array,
    kernel: Array,
    bias: Array | None = None,
    valid: Array | None = None,
) -> tuple[Array, Array]:
    """:func:`dense_conv` for frames with gaps: valid [B, T] or None.

    Invalid frames are as if they never came; their outputs are zero.
    """
    if valid is None:
        return dense_conv(x, tail, kernel, bias)
    dense = compact(x, valid)
    y, tail = dense_conv(dense.x, tail, kernel, bias, dense.fresh)
    return scatter(y, dense, valid), tail


class CausalConv(nn.Module):
    """Depthwise convolution over time, no activation; the carry is the last kernel - 1 frames.

    Attributes:
      dim: channels.
      kernel: frames seen, including the newest.
      lookahead: how many of them lie after the frame an output belongs to (= ``latency``).
      bias: adds a learned bias per channel.

    Raises:
      ValueError: kernel < 1, or lookahead outside 0 .. kernel - 1.
    """

    dim: int
    kernel: int = 4
    lookahead: int = 0
    bias: bool = True
    dtype: DType = jnp.float32
    param_dtype: DType = jnp.float32

    def __post_init__(self):
        if self.kernel < 1:
            raise ValueError(f"kernel {self.kernel} of CausalConv must be at least 1")
        if not 0 <= self.lookahead < self.kernel:
            raise ValueError(
                f"lookahead {self.lookahead} of CausalConv must lie in 0 .. {self.kernel - 1} "
                f"(kernel {self.kernel}); raise the kernel or lower the lookahead"
            )
        super().__post_init__()

    @property
    def latency(self) -> int:
        """Frames until the output for a frame is final."""
        return self.lookahead

    def setup(self):
        self.weight = self.param(
            "kernel",
            nn.initializers.variance_scaling(1.0, "fan_in", "normal"),
            (self.kernel, self.dim),
            self.param_dtype,
        )
        self.offset = (
            self.param("bias", nn.initializers.zeros, (self.dim,), self.param_dtype)
            if self.bias
            else None
        )

    @nn.nowrap
    def init_carry(self, batch: int, tokens: int) -> Array:
        """Zeros [B, kernel - 1, N, D]."""
        return jnp.zeros((batch, self.kernel - 1, tokens, self.dim), self.dtype)

    def __call__(self, carry: Array, x: Array, valid: Array | None = None) -> tuple[Array, Array]:
        """x [B, T, N, D], valid [B, T] -> (carry, y [B, T, N, D])."""
        y, carry = causal_conv(x.astype(self.dtype), carry, self.weight, self.offset, valid)
        return carry, y

    def flush(self, carry: Array) -> tuple[Array, Array]:
        """Ends the stream: the outputs of its last ``lookahead`` frames, zeros taken after it."""
        batch, _, tokens, dim = carry.shape
        return self(carry, jnp.zeros((batch, self.lookahead, tokens, dim), self.dtype))
