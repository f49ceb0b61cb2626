"""Swin: attention within windows that every second block shifts by half.

Source: Liu et al., "Swin Transformer" (arXiv 2103.14030). The numbers are those of transformers'
SwinBackbone: windows keep their size on maps that are smaller, and what is filled up to whole
windows is attended to like any other cell.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ....layers.kernels.attention import attention
from ....layers.streaming import DType
from ....layers.transformer import FusedProjection, Mlp, layer_norm
from ...ranges import Checked, Count, Positive, Whole
from ...segment.neck import from_windows, to_windows

Array = jax.Array
APART = -100.0  # logit of two cells that only the shift made neighbours


@dataclasses.dataclass(frozen=True)
class SwinConfig(Checked):
    """Shapes of a Swin trunk; the defaults are Swin-T's.

    Attributes:
      dim: width of the first stage; each stage doubles it.
      depths, heads: blocks, and heads, of each stage.
      window: side of a window in cells.
      patch: side of a patch in pixels.
      mlp_ratio: hidden width of the MLPs over that of a cell.
      biased: queries, keys and values have a bias.
      read: the stages, from 0, whose maps are given, each normed.
      eps: of the norms in the blocks.
    """

    dim: Count = 96
    depths: tuple[Count, ...] = (2, 2, 6, 2)
    heads: tuple[Count, ...] = (3, 6, 12, 24)
    window: Count = 7
    patch: Count = 4
    mlp_ratio: Positive = 4.0
    biased: bool = True
    read: tuple[Whole, ...] = (1, 2, 3)
    eps: Positive = 1e-5
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.depths) != len(self.heads):
            raise ValueError(f"depths {self.depths} and heads {self.heads}: one of each per stage")
        if any(width % heads for width, heads in zip(self.widths, self.heads, strict=True)):
            raise ValueError(f"heads {self.heads} do not divide the widths {self.widths}")
        rising = all(low < high for low, high in pairwise(self.read))
        if not self.read or not rising or self.read[-1] >= len(self.depths):
            raise ValueError(f"read {self.read}: stages below {len(self.depths)}, in their order")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every stage."""
        return tuple(self.dim * 2**i for i in range(len(self.depths)))


def apart(size: tuple[int, int], window: int, shift: int) -> np.ndarray:
    """[windows, N, N] logits of the cells of each shifted window: 0 for two that are neighbours in
    the frame, :data:`APART` for two of which one came around its edge."""

    def region(n: int) -> np.ndarray:
        at = np.arange(n)
        return (at >= n - window).astype(int) + (at >= n - shift)

    area = 3 * region(size[0])[:, None] + region(size[1])[None]
    rows, cols = size[0] // window, size[1] // window
    area = area.reshape(rows, window, cols, window).swapaxes(1, 2).reshape(rows * cols, -1)
    return np.where(area[:, None] == area[:, :, None], 0.0, APART).astype(np.float32)


class WindowAttention(nn.Module):
    """Self-attention within windows, whose logits know how far two cells are from each other.

    Parameters: ``qkv`` [D, 3D], ``out`` [D, D], ``relative`` [(2 window - 1)^2, H].
    """

    config: SwinConfig
    dim: int
    heads: int

    def setup(self):
        c = self.config
        self.qkv = FusedProjection((self.dim,) * 3, (c.biased,) * 3, c.dtype)
        self.out = nn.Dense(self.dim, dtype=c.dtype)
        shape = ((2 * c.window - 1) ** 2, self.heads)
        self.relative = self.param("relative", nn.initializers.normal(0.02), shape)

    def __call__(self, x: Array, bias: np.ndarray | None) -> Array:
        """x [M * windows, n, n, D], ``bias`` [windows, N, N] -> [M * windows, n, n, D]."""
        side, cells = self.config.window, self.config.window**2
        flat = x.reshape(-1, cells, self.dim)
        q, k, v = (a.reshape(*a.shape[:2], self.heads, -1) for a in self.qkv(flat))
        row, col = np.divmod(np.arange(cells), side)
        down, right = (a[:, None] - a[None] + side - 1 for a in (row, col))
        near = self.relative[down * (2 * side - 1) + right].transpose(2, 0, 1)[None]
        if bias is not None:
            near = near + bias[:, None]
            near = jnp.tile(near, (flat.shape[0] // len(bias), 1, 1, 1))
        y = attention(q, k, v, bias=near.astype(jnp.float32))
        return self.out(y.reshape(x.shape))


class SwinBlock(nn.Module):
    """Attention within windows and an MLP, each behind a norm. x [M, h, w, D]."""

    config: SwinConfig
    dim: int
    heads: int
    shift: int

    def setup(self):
        c = self.config
        self.norm1, self.norm2 = (layer_norm(c.eps, c.dtype) for _ in range(2))
        self.attn = WindowAttention(c, self.dim, self.heads)
        self.mlp = Mlp(self.dim, int(self.dim * c.mlp_ratio), "gelu", c.dtype)

    def __call__(self, x: Array) -> Array:
        side, shift = self.config.window, self.shift
        size = x.shape[1], x.shape[2]
        # filled up first: the shift carries what fills it to the middle of the last windows
        h = jnp.pad(self.norm1(x), ((0, 0), *((0, -n % side) for n in size), (0, 0)))
        whole = h.shape[1], h.shape[2]
        h = jnp.roll(h, (-shift, -shift), axis=(1, 2)) if shift else h
        bias = apart(whole, side, shift) if shift else None
        h = from_windows(self.attn(to_windows(h, side), bias), whole)
        h = jnp.roll(h, (shift, shift), axis=(1, 2)) if shift else h
        x = x + h[:, : size[0], : size[1]]
        return x + self.mlp(self.norm2(x))


class Merge(nn.Module):
    """Four neighbours become one cell of twice the width: [M, h, w, D] -> [M, h/2, w/2, 2D]."""

    config: SwinConfig
    dim: int

    def setup(self):
        self.norm = layer_norm(1e-5, self.config.dtype)
        self.reduce = nn.Dense(2 * self.dim, use_bias=False, dtype=self.config.dtype)

    def __call__(self, x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        four = [x[:, row::2, col::2] for col in (0, 1) for row in (0, 1)]
        return self.reduce(self.norm(jnp.concatenate(four, axis=-1)))


class Swin(nn.Module):
    """Frames [M, H, W, 3] to the maps of the stages that ``config.read`` names."""

    config: SwinConfig

    def setup(self):
        c = self.config
        side = (c.patch, c.patch)
        self.patch_embed = nn.Conv(c.dim, side, side, padding="VALID", dtype=c.dtype)
        self.norm = layer_norm(1e-5, c.dtype)
        for i, (width, depth, heads) in enumerate(zip(c.widths, c.depths, c.heads, strict=True)):
            for j in range(depth):
                shift = c.window // 2 if j % 2 else 0
                setattr(self, f"stage{i}_{j}", SwinBlock(c, width, heads, shift))
            if i + 1 < len(c.depths):
                setattr(self, f"merge{i}", Merge(c, width))
            if i in c.read:
                setattr(self, f"norm{i}", layer_norm(1e-5, c.dtype))

    def __call__(self, frames: Array) -> list[Array]:
        """[M, H, W, 3] -> maps [M, h, w, D] of the stages that are read, the finest first."""
        c = self.config
        fill = tuple((0, -n % c.patch) for n in frames.shape[1:3])
        x = jnp.pad(frames.astype(c.dtype), ((0, 0), *fill, (0, 0)))
        x, maps = self.norm(self.patch_embed(x)), []
        for i, depth in enumerate(c.depths):
            for j in range(depth):
                x = getattr(self, f"stage{i}_{j}")(x)
            if i in c.read:
                maps.append(getattr(self, f"norm{i}")(x))
            if i + 1 < len(c.depths):
                x = getattr(self, f"merge{i}")(x)
        return maps
