"""Qwen3-Next's attention over time: normed queries and keys, shared key heads, a gated output.

Source: the published implementation of Qwen3-Next; the gate on the output is that of Qiu et al.
(2025), "Gated Attention for Large Language Models" (arXiv 2505.06708). Here the past is a window
with sinks instead of everything: while nothing is evicted both are the same.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from .gaps import compact, scatter
from .kernels.ring_attention import Ring, init_ring, ring_attention
from .ranks import to_rank
from .streaming import DType

Array = jax.Array


class GatedAttention(nn.Module):
    """Each token attends to the past of its own position within a window. Latency 0.

    Parameters: ``query``, ``gate``, ``key``, ``value``, ``out`` (no biases), ``query_scale`` and
    ``key_scale`` [head_dim] of the RMS norms. Carry: :class:`Ring`.

    Attributes:
      dim: channels in and out.
      heads: of the queries; None takes max(1, dim // 64).
      kv_heads: of keys and values, a divisor of ``heads``; None takes ``heads``.
      head_dim: None takes dim // heads.
      window, sinks: frames kept: the last, the current one included, and the first.
      rotary: share of the pairs of channels that turn with time. Pair i is channels i and
        i + head_dim / 2, and the first pairs turn.
      rope_base: of the rotary frequencies.
      eps: of the norms.
      implementation: of ``ring_attention``.

    Raises:
      ValueError: kv_heads does not divide heads, or rotary outside 0 .. 1.
    """

    dim: int
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    window: int = 16
    sinks: int = 2
    rotary: float = 0.25
    rope_base: float = 10_000.0
    eps: float = 1e-6
    implementation: str | None = None
    dtype: DType = jnp.float32
    param_dtype: DType = jnp.float32
    latency = 0

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(heads, kv_heads, head_dim)."""
        heads = self.heads or max(1, self.dim // 64)
        kv_heads = self.kv_heads or heads
        if heads % kv_heads:
            raise ValueError(f"kv_heads {kv_heads} of GatedAttention does not divide heads {heads}")
        return heads, kv_heads, self.head_dim or self.dim // heads

    def setup(self):
        if not 0 <= self.rotary <= 1:
            raise ValueError(f"rotary {self.rotary} of GatedAttention must lie in 0 .. 1")
        heads, kv_heads, head = self.sizes
        kind = {"use_bias": False, "dtype": self.dtype, "param_dtype": self.param_dtype}
        self.query = nn.Dense(heads * head, **kind)
        self.gate = nn.Dense(heads * head, **kind)
        self.key = nn.Dense(kv_heads * head, **kind)
        self.value = nn.Dense(kv_heads * head, **kind)
        self.out = nn.Dense(self.dim, **kind)
        ones = nn.initializers.ones
        self.query_scale = self.param("query_scale", ones, (head,), self.param_dtype)
        self.key_scale = self.param("key_scale", ones, (head,), self.param_dtype)

    @nn.nowrap
    def init_carry(self, batch: int, tokens: int) -> Ring:
        _, kv_heads, head = self.sizes
        return init_ring(batch, self.sinks, self.window, tokens, kv_heads * head, self.dtype)

    def _norm(self, x: Array, scale: Array) -> Array:
        parts = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, scale.shape[0])
        mean = jnp.mean(parts * parts, axis=-1, keepdims=True)
        parts = parts * jax.lax.rsqrt(mean + self.eps) * to_rank(scale.astype(jnp.float32), parts)
        return parts.reshape(x.shape).astype(self.dtype)

    def __call__(self, carry: Ring, x: Array, valid: Array | None = None) -> tuple[Ring, Array]:
        """x [B, T, N, D], valid [B, T] -> (carry, y [B, T, N, D])."""
        heads, kv_heads, head = self.sizes
        dense = compact(x, valid)
        turning = int(head // 2 * self.rotary)
        carry, y = ring_attention(
            carry,
            self._norm(self.query(dense.x), self.query_scale),
            self._norm(self.key(dense.x), self.key_scale),
            self.value(dense.x),
            heads=heads,
            kv_heads=kv_heads,
            sinks=self.sinks,
            window=self.window,
            fresh=None if valid is None else dense.fresh,
            rope_base=self.rope_base if turning else None,
            rope_pairs=(turning,),
            implementation=self.implementation,
        )
        y = self.out(y * jax.nn.sigmoid(self.gate(dense.x)))
        return carry, scatter(y, dense, valid)
