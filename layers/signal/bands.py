"""Convolution over time and bands: a signal layer whose frames are spectra, [B, T, N, C].

Over time it is :class:`~streamzoo.layers.signal.Conv`, with its tail and its count; over the bands,
which all come at once, it pads as a clip does.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..streaming import Array
from .conv import Conv, Tail, init_tail
from .emitted import Emitted


class BandConv(Conv):
    """Convolution with a square kernel and one stride for both axes, [B, T, N, C] ->
    [B, F, M, O].

    Attributes:
      bands: N.
      around: zeros below the first and above the last band.

    Raises:
      ValueError: as :class:`Conv`, or a dilation, which it has not.
    """

    bands: int = 1
    around: tuple[int, int] = (0, 0)

    def __post_init__(self):
        if self.dilation != 1:
            raise ValueError(f"a convolution over bands has no dilation, got {self.dilation}")
        super().__post_init__()

    @property
    def bands_out(self) -> int:
        """M."""
        return (self.bands + sum(self.around) - self.kernel) // self.stride + 1

    def setup(self):
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        shape = (self.kernel, self.kernel, self.channels // self.groups, self.features)
        self.weight = self.param("kernel", init, shape)
        zeros = nn.initializers.zeros
        self.offset = self.param("bias", zeros, (self.features,)) if self.bias else None

    @nn.nowrap
    def init_carry(self, batch: int) -> Tail:
        first = self.span - self.padding[0]
        return init_tail(batch, self.span, first, (self.bands, self.channels), self.dtype)

    def _windows(self, x: Array, frames: int) -> Array:
        del frames
        return jax.lax.conv_general_dilated(
            x,
            self.weight.astype(self.dtype),
            (self.stride, self.stride),
            ((0, 0), self.around),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )

    def flush(self, carry: Tail) -> tuple[Tail, Emitted | None]:
        """The frames that a clip's padding completes."""
        if not self.padding[1]:
            return carry, None
        shape = (carry["left"].shape[0], self.padding[1], self.bands, self.channels)
        return self(carry, jnp.zeros(shape, self.dtype))
