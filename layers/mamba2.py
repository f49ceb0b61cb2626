"""Mamba-2 over time, one state per token position and head.

Source: Dao, Gu (2024), "Transformers are SSMs" (arXiv 2405.21060), figure 6 (the block with
parallel projections) and section 7; the gated norm and the initial values are those of the
published implementations.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from .conv import dense_conv
from .exportable import exportable
from .gaps import compact, scatter
from .gated_delta import step_init
from .kernels.ssd import ssd
from .ranks import to_rank
from .streaming import DType

Array = jax.Array


def rate_init(key, shape, dtype=jnp.float32) -> Array:
    """log of the decay rates 1, 2, 3, ... of the heads."""
    del key
    return jnp.log(jnp.arange(1, shape[0] + 1, dtype=jnp.float32)).astype(dtype)


@exportable
class Mamba2State(NamedTuple):
    h: Array  # [B, N, state, heads * head_dim] fp32: all channels in whole vector lanes
    tail: Array  # [B, kernel - 1, N, inner + 2 groups * state] inputs of the convolution


class Mamba2(nn.Module):
    """Mamba-2 over time, weights shared by all token positions. Latency 0.

    Attributes:
      dim: channels in and out.
      expand: inner width over dim. Mamba-2 as published takes 2 and has no MLP beside it; here
        the block has one, and the state (inner * state floats per token) is what streams pay for.
      state: features of a head's state.
      head_dim: channels of a head; None takes 64, or the inner width where 64 does not divide it.
      groups: heads in one group share their B and C, and the output norm runs over a group.
      kernel: frames of the causal convolution.
      chunk: frames per chunk of the parallel form.
      eps: of the output norm.
      dt_limit: step sizes are clipped to it.
      implementation: of :func:`~streamzoo.layers.kernels.ssd.ssd`.

    Raises:
      ValueError: head_dim does not divide the inner width, or groups does not divide the heads.
    """

    dim: int
    expand: float = 1.0
    state: int = 128
    head_dim: int | None = None
    groups: int = 1
    kernel: int = 4
    chunk: int = 64
    eps: float = 1e-5
    dt_limit: tuple[float, float] = (0.0, float("inf"))
    implementation: str | None = None
    dtype: DType = jnp.float32
    param_dtype: DType = jnp.float32
    latency = 0

    @property
    def inner(self) -> int:
        """Channels of all heads together."""
        return int(self.dim * self.expand)

    @property
    def heads(self) -> int:
        width = self.head_dim or (64 if self.inner % 64 == 0 else self.inner)
        if self.inner % width:
            raise ValueError(
                f"head_dim {width} of Mamba2 does not divide the inner width {self.inner}"
            )
        heads = self.inner // width
        if heads % self.groups:
            raise ValueError(f"groups {self.groups} of Mamba2 does not divide {heads} heads")
        return heads

    def setup(self):
        heads, mixed = self.heads, self.inner + 2 * self.groups * self.state
        fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        kind = {"use_bias": False, "dtype": self.dtype, "param_dtype": self.param_dtype}
        self.gate = nn.Dense(self.inner, kernel_init=fan_in, **kind)
        self.xbc = nn.Dense(mixed, kernel_init=fan_in, **kind)  # x of all heads, B, C
        self.step = nn.Dense(heads, kernel_init=fan_in, **kind)
        self.out = nn.Dense(self.dim, kernel_init=fan_in, **kind)
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        self.conv_kernel = self.param("conv_kernel", fan_in, (self.kernel, mixed), self.param_dtype)
        self.conv_bias = self.param("conv_bias", zeros, (mixed,), self.param_dtype)
        self.log_rate = self.param("log_rate", rate_init, (heads,), self.param_dtype)
        self.step_bias = self.param("step_bias", step_init, (heads,), self.param_dtype)
        self.skip = self.param("skip", ones, (heads,), self.param_dtype)
        self.norm_scale = self.param("norm_scale", ones, (self.inner,), self.param_dtype)

    @nn.nowrap
    def init_carry(self, batch: int, tokens: int) -> Mamba2State:
        """Zeros; see :class:`Mamba2State`."""
        _ = self.heads  # fails early
        mixed = self.inner + 2 * self.groups * self.state
        return Mamba2State(
            jnp.zeros((batch, tokens, self.state, self.inner), jnp.float32),
            jnp.zeros((batch, self.kernel - 1, tokens, mixed), self.dtype),
        )

    def __call__(
        self, carry: Mamba2State, x: Array, valid: Array | None = None
    ) -> tuple[Mamba2State, Array]:
        """x [B, T, N, D], valid [B, T] -> (carry, y [B, T, N, D])."""
        batch, steps, tokens = x.shape[:3]
        dense = compact(x, valid)
        count = None if valid is None else dense.fresh
        mixed, tail = dense_conv(
            self.xbc(dense.x), carry.tail, self.conv_kernel, self.conv_bias, count
        )
        cut = [self.inner, self.inner + self.groups * self.state]
        value, b, c = jnp.split(nn.silu(mixed), cut, axis=-1)
        dt = self.step(dense.x).astype(jnp.float32)
        dt = dt + to_rank(self.step_bias.astype(jnp.float32), dt)
        dt = jnp.clip(jax.nn.softplus(dt), *self.dt_limit)
        if count is not None:  # frames behind the valid ones must not touch the state
            alive = jnp.arange(steps)[None] < count[:, None]
            dt = jnp.where(alive[..., None, None], dt, 0.0)

        def fold(z, *last):  # [B, T, N, ...] -> [B * N, T, *last]: tokens are streams of the op
            return z.swapaxes(1, 2).reshape(batch * tokens, steps, *last)

        y, h = ssd(
            fold(value, self.inner),
            fold(dt, self.heads),
            -jnp.exp(self.log_rate.astype(jnp.float32)),
            fold(b, self.groups, self.state),
            fold(c, self.groups, self.state),
            carry.h.reshape(batch * tokens, self.state, self.inner),
            d=self.skip,
            chunk=self.chunk,
            implementation=self.implementation,
        )
        y = y.reshape(batch, tokens, steps, self.inner).swapaxes(1, 2).astype(jnp.float32)
        y = y * nn.silu(self.gate(dense.x).astype(jnp.float32))
        part = y.reshape(*y.shape[:-1], self.groups, -1)
        part = part * jax.lax.rsqrt(jnp.mean(part * part, axis=-1, keepdims=True) + self.eps)
        y = part.reshape(y.shape) * to_rank(self.norm_scale.astype(jnp.float32), y)
        y = self.out(y.astype(self.dtype))
        return Mamba2State(h.reshape(carry.h.shape), tail), scatter(y, dense, valid)
