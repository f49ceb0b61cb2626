"""Convolutions of single frames: pointwise, depthwise and dense, with torch's padding.

Depthwise filters are sums of shifted products: XLA's grouped convolution is several times slower
on a CPU, and the sum fuses into one loop everywhere. Other runtimes are the other way round.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .kernels.dispatch import Backend, Op
from .ranks import to_rank
from .streaming import DType

Array = jax.Array


def _sums(x: Array, kernel: Array, bias: Array | None, *, stride: int, dilation: int = 1) -> Array:
    side = kernel.shape[0]
    height, width = (-(-n // stride) for n in x.shape[1:3])
    pad = dilation * (side - 1) // 2
    x32 = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))).astype(jnp.float32)
    weights = kernel.astype(jnp.float32)
    y: Any = 0.0 if bias is None else to_rank(bias.astype(jnp.float32), x)
    for row in range(side):
        for col in range(side):
            top, left = row * dilation, col * dilation
            part = x32[:, top : top + (height - 1) * stride + 1 : stride]
            part = part[:, :, left : left + (width - 1) * stride + 1 : stride]
            y = y + part * to_rank(weights[row, col, 0], x)
    return y.astype(x.dtype)


def _grouped(
    x: Array, kernel: Array, bias: Array | None, *, stride: int, dilation: int = 1
) -> Array:
    pad = dilation * (kernel.shape[0] - 1) // 2
    y = jax.lax.conv_general_dilated(
        x.astype(jnp.float32),
        kernel.astype(jnp.float32),
        (stride, stride),
        ((pad, pad), (pad, pad)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )
    y = y if bias is None else y + to_rank(bias.astype(jnp.float32), x)
    return y.astype(x.dtype)


_depthwise = Op("depthwise", Backend("reference", _sums), Backend("convolution", _grouped))


def depthwise_conv2d(
    x: Array, kernel: Array, bias: Array | None = None, stride: int = 1, dilation: int = 1
) -> Array:
    """One k x k filter per channel, (k - 1) / 2 zeros on all four sides, products in fp32. Its
    weights lie ``dilation`` pixels apart, with as many times more zeros.

    x [M, H, W, C], kernel [k, k, 1, C], bias [C] -> [M, ceil(H / stride), ceil(W / stride), C] in
    the dtype of x, for odd k.
    """
    return _depthwise(x, kernel, bias, stride=stride, dilation=dilation)


class Depthwise(nn.Module):
    """:func:`depthwise_conv2d` with learned ``kernel`` [k, k, 1, C] and ``bias`` [C]."""

    dim: int
    size: int = 3
    stride: int = 1
    dtype: DType = jnp.float32
    dilation: int = 1

    def setup(self):
        init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
        self.kernel = self.param("kernel", init, (self.size, self.size, 1, self.dim))
        self.bias = self.param("bias", nn.initializers.zeros, (self.dim,))

    def __call__(self, x: Array) -> Array:
        """x [M, H, W, C] -> [M, H / stride, W / stride, C]."""
        x = x.astype(self.dtype)
        return depthwise_conv2d(x, self.kernel, self.bias, self.stride, self.dilation)


class SqueezeExcite(nn.Module):
    """Channel gates from the mean over the frame (Hu et al., arXiv 1709.01507).

    x [M, H, W, C] -> x * sigmoid(up(relu(down(mean of x)))), or with the ``hard`` sigmoid of
    MobileNetV3, a line cut at 0 and 1.
    """

    dim: int
    squeezed: int
    dtype: DType = jnp.float32
    hard: bool = False

    def setup(self):
        self.down = nn.Dense(self.squeezed, dtype=self.dtype)
        self.up = nn.Dense(self.dim, dtype=self.dtype)

    def __call__(self, x: Array) -> Array:
        mean = x.astype(jnp.float32).mean(axis=(1, 2)).astype(x.dtype)
        gate = nn.hard_sigmoid if self.hard else nn.sigmoid
        return x * gate(self.up(nn.relu(self.down(mean))))[:, None, None]
