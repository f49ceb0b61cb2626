"""Hiera: a hierarchical vision transformer of plain blocks, attention within windows.

Four stages; at the first block of a later stage the queries are max-pooled, which halves the
map and doubles the width. Positions are one small learned map for the whole image, resized, plus
one for a window, repeated.

Source: Ryali et al., "Hiera" (arXiv 2306.00989); Bolya et al., "Window Attention is Bugged"
(arXiv 2311.05613); sizes of Ravi et al., "SAM 2" (arXiv 2408.00714).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from ...layers.kernels.attention import attention
from ...layers.positions import resize_cubic
from ...layers.ranks import to_rank
from ...layers.streaming import DType
from ...layers.transformer import Mlp, layer_norm
from .neck import from_windows, to_windows

Array = jax.Array


@dataclass(frozen=True)
class HieraConfig:
    """Shapes of a trunk; the defaults are SAM 2's tiny one.

    dims, heads, blocks, windows: per stage; the first block of a stage still has the window of the
                                  stage before
    global_blocks:                indices (over all stages) of blocks without windows
    pooled_stages:                stages 1..n begin with pooled queries
    background:                   grid of the learned positions of the whole image
    """

    dims: tuple[int, ...] = (96, 192, 384, 768)
    heads: tuple[int, ...] = (1, 2, 4, 8)
    blocks: tuple[int, ...] = (1, 2, 7, 2)
    windows: tuple[int, ...] = (8, 4, 14, 7)
    global_blocks: tuple[int, ...] = (5, 7, 9)
    pooled_stages: int = 3
    background: tuple[int, int] = (7, 7)
    mlp_ratio: float = 4.0
    activation: str = "gelu"
    eps: float = 1e-6

    def __post_init__(self) -> None:
        count = len(self.dims)
        if {len(self.heads), len(self.blocks), len(self.windows)} != {count}:
            raise ValueError(
                f"dims, heads, blocks and windows name {count}, {len(self.heads)},"
                f" {len(self.blocks)} and {len(self.windows)} stages; give as many of each"
            )
        if any(dim % heads for dim, heads in zip(self.dims, self.heads, strict=False)):
            raise ValueError(f"heads {self.heads} do not divide dims {self.dims}")
        if any(window % 2 for window in self.windows[: self.pooled_stages]):
            raise ValueError(
                f"windows {self.windows}: those before a pooled stage are halved, so they are even"
            )

    @property
    def stride(self) -> int:
        """Pixels per cell of the coarsest map."""
        return 4 * 2**self.pooled_stages

    def stage_ends(self) -> tuple[int, ...]:
        """Index of the last block of each stage."""
        return tuple(sum(self.blocks[: i + 1]) - 1 for i in range(len(self.blocks)))


def _pool(x: Array) -> Array:
    """Maximum over 2 x 2 cells: [M, h, w, C] -> [M, h / 2, w / 2, C]."""
    return nn.max_pool(x, (2, 2), (2, 2))


class HieraBlock(nn.Module):
    """Attention within windows and an MLP, pre-norm; the first one of a stage changes the width."""

    dim: int
    out: int
    heads: int
    window: int  # 0: the whole map
    pool: bool
    mlp_ratio: float
    activation: str
    eps: float
    dtype: DType = jnp.float32

    def setup(self):
        self.norm1, self.norm2 = (layer_norm(self.eps, self.dtype) for _ in range(2))
        self.qkv = nn.Dense(3 * self.out, dtype=self.dtype)
        self.proj = nn.Dense(self.out, dtype=self.dtype)
        self.mlp = Mlp(self.out, int(self.out * self.mlp_ratio), self.activation, self.dtype)
        if self.dim != self.out:
            self.widen = nn.Dense(self.out, dtype=self.dtype)

    def __call__(self, x: Array) -> Array:
        """x [B, h, w, dim] -> [B, h, w, out], or half of h and w with ``pool``."""
        h = self.norm1(x)
        if self.dim != self.out:
            x = self.widen(h)
            x = _pool(x) if self.pool else x
        h = to_windows(h, self.window) if self.window else h
        h = self._attend(h)
        h = from_windows(h, x.shape[1:3]) if self.window else h
        x = x + h
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Array) -> Array:
        q, k, v = jnp.split(self.qkv(x), 3, axis=-1)
        q = _pool(q) if self.pool else q
        rows, cols = q.shape[1:3]
        q, k, v = (a.reshape(a.shape[0], -1, self.heads, self.out // self.heads) for a in (q, k, v))
        return self.proj(attention(q, k, v).reshape(-1, rows, cols, self.out))


class Hiera(nn.Module):
    """Frames [B, H, W, 3] to the last map of every stage, fine to coarse.

    The blocks are written out, not scanned: on a CPU the trunk of S at 256 px (16 blocks) compiles
    in 4 s, that of L (48) in 5.
    """

    config: HieraConfig
    dtype: DType = jnp.float32

    def setup(self):
        c = self.config
        self.patch_embed = nn.Conv(
            c.dims[0], (7, 7), strides=(4, 4), padding=((3, 3), (3, 3)), dtype=self.dtype
        )
        init = nn.initializers.normal(0.02)
        self.positions = self.param("positions", init, (*c.background, c.dims[0]))
        side = c.windows[0]
        self.window_positions = self.param("window_positions", init, (side, side, c.dims[0]))
        index = 0
        for stage, count in enumerate(c.blocks):
            for first in [True] + [False] * (count - 1):
                before = max(stage - 1, 0) if first else stage
                block = HieraBlock(
                    c.dims[before],
                    c.dims[stage],
                    c.heads[stage],
                    0 if index in c.global_blocks else c.windows[before],
                    first and 0 < stage <= c.pooled_stages,
                    c.mlp_ratio,
                    c.activation,
                    c.eps,
                    self.dtype,
                )
                setattr(self, f"block{index}", block)
                index += 1

    def __call__(self, frames: Array) -> tuple[Array, ...]:
        """Frames with sides that are multiples of 4 * the first window and of the stride -> one
        map per stage.

        Raises:
          ValueError: sides of another kind.
        """
        step = math.lcm(4 * self.config.windows[0], self.config.stride)
        if frames.shape[1] % step or frames.shape[2] % step:
            raise ValueError(
                f"frames of {frames.shape[1]}x{frames.shape[2]}: this Hiera takes sides that are"
                f" multiples of {step}; resize or pad them"
            )
        x = self.patch_embed(frames.astype(self.dtype))
        rows, cols = x.shape[1] // self.config.windows[0], x.shape[2] // self.config.windows[0]
        place = resize_cubic(self.positions, x.shape[1:3])
        place = place + jnp.tile(self.window_positions, (rows, cols, 1))
        x = x + to_rank(place.astype(self.dtype), x)
        maps = []
        ends = self.config.stage_ends()
        for i in range(sum(self.config.blocks)):
            x = getattr(self, f"block{i}")(x)
            if i in ends:
                maps.append(x)
        return tuple(maps)
