"""Sliding-window attention over time with attention sinks, as a temporal mixer."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from .gaps import compact, scatter
from .kernels.ring_attention import (
    BlockRing,
    Ring,
    init_block_ring,
    init_ring,
    ring_attention,
)
from .streaming import Carry, DType

Array = jax.Array


class WindowAttention(nn.Module):
    """Each token attends to the last ``window`` frames (its own included) and the first ``sinks``.

    ``over="position"``: a token sees the past of its own position (factorised attention);
    ``over="frame"``: all tokens of those frames, N times the cost. Carry: :class:`Ring`.
    Time enters by rotary positions assigned at read; ``grid`` (height, width) adds the axes of a
    frame, for tokens in raster order behind ``N - height * width`` that have no place (axial RoPE,
    3-D). ``kv_heads`` < ``heads`` share keys and values in groups; ``bits`` 8 or 4 keeps them
    quantised per token; with ``block``, 8, 4 or 2 keeps keys per channel over blocks of so many
    frames, values per token (:class:`BlockRing`). Latency 0.

    Source: StreamingLLM (arXiv 2309.17453); window as in Mistral 7B (arXiv 2310.06825).
    """

    dim: int
    heads: int | None = None  # default: heads of width 64
    window: int = 16
    sinks: int = 2
    over: str = "position"
    rope_base: float | None = 10_000.0
    kv_heads: int | None = None  # default: as many as heads
    grid: tuple[int, int] | None = None
    bits: int | None = None
    block: int | None = None
    implementation: str | None = None
    dtype: DType = jnp.float32
    latency = 0

    @property
    def in_place(self) -> tuple[str, ...]:
        """Fields of the carry that may be one layer of a stack."""
        return () if self.block is not None else ("k", "v", "k_scale", "v_scale")

    def setup(self):
        if self.window < 1 or self.sinks < 0:
            raise ValueError(f"window {self.window} must be >= 1 and sinks {self.sinks} >= 0")
        if self.over not in ("position", "frame"):
            raise ValueError(f"over={self.over!r} is neither 'position' nor 'frame'")
        heads, kv_heads = self._heads()
        if self.dim % heads or heads % kv_heads:
            raise ValueError(
                f"dim {self.dim} must divide by heads {heads}, and heads by kv_heads {kv_heads}"
            )
        self.qkv = nn.Dense(self.dim + 2 * self._kv_dim(), dtype=self.dtype)
        self.out = nn.Dense(self.dim, dtype=self.dtype)

    @nn.nowrap
    def _heads(self) -> tuple[int, int]:
        heads = self.heads or max(1, self.dim // 64)
        return heads, self.kv_heads or heads

    @nn.nowrap
    def _kv_dim(self) -> int:
        heads, kv_heads = self._heads()
        return self.dim // heads * kv_heads

    @nn.nowrap
    def init_carry(self, batch: int, tokens: int) -> Ring | BlockRing:
        if self.block is not None:
            sizes = batch, self.sinks, self.window, tokens, self._kv_dim(), self.dtype
            return init_block_ring(*sizes, bits=self.bits or 4, block=self.block)
        return init_ring(
            batch,
            self.sinks,
            self.window,
            tokens,
            self._kv_dim(),
            self.dtype,
            bits=self.bits,
            kv_heads=self._heads()[1],
        )

    def __call__(self, carry: Carry, x: Array, valid: Array | None = None) -> tuple[Carry, Array]:
        """x [B, T, N, D], valid [B, T] -> (carry, y [B, T, N, D])."""
        dense = compact(x, valid)
        q, k, v = jnp.split(self.qkv(dense.x), (self.dim, self.dim + self._kv_dim()), axis=-1)
        heads, kv_heads = self._heads()
        carry, y = ring_attention(
            carry,
            q,
            k,
            v,
            heads=heads,
            kv_heads=kv_heads,
            sinks=self.sinks,
            window=self.window,
            fresh=None if valid is None else dense.fresh,
            over=self.over,
            rope_base=self.rope_base,
            coords=None if self.grid is None else self._coords(x.shape[2]),
            implementation=self.implementation,
        )
        return carry, scatter(self.out(y), dense, valid)

    @nn.nowrap
    def _coords(self, tokens: int) -> Array:
        """[N, 2] row and column of each token, from 1 on; 0 for tokens without a place."""
        assert self.grid is not None
        height, width = self.grid
        prefix = tokens - height * width
        if prefix < 0:
            raise ValueError(f"grid {self.grid} has more places than there are tokens: {tokens}")
        rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
        places = jnp.stack([rows.ravel(), columns.ravel()], axis=-1) + 1
        return jnp.pad(places, ((prefix, 0), (0, 0)))
