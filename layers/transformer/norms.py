"""Norms and gains of a block."""

from __future__ import annotations

import flax.linen as nn
import jax

from ..ranks import to_rank
from ..streaming import DType

Array = jax.Array


class LayerNorm(nn.LayerNorm):
    """Flax's own, which mixes bfloat16 with its fp32 statistics, where a project has set
    ``jax_numpy_dtype_promotion="strict"``."""

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        with jax.numpy_dtype_promotion("standard"):
            return super().__call__(x, mask=mask)


class RMSNorm(nn.RMSNorm):
    """As :class:`LayerNorm`."""

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        with jax.numpy_dtype_promotion("standard"):
            return super().__call__(x, mask=mask)


def layer_norm(eps: float, dtype: DType, affine: bool = True) -> nn.LayerNorm:
    """LayerNorm with the two-pass variance: E[x^2] - E[x]^2 loses digits on large means.

    ``affine`` False: no scale and no bias (diffusion transformers modulate instead).
    """
    return LayerNorm(
        epsilon=eps, dtype=dtype, use_fast_variance=False, use_bias=affine, use_scale=affine
    )


def rms_norm(eps: float, dtype: DType, affine: bool = True) -> nn.RMSNorm:
    """RMSNorm (Zhang and Sennrich, arXiv 1910.07467) over the last axis, in fp32."""
    return RMSNorm(epsilon=eps, dtype=dtype, use_scale=affine)


class LayerScale(nn.Module):
    """A learned gain per channel (Touvron et al., arXiv 2103.17239). x [..., D] -> [..., D]."""

    dim: int
    value: float = 1e-5
    dtype: DType = jax.numpy.float32

    def setup(self):
        self.gain = self.param("gain", nn.initializers.constant(self.value), (self.dim,))

    def __call__(self, x: Array) -> Array:
        return x * to_rank(self.gain.astype(x.dtype), x)
