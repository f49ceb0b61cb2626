"""A plain vision transformer for large frames: windows in most blocks, the whole map in a few.

One body serves SAM (decomposed relative positions), EfficientSAM (no windows), EfficientTAM
(windows, no relative positions) and SAM 3 (windows, rotary angles); what differs is data in
:class:`WindowVitConfig`.

The pattern of windowed and global blocks repeats in every published size, so equal blocks are
stacked and scanned over depth; a pattern that does not repeat is one period.

Source: Li et al., ViTDet (arXiv 2203.16527); Kirillov et al., "Segment Anything"
(arXiv 2304.02643); relative positions of Li et al., MViTv2 (arXiv 2112.01526), section 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ...layers.kernels.attention import attention
from ...layers.positions import grid_rope, resize_cubic
from ...layers.ranks import to_rank
from ...layers.streaming import DType
from ...layers.transformer import Mlp, layer_norm, rotate
from ..ranges import Checked, Count, Positive, Size, Weight, Whole
from .neck import ConvNeck, from_windows, to_windows

Array = jax.Array


@dataclass(frozen=True)
class WindowVitConfig(Checked):
    """Shapes of a trunk; the defaults are SAM's base size.

    image_size:    (height, width) of the frames
    window:        side of a window in patches, 0 for none
    global_blocks: indices of the blocks without windows
    relative:      learned relative positions, per block, axis and head channel
    rope_base:     of rotary angles by row and column, in units of which a window has ``window`` in
                   a window and over the whole map alike; 0 for none
    position_grid: grid of the learned absolute positions
    tiled:         they are repeated over the grid of the frames, and not resized to it
    pre_norm:      a norm before the first block
    patch_bias:    the patch projection has a bias
    """

    dim: Count = 768
    depth: Count = 12
    heads: Count = 12
    mlp_ratio: Positive = 4.0
    patch: Count = 16
    image_size: Size = (1024, 1024)
    window: Whole = 14
    global_blocks: tuple[Whole, ...] = (2, 5, 8, 11)
    relative: bool = True
    position_grid: Size = (64, 64)
    activation: str = "gelu"
    eps: Positive = 1e-6
    rope_base: Weight = 0.0
    tiled: bool = False
    pre_norm: bool = False
    patch_bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not divisible by heads {self.heads}")
        if self.rope_base and self.dim // self.heads % 4:
            raise ValueError(
                f"rope_base {self.rope_base} with heads of {self.dim // self.heads}: not a"
                " multiple of 4"
            )
        if any(side % self.patch for side in self.image_size):
            raise ValueError(f"image_size {self.image_size}: not multiples of patch {self.patch}")
        if any(not 0 <= i < self.depth for i in self.global_blocks):
            raise ValueError(f"global_blocks {self.global_blocks} of {self.depth} blocks")

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the map."""
        return self.image_size[0] // self.patch, self.image_size[1] // self.patch

    def windows(self) -> tuple[int, ...]:
        """Window of every block of one period, 0 for the whole map."""
        every = [0 if i in self.global_blocks else self.window for i in range(self.depth)]
        for period in range(1, self.depth + 1):
            if self.depth % period == 0 and every == every[:period] * (self.depth // period):
                return tuple(every[:period])
        return tuple(every)


class MapAttention(nn.Module):
    """Self-attention among the cells of a map, with decomposed relative positions if ``sizes`` and
    rotary angles of base ``rope_base``, if any, where a cell is ``step`` from the next.

    Parameters are a fused ``qkv`` [D, 3D], ``out`` [D, D] and, for relative positions within maps
    of ``sizes`` (h, w), ``relative_rows`` [2h - 1, Dh] and ``relative_cols`` [2w - 1, Dh].
    """

    dim: int
    heads: int
    sizes: tuple[int, int] | None
    dtype: DType = jnp.float32
    rope_base: float = 0.0
    step: float = 1.0

    def setup(self):
        self.qkv = nn.Dense(3 * self.dim, dtype=self.dtype)
        self.out = nn.Dense(self.dim, dtype=self.dtype)
        if self.sizes is not None:
            init = nn.initializers.normal(0.02)
            for name, side in zip(("relative_rows", "relative_cols"), self.sizes, strict=False):
                shape = (2 * side - 1, self.dim // self.heads)
                setattr(self, name, self.param(name, init, shape))

    def __call__(self, x: Array) -> Array:
        """x [M, h, w, D] -> [M, h, w, D]."""
        rows, cols = x.shape[1:3]
        q, k, v = (
            a.reshape(x.shape[0], rows * cols, self.heads, -1)
            for a in jnp.split(self.qkv(x), 3, axis=-1)
        )
        if self.rope_base:
            head = self.dim // self.heads
            angles = grid_rope(rows, cols, head, base=self.rope_base, step=self.step)
            rope = jnp.asarray(angles[0]), jnp.asarray(angles[1])
            q, k = rotate(q, *rope), rotate(k, *rope)
        bias = None if self.sizes is None else self._relative(q, (rows, cols))
        y = attention(q, k, v, bias=bias)
        return self.out(y.reshape(x.shape))

    def _relative(self, q: Array, size: tuple[int, int]) -> Array:
        """What the logit of two cells gets, [M, H, h * w, h * w]: q . r(rows apart) + q . r(columns
        apart), unscaled."""
        grid = q.reshape(q.shape[0], *size, *q.shape[2:])
        by_row = _offsets(self.relative_rows, size[0]).astype(self.dtype)
        by_col = _offsets(self.relative_cols, size[1]).astype(self.dtype)
        near = jnp.einsum("myxnd,yid->mnyxi", grid, by_row)[..., :, None]
        near = near + jnp.einsum("myxnd,xjd->mnyxj", grid, by_col)[..., None, :]
        return near.reshape(*near.shape[:2], q.shape[1], q.shape[1]).astype(jnp.float32)


def _offsets(table: Array, side: int) -> Array:
    """table [2 * side - 1, Dh] of offsets -> [side, side, Dh] by (query, key)."""
    at = np.arange(side)
    return table[at[:, None] - at[None] + side - 1]


class WindowBlock(nn.Module):
    """Pre-norm attention, within windows or over the whole map, and an MLP."""

    config: WindowVitConfig
    window: int
    dtype: DType = jnp.float32

    def setup(self):
        c = self.config
        sizes = (self.window, self.window) if self.window else c.grid
        self.norm1, self.norm2 = (layer_norm(c.eps, self.dtype) for _ in range(2))
        step = c.window / c.grid[1] if c.window and not self.window else 1.0
        relative = sizes if c.relative else None
        self.attn = MapAttention(c.dim, c.heads, relative, self.dtype, c.rope_base, step)
        self.mlp = Mlp(c.dim, int(c.dim * c.mlp_ratio), c.activation, self.dtype)

    def __call__(self, x: Array) -> Array:
        """x [B, h, w, D] -> [B, h, w, D]."""
        h = self.norm1(x)
        if self.window:
            h = from_windows(self.attn(to_windows(h, self.window)), x.shape[1:3])
        else:
            h = self.attn(h)
        x = x + h
        return x + self.mlp(self.norm2(x))


class _Period(nn.Module):
    """One period of the pattern of windows: the unit that is stacked and scanned over depth."""

    config: WindowVitConfig
    dtype: DType

    def setup(self):
        for i, window in enumerate(self.config.windows()):
            setattr(self, f"layer{i}", WindowBlock(self.config, window, self.dtype))

    def __call__(self, x: Array, keep: bool) -> tuple[Array, Array | None]:
        hidden = []
        for i in range(len(self.config.windows())):
            x = getattr(self, f"layer{i}")(x)
            hidden.append(x)
        return x, jnp.stack(hidden) if keep else None


class WindowVit(nn.Module):
    """Frames [B, H, W, 3] to a map [B, h, w, D]."""

    config: WindowVitConfig
    dtype: DType = jnp.float32

    def setup(self):
        c = self.config
        side = (c.patch, c.patch)
        self.patch_embed = nn.Conv(
            c.dim, side, strides=side, padding="VALID", use_bias=c.patch_bias, dtype=self.dtype
        )
        if c.pre_norm:
            self.norm_pre = layer_norm(c.eps, self.dtype)
        init = nn.initializers.normal(0.02)
        self.positions = self.param("positions", init, (*c.position_grid, c.dim))
        self.blocks = _Period(c, self.dtype)

    def __call__(self, frames: Array, hidden: bool = False) -> tuple[Array, Array | None]:
        """Frames of ``config.image_size`` -> (map [B, h, w, D], the map after every block
        [L, B, h, w, D] if ``hidden``)."""
        c = self.config
        x = self.patch_embed(frames.astype(self.dtype))
        x = x + to_rank(self._places((x.shape[1], x.shape[2])).astype(self.dtype), x)
        x = self.norm_pre(x) if c.pre_norm else x

        def body(period, x, _):
            return period(x, hidden)

        repeats = c.depth // len(c.windows())
        scan = nn.scan(
            body, variable_axes={"params": 0}, split_rngs={"params": True}, length=repeats
        )
        x, found = scan(self.blocks, x, None)
        return x, found.reshape(c.depth, *x.shape) if found is not None else None

    def _places(self, size: tuple[int, int]) -> Array:
        """The learned positions of a map of ``size`` (h, w): [h, w, D]."""
        if not self.config.tiled:
            return resize_cubic(self.positions, size)
        rows, cols = (
            np.arange(n) % own for n, own in zip(size, self.config.position_grid, strict=True)
        )
        return self.positions[rows[:, None], cols[None]]


class MapEncoder(nn.Module):
    """Trunk and neck: frames [B, H, W, 3] to an image embedding [B, h, w, D]."""

    trunk_config: WindowVitConfig
    dim: int
    dtype: DType = jnp.float32

    def setup(self):
        self.trunk = WindowVit(self.trunk_config, self.dtype)
        self.neck = ConvNeck(self.dim, dtype=self.dtype)

    def __call__(self, frames: Array, hidden: bool = False) -> tuple[Array, Array | None]:
        """As :class:`WindowVit`, with the neck's map."""
        x, found = self.trunk(frames, hidden)
        return self.neck(x), found
