"""Convolutions over time for streams: any padding, stride, dilation and groups, and transposed.

A clip pads zeros on both sides. A stream keeps the inputs that later frames need, answers when
the last input of a frame has come, and gives the last frames when it ends: the same frames.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..conv_time import keep_last
from ..gaps import compact, window_at, zero_invalid
from ..ranks import to_rank
from ..streaming import DType
from .emitted import Emitted

Array = jax.Array
Tail = dict[str, Array]


def init_tail(batch: int, span: int, first: int, features: tuple[int, ...], dtype: DType) -> Tail:
    """The inputs that the next frames still need, and how many more the next one waits for."""
    return {
        "tail": jnp.zeros((batch, span - 1, *features), dtype),
        "left": jnp.full((batch,), first, jnp.int32),
    }


def advance(
    carry: Tail, x: Array, valid: Array | None, span: int, stride: int, causal: bool = False
) -> tuple[Tail, Array, Emitted]:
    """One chunk of inputs on, frame f of which sees the inputs f * stride .. + span - 1.

    Args:
      x: [B, T, ...].
      causal: every input completes a frame, from the first: saves a slice.

    Returns:
      (the carry, the inputs [B, span + (F - 1) * stride, ...] that the F frames need, and an
      Emitted whose x is a mask [B, F]).
    """
    steps = x.shape[1]
    dense = compact(x.astype(carry["tail"].dtype), valid)
    history = jnp.concatenate([carry["tail"], dense.x], axis=1)
    frames, left = -(-steps // stride), carry["left"]
    count = jnp.where(dense.fresh >= left, (dense.fresh - left) // stride + 1, 0)
    size = span + (frames - 1) * stride
    if causal:
        inputs = history
    else:
        room = max(0, steps + size - history.shape[1])
        history = jnp.pad(history, [(0, 0), (0, room)] + [(0, 0)] * (x.ndim - 2))
        inputs = window_at(history, jnp.minimum(left - 1, steps), size)
    by = left[:, None] - 1 + stride * jnp.arange(frames)[None]
    here = jnp.arange(frames)[None] < count[:, None]
    at = jnp.take_along_axis(dense.order, jnp.clip(by, 0, steps - 1), axis=1)
    after = {
        "tail": window_at(history, dense.fresh, span - 1)
        if valid is not None
        else keep_last(history[:, : span - 1 + steps], carry["tail"], None),
        "left": left + count * stride - dense.fresh,
    }
    return after, inputs, Emitted(here, here, jnp.where(here, at, 0))


class Conv(nn.Module):
    """Convolution over time, [B, T, C] -> [B, F, O].

    Attributes:
      channels, features: C and O.
      kernel: taps.
      padding: zeros before the first and after the last input of a clip; (kernel - 1) * dilation
        before and none after is causal. The second is the layer's look-ahead.
      groups: as torch's; ``channels`` is depthwise.

    Raises:
      ValueError: a padding as long as the kernel, or groups that do not divide.
    """

    channels: int
    features: int
    kernel: int
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    dilation: int = 1
    groups: int = 1
    bias: bool = True
    dtype: DType = jnp.float32

    def __post_init__(self):
        if min(self.kernel, self.stride, self.dilation) < 1:
            raise ValueError(f"kernel, stride and dilation of {self} must be at least 1")
        if not all(0 <= pad < self.span for pad in self.padding):
            raise ValueError(f"padding {self.padding} should lie in 0 .. {self.span - 1}: a frame"
                             " would see nothing but padding")  # fmt: skip
        if self.channels % self.groups or self.features % self.groups:
            raise ValueError(
                f"groups {self.groups} do not divide {self.channels} and {self.features} channels"
            )
        super().__post_init__()

    @property
    def span(self) -> int:
        """Inputs from the first to the last that a frame sees."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def lookahead(self) -> Fraction:
        return Fraction(self.padding[1])

    @property
    def latency(self) -> int:
        return self.padding[1]

    @property
    def rate(self) -> Fraction:
        return Fraction(1, self.stride)

    @nn.nowrap
    def emitted(self, count: int) -> int:
        return max(0, (count + self.padding[0] - self.span) // self.stride + 1)

    @nn.nowrap
    def length(self, count: int) -> int:
        return self.emitted(count + self.padding[1])

    @nn.nowrap
    def delay(self, late: int = 0) -> int:
        return math.ceil((late + self.padding[1]) / self.stride)

    def setup(self):
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        shape = (self.kernel, self.channels // self.groups, self.features)
        self.weight = self.param("kernel", init, shape)
        zeros = nn.initializers.zeros
        self.offset = self.param("bias", zeros, (self.features,)) if self.bias else None

    @nn.nowrap
    def init_carry(self, batch: int) -> Tail:
        first = self.span - self.padding[0]
        return init_tail(batch, self.span, first, (self.channels,), self.dtype)

    def __call__(self, carry: Tail, x: Array, valid: Array | None = None) -> tuple[Tail, Emitted]:
        """x [B, T, C], valid [B, T] -> (carry, Emitted [B, ceil(T / stride), O])."""
        causal = self.stride == 1 and self.span == self.padding[0] + 1
        carry, inputs, out = advance(carry, x, valid, self.span, self.stride, causal)
        y = self._windows(inputs, out.valid.shape[1])
        if self.offset is not None:
            y = y + to_rank(self.offset.astype(y.dtype), y)
        return carry, out._replace(x=zero_invalid(y, out.valid))

    def clip(self, x: Array) -> Array:
        """A whole stream at once: x [B, T, C] -> [B, length(T), O]."""
        around = ((0, 0), self.padding, *((0, 0),) * (x.ndim - 2))
        y = self._windows(jnp.pad(x.astype(self.dtype), around), self.length(x.shape[1]))
        return y if self.offset is None else y + to_rank(self.offset.astype(y.dtype), y)

    def _windows(self, x: Array, frames: int) -> Array:
        kernel = self.weight.astype(self.dtype)
        if self.groups == self.channels == self.features:
            # a sum of shifted products: XLA's grouped convolution is slower on a CPU
            reach = (frames - 1) * self.stride + 1
            starts = [i * self.dilation for i in range(self.kernel)]
            taps = [x[:, i : i + reach : self.stride] for i in starts]
            products = [tap * to_rank(w, tap) for tap, w in zip(taps, kernel[:, 0], strict=True)]
            return functools.reduce(jnp.add, products)
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (self.stride,),
            "VALID",
            rhs_dilation=(self.dilation,),
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=self.groups,
        )

    def flush(self, carry: Tail) -> tuple[Tail, Emitted | None]:
        """The frames that a clip's padding completes."""
        if not self.padding[1]:
            return carry, None
        batch = carry["left"].shape[0]
        return self(carry, jnp.zeros((batch, self.padding[1], self.channels), self.dtype))


class Transposed(nn.Module):
    """Transposed convolution over time, [B, T, C] -> [B, T * stride, O]: as torch's, its first and
    last ``padding`` frames cut off.

    Output block t is a plain convolution of the last ceil(kernel / stride) inputs with ``stride``
    times the channels, so nothing is summed twice, in a clip or in a stream.
    """

    channels: int
    features: int
    kernel: int
    stride: int
    padding: int = 0
    bias: bool = True
    dtype: DType = jnp.float32

    def __post_init__(self):
        if self.kernel < self.stride or not 0 <= self.padding <= self.kernel - self.stride:
            raise ValueError(
                f"kernel {self.kernel} should be at least the stride {self.stride}, and padding"
                f" {self.padding} at most their difference"
            )
        super().__post_init__()

    @property
    def rest(self) -> int:
        """Frames that come when a stream ends."""
        return self.kernel - self.stride - self.padding

    @property
    def lookahead(self) -> Fraction:
        return Fraction(math.ceil(self.rest / self.stride))

    @property
    def latency(self) -> int:
        return math.ceil(self.lookahead)

    @property
    def rate(self) -> Fraction:
        return Fraction(self.stride)

    @nn.nowrap
    def emitted(self, count: int) -> int:
        return max(0, count * self.stride - self.padding)

    @nn.nowrap
    def length(self, count: int) -> int:
        return max(0, count * self.stride - self.padding + self.rest) if count else 0

    @nn.nowrap
    def delay(self, late: int = 0) -> int:
        return self.padding + late * self.stride

    @property
    def taps(self) -> int:
        return -(-self.kernel // self.stride)

    def setup(self):
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        self.weight = self.param("kernel", init, (self.kernel, self.channels, self.features))
        zeros = nn.initializers.zeros
        self.offset = self.param("bias", zeros, (self.features,)) if self.bias else None

    @nn.nowrap
    def init_carry(self, batch: int) -> dict[str, Array]:
        return {
            "tail": jnp.zeros((batch, self.taps - 1, self.channels), self.dtype),
            "skip": jnp.full((batch,), self.padding, jnp.int32),  # frames that are still cut off
            "begun": jnp.zeros((batch,), bool),
        }

    def __call__(self, carry: dict[str, Array], x: Array, valid: Array | None = None):
        """x [B, T, C], valid [B, T] -> (carry, Emitted [B, T * stride, O])."""
        dense = compact(x.astype(self.dtype), valid)
        history = jnp.concatenate([carry["tail"], dense.x], axis=1)
        steps, up = x.shape[1], self.stride
        # [taps * stride, C, O] -> [taps, C, stride * O], the newest input last
        kernel = jnp.pad(self.weight, ((0, self.taps * up - self.kernel), (0, 0), (0, 0)))
        kernel = kernel.reshape(self.taps, up, self.channels, self.features)[::-1]
        kernel = kernel.transpose(0, 2, 1, 3).reshape(self.taps, self.channels, -1)
        y = jax.lax.conv_general_dilated(
            history,
            kernel.astype(self.dtype),
            (1,),
            "VALID",
            dimension_numbers=("NWC", "WIO", "NWC"),
        ).reshape(x.shape[0], steps * up, self.features)
        if self.offset is not None:
            y = y + to_rank(self.offset.astype(y.dtype), y)
        number, skip = jnp.arange(steps * up)[None], carry["skip"][:, None]
        here = (number >= skip) & (number < dense.fresh[:, None] * up)
        after = {
            "tail": window_at(history, dense.fresh, self.taps - 1),
            "skip": jnp.maximum(carry["skip"] - dense.fresh * up, 0),
            "begun": carry["begun"] | (dense.fresh > 0),
        }
        at = jnp.repeat(dense.order, up, axis=1)
        return after, Emitted(zero_invalid(y, here), here, jnp.where(here, at, 0))

    def flush(self, carry: dict[str, Array]) -> tuple[dict[str, Array], Emitted | None]:
        """What the last inputs still have a say in."""
        if not self.rest:
            return carry, None
        batch, more = carry["skip"].shape[0], -(-self.rest // self.stride)
        after, out = self(carry, jnp.zeros((batch, more, self.channels), self.dtype))
        inside = jnp.arange(more * self.stride) < self.rest
        here = out.valid & inside[None] & carry["begun"][:, None]
        return after, Emitted(zero_invalid(out.x, here), here, out.at)
