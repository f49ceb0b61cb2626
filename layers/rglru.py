"""RG-LRU over time, one state per token position, in Griffin's recurrent block.

Source: De et al. (2024), "Griffin", equations 1-6 and figure 2; the first-frame rule (the state
starts at the gated input, not at its normalised form) is that of the published implementations.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from .conv import dense_conv
from .exportable import exportable
from .gaps import compact, scatter
from .kernels.linear_scan import linear_scan
from .ranks import to_rank
from .streaming import DType, Fields

Array = jax.Array

DECAY_POWER = 8.0  # the constant c of a = sigmoid(Lambda) ** (c r)
MAX_SQRT_GRADIENT = 1000.0


@jax.custom_jvp
def bounded_sqrt(x: Array) -> Array:
    """sqrt(x), x >= 0, whose derivative is clipped at 1000 (it is infinite at 0)."""
    return jnp.sqrt(x)


@bounded_sqrt.defjvp
def _bounded_sqrt_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    floor = 1.0 / (4.0 * MAX_SQRT_GRADIENT**2)
    return jnp.sqrt(x), dx * 0.5 * jax.lax.rsqrt(jnp.maximum(x, floor))


def decay_init(min_radius: float, max_radius: float = 0.999):
    """Initialiser of Lambda: exp(-softplus(Lambda)) uniform by area on the ring of two radii."""

    def init(key, shape, dtype=jnp.float32):
        square = jax.random.uniform(key, shape, jnp.float32, min_radius**2, max_radius**2)
        return jnp.log(jnp.expm1(-0.5 * jnp.log(square))).astype(dtype)

    return init


class BlockLinear(nn.Module):
    """Block-diagonal linear map: ``heads`` blocks of width / heads channels, with bias."""

    width: int
    heads: int
    dtype: DType = jnp.float32
    param_dtype: DType = jnp.float32

    def setup(self):
        block = self.width // self.heads
        self.kernel = self.param(
            "kernel",
            nn.initializers.variance_scaling(1.0, "fan_in", "normal", batch_axis=(0,)),
            (self.heads, block, block),
            self.param_dtype,
        )
        self.bias = self.param("bias", nn.initializers.zeros, (self.heads, block), self.param_dtype)

    def __call__(self, x: Array) -> Array:
        """x [..., width] -> the same shape, in fp32 (the gates of a recurrence follow)."""
        blocks = x.astype(self.dtype).reshape(*x.shape[:-1], self.heads, -1)
        y = jnp.einsum("...hi,hij->...hj", blocks, self.kernel.astype(self.dtype))
        return (y.astype(jnp.float32) + to_rank(self.bias.astype(jnp.float32), y)).reshape(x.shape)


class RGLRU(nn.Module):
    """The Real-Gated Linear Recurrent Unit alone: no convolution, no projections.

    Attributes:
      width: channels.
      heads: blocks of the gates.
      min_radius: smallest initial decay of the ring (the largest is 0.999).
      implementation: of the recurrence; see :func:`.kernels.linear_scan.linear_scan`.

    Raises:
      ValueError: heads does not divide width.
    """

    width: int
    heads: int = 1
    min_radius: float = 0.9
    implementation: str | None = None
    dtype: DType = jnp.float32
    param_dtype: DType = jnp.float32

    def setup(self):
        if self.width % self.heads:
            raise ValueError(
                f"heads {self.heads} of RGLRU does not divide width {self.width}; choose a divisor"
            )
        kind: Fields = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.decay = self.param(
            "decay", decay_init(self.min_radius), (self.width,), self.param_dtype
        )
        self.input_gate = BlockLinear(self.width, self.heads, **kind)
        self.decay_gate = BlockLinear(self.width, self.heads, **kind)

    def __call__(
        self, h: Array, x: Array, reset: Array | None = None, alive: Array | None = None
    ) -> tuple[Array, Array]:
        """One recurrence over axis 1.

        Args:
          h: [B, ..., width] fp32, the state before x.
          x: [B, T, ..., width].
          reset: bool [B, T] or None; True where a stream starts: the state before is forgotten
            and the input enters without the normaliser.
          alive: bool [B, T] or None; False leaves the state as it was.

        Returns:
          (the last state fp32, all states [B, T, ..., width] in ``dtype``).
        """
        frames = (slice(None), slice(None)) + (None,) * (x.ndim - 2)
        x32 = x.astype(jnp.float32)
        gate = jax.nn.sigmoid(self.decay_gate(x))
        log_a = -DECAY_POWER * gate * to_rank(jax.nn.softplus(self.decay.astype(jnp.float32)), gate)
        a = jnp.exp(log_a)
        norm = bounded_sqrt(-jnp.expm1(2.0 * log_a))
        if reset is not None:  # a decay of 0 forgets; written here, since ``alive`` wins over it
            a = jnp.where(reset[frames], 0.0, a)
            norm = jnp.where(reset[frames], 1.0, norm)
        b = norm * jax.nn.sigmoid(self.input_gate(x)) * x32
        if alive is not None:
            a = jnp.where(alive[frames], a, 1.0)
            b = jnp.where(alive[frames], b, 0.0)
        states, last = linear_scan(a, b, h, implementation=self.implementation)
        return last, states.astype(self.dtype)


@exportable
class RGLRUState(NamedTuple):
    h: Array  # [B, N, width] fp32
    tail: Array  # [B, kernel - 1, N, width] inputs of the convolution
    started: Array  # [B] int32, 0 before the first frame, then 1


class RGLRUMixer(nn.Module):
    """Griffin's recurrent block over time, weights shared by all token positions. Latency 0.

    out(RGLRU(conv(linear_x(x))) * gelu(linear_y(x))), gelu in its tanh form.

    Attributes:
      dim: channels in and out.
      width: channels of the recurrence; None takes ``dim``.
      heads: blocks of the gates; None takes width // 64, or 1 where that does not divide width.
      kernel: frames of the causal convolution.
      min_radius: see :class:`RGLRU`.
      out_scale: variance scale of the initial output projection (fan-in).
      implementation: see :class:`RGLRU`.
    """

    dim: int
    width: int | None = None
    heads: int | None = None
    kernel: int = 4
    min_radius: float = 0.9
    out_scale: float = 1.0
    implementation: str | None = None
    dtype: DType = jnp.float32
    param_dtype: DType = jnp.float32
    latency = 0

    @property
    def inner(self) -> int:
        """Channels of the recurrence."""
        return self.width or self.dim

    def setup(self):
        kind: Fields = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        width, auto = self.inner, max(1, self.inner // 64)
        heads = self.heads or (auto if width % auto == 0 else 1)
        scaled = nn.initializers.variance_scaling
        fan_in = scaled(1.0, "fan_in", "normal")
        self.linear_x = nn.Dense(width, kernel_init=fan_in, **kind)
        self.linear_y = nn.Dense(width, kernel_init=fan_in, **kind)
        self.linear_out = nn.Dense(
            self.dim, kernel_init=scaled(self.out_scale, "fan_in", "normal"), **kind
        )
        self.conv_kernel = self.param("conv_kernel", fan_in, (self.kernel, width), self.param_dtype)
        self.conv_bias = self.param("conv_bias", nn.initializers.zeros, (width,), self.param_dtype)
        self.rglru = RGLRU(width, heads, self.min_radius, self.implementation, **kind)

    @nn.nowrap
    def init_carry(self, batch: int, tokens: int) -> RGLRUState:
        """Zeros; see :class:`RGLRUState`."""
        return RGLRUState(
            jnp.zeros((batch, tokens, self.inner), jnp.float32),
            jnp.zeros((batch, self.kernel - 1, tokens, self.inner), self.dtype),
            jnp.zeros((batch,), jnp.int32),
        )

    def __call__(
        self, carry: RGLRUState, x: Array, valid: Array | None = None
    ) -> tuple[RGLRUState, Array]:
        """x [B, T, N, D], valid [B, T] -> (carry, y [B, T, N, D])."""
        dense = compact(x, valid)
        index = jnp.arange(x.shape[1])[None]
        alive, count = None, None
        if valid is not None:
            count = dense.fresh
            alive = index < count[:, None]
        gate = jax.nn.gelu(self.linear_y(dense.x), approximate=True)
        u, tail = dense_conv(
            self.linear_x(dense.x), carry.tail, self.conv_kernel, self.conv_bias, count
        )
        first = (index == 0) & (carry.started == 0)[:, None]
        h, states = self.rglru(carry.h, u, first, alive)
        y = self.linear_out(states * gate)
        started = jnp.maximum(carry.started, (dense.fresh > 0).astype(jnp.int32))
        return RGLRUState(h, tail, started), scatter(y, dense, valid)
