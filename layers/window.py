"""Sliding-window attention over time with attention sinks, as a temporal mixer."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .gaps import compact, scatter
from .kernels.ring_attention import Ring, init_ring, ring_attention

Array = jax.Array


class WindowAttention(nn.Module):
    """Each token attends to the last ``window`` frames (its own included) and the first ``sinks``.

    ``over="position"``: a token sees the past of its own position (factorised attention);
    ``over="frame"``: all tokens of those frames, N times the cost. Carry: :class:`Ring`.
    Time enters by rotary positions assigned at read. Latency 0.

    Source: StreamingLLM (arXiv 2309.17453); window as in Mistral 7B (arXiv 2310.06825).
    """

    dim: int
    heads: int | None = None  # default: heads of width 64
    window: int = 16
    sinks: int = 2
    over: str = "position"
    rope_base: float | None = 10_000.0
    dtype: Any = jnp.float32
    latency = 0

    def setup(self):
        if self.window < 1 or self.sinks < 0:
            raise ValueError(f"window {self.window} must be >= 1 and sinks {self.sinks} >= 0")
        if self.over not in ("position", "frame"):
            raise ValueError(f"over={self.over!r} is neither 'position' nor 'frame'")
        self.qkv = nn.Dense(3 * self.dim, dtype=self.dtype)
        self.out = nn.Dense(self.dim, dtype=self.dtype)

    @nn.nowrap
    def init_carry(self, batch: int, tokens: int) -> Ring:
        return init_ring(batch, self.sinks, self.window, tokens, self.dim, self.dtype)

    def __call__(self, carry: Ring, x: Array, valid: Array | None = None) -> tuple[Ring, Array]:
        """x [B, T, N, D], valid [B, T] -> (carry, y [B, T, N, D])."""
        dense = compact(x, valid)
        q, k, v = jnp.split(self.qkv(dense.x), 3, axis=-1)
        carry, y = ring_attention(
            carry,
            q,
            k,
            v,
            heads=self.heads or max(1, self.dim // 64),
            sinks=self.sinks,
            window=self.window,
            fresh=None if valid is None else dense.fresh,
            over=self.over,
            rope_base=self.rope_base,
        )
        return carry, scatter(self.out(y), dense, valid)
