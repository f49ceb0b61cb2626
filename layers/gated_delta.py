"""Gated DeltaNet over time, one matrix memory per token position and head.

Source: Yang, Kautz, Hatamizadeh (2024), "Gated Delta Networks", figure 1 (the layer), in the form
of Qwen3-Next's linear attention: output gate behind a per-head RMS norm, no biases.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from .conv import dense_conv
from .exportable import exportable
from .gaps import compact, scatter
from .kernels.gated_delta import gated_delta
from .ranks import to_rank
from .stacked import Layer
from .streaming import DType

Array = jax.Array


def l2norm(x: Array, eps: float = 1e-6) -> Array:
    """x / |x| over the last axis, in fp32, safe at zero."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt((x * x).sum(axis=-1, keepdims=True) + eps)


def rate_init(key, shape, dtype=jnp.float32) -> Array:
    """log of a decay rate uniform in (0, 16), kept off zero."""
    return jnp.log(jax.random.uniform(key, shape, jnp.float32, 1e-2, 16.0)).astype(dtype)


def step_init(key, shape, dtype=jnp.float32) -> Array:
    """softplus inverse of a step size log-uniform in 1e-3 .. 1e-1."""
    low, high = jnp.log(1e-3), jnp.log(1e-1)
    step = jnp.exp(jax.random.uniform(key, shape, jnp.float32, low, high))
    return jnp.log(jnp.expm1(step)).astype(dtype)


@exportable
class DeltaState(NamedTuple):
    s: Array | Layer  # [B, N, H, dk, dv] fp32
    tail: Array  # [B, kernel - 1, N, 2 Hk dk + H dv] inputs of the convolution


class GatedDelta(nn.Module):
    """Gated DeltaNet over time, weights shared by all token positions. Latency 0.

    Attributes:
      dim: channels in and out.
      heads: None takes max(1, dim // 64).
      head_dim_k, head_dim_v: state sizes of a head; None takes dim // heads.
      key_heads: of queries and keys, a divisor of ``heads``, each serving consecutive heads of the
        values (Qwen3-Next); None takes ``heads``.
      kernel: frames of the causal convolution on q, k and v.
      chunk: frames per chunk of the parallel form.
      eps: of the output norm.
      implementation: of the recurrence; see :func:`.kernels.gated_delta.gated_delta`.
    """

    dim: int
    heads: int | None = None
    head_dim_k: int | None = None
    head_dim_v: int | None = None
    key_heads: int | None = None
    kernel: int = 4
    chunk: int = 64
    eps: float = 1e-6
    implementation: str | None = None
    dtype: DType = jnp.float32
    param_dtype: DType = jnp.float32
    latency = 0
    in_place = ("s",)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """(heads, key heads, dk, dv)."""
        heads = self.heads or max(1, self.dim // 64)
        keys = self.key_heads or heads
        if heads % keys:
            raise ValueError(f"key_heads {keys} of GatedDelta does not divide heads {heads}")
        width = self.dim // heads
        return heads, keys, self.head_dim_k or width, self.head_dim_v or width

    def setup(self):
        heads, keys, dk, dv = self.sizes
        fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        kind = {"use_bias": False, "dtype": self.dtype, "param_dtype": self.param_dtype}
        channels = 2 * keys * dk + heads * dv
        self.qkv = nn.Dense(channels, kernel_init=fan_in, **kind)  # all q, all k, all v
        self.gate = nn.Dense(heads * dv, kernel_init=fan_in, **kind)
        self.beta = nn.Dense(heads, kernel_init=fan_in, **kind)
        self.step = nn.Dense(heads, kernel_init=fan_in, **kind)
        self.out = nn.Dense(self.dim, kernel_init=fan_in, **kind)
        self.conv_kernel = self.param(
            "conv_kernel", fan_in, (self.kernel, channels), self.param_dtype
        )
        self.log_rate = self.param("log_rate", rate_init, (heads,), self.param_dtype)
        self.step_bias = self.param("step_bias", step_init, (heads,), self.param_dtype)
        self.norm_scale = self.param("norm_scale", nn.initializers.ones, (dv,), self.param_dtype)

    @nn.nowrap
    def init_carry(self, batch: int, tokens: int) -> DeltaState:
        """Zeros; see :class:`DeltaState`."""
        heads, keys, dk, dv = self.sizes
        channels = 2 * keys * dk + heads * dv
        return DeltaState(
            jnp.zeros((batch, tokens, heads, dk, dv), jnp.float32),
            jnp.zeros((batch, self.kernel - 1, tokens, channels), self.dtype),
        )

    def __call__(
        self, carry: DeltaState, x: Array, valid: Array | None = None
    ) -> tuple[DeltaState, Array]:
        """x [B, T, N, D], valid [B, T] -> (carry, y [B, T, N, D])."""
        heads, keys, dk, dv = self.sizes
        batch, steps, tokens = x.shape[:3]
        dense = compact(x, valid)
        count = None if valid is None else dense.fresh
        mixed, tail = dense_conv(self.qkv(dense.x), carry.tail, self.conv_kernel, None, count)
        q, k, v = jnp.split(nn.silu(mixed), [keys * dk, 2 * keys * dk], axis=-1)
        beta = jax.nn.sigmoid(self.beta(dense.x).astype(jnp.float32))
        step = self.step(dense.x).astype(jnp.float32)
        step = step + to_rank(self.step_bias.astype(jnp.float32), step)
        g = to_rank(-jnp.exp(self.log_rate.astype(jnp.float32)), step) * jax.nn.softplus(step)
        if count is not None:  # frames behind the valid ones must not touch the state
            alive = (jnp.arange(steps)[None] < count[:, None])[..., None, None]
            beta, g = jnp.where(alive, beta, 0.0), jnp.where(alive, g, 0.0)

        def fold(z, *last):  # [B, T, N, ...] -> [B, N, T, *last]: tokens are streams of the op
            return z.swapaxes(1, 2).reshape(batch, tokens, steps, *last)

        q, k, v = fold(q, keys, dk), fold(k, keys, dk), fold(v, heads, dv)
        o, s = gated_delta(
            l2norm(q),
            l2norm(k),
            v,
            fold(g, heads),
            fold(beta, heads),
            carry.s,
            chunk=self.chunk,
            implementation=self.implementation,
        )
        o = o.swapaxes(1, 2).astype(jnp.float32)
        o = o * jax.lax.rsqrt(jnp.mean(o * o, axis=-1, keepdims=True) + self.eps)
        z = self.gate(dense.x).astype(jnp.float32).reshape(o.shape)
        o = o * to_rank(self.norm_scale.astype(jnp.float32), o) * nn.silu(z)
        y = self.out(o.reshape(batch, steps, tokens, heads * dv).astype(self.dtype))
        return DeltaState(s, tail), scatter(y, dense, valid)
