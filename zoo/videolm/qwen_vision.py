"""The video encoder of Qwen2.5-VL and Qwen3-VL.

Sources: Bai et al., "Qwen2.5-VL Technical Report" (arXiv 2502.13923): windows in most blocks; Bai
et al., "Qwen3-VL Technical Report" (arXiv 2511.21631): features of several depths (DeepStack). The
numbers are those of transformers' classes.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ...layers.positions import resample_table
from ...layers.streaming import Array, DType
from ...layers.transformer import ACTIVATIONS, Block, BlockConfig
from ...layers.transformer.norms import layer_norm, rms_norm
from ..ranges import Checked, Count, Whole

MERGE = 2  # cells of a token, a side


@dataclasses.dataclass(frozen=True)
class QwenVisionConfig(Checked):
    """Shapes of the encoder.

    Attributes:
      dim, hidden, depth, heads: of its blocks.
      out: width of a token.
      patch: pixels of a patch, a side; one is of two frames.
      window: tokens of a window, a side, in blocks that are not in ``whole``; 0: every block sees
        its whole time step.
      whole: blocks that see their whole time step.
      table: cells a side of the learned positions; 0 for none.
      taps: blocks whose features go to the first blocks of the language model.
      modern: Qwen3-VL's blocks (LayerNorm, a plain MLP), else Qwen2.5-VL's (RMS norm, gated).
      dtype: compute type.
    """

    dim: Count = 1280
    hidden: Count = 3420
    depth: Count = 32
    heads: Count = 16
    out: Count = 2048
    patch: Count = 14
    window: Whole = 4
    whole: tuple[Whole, ...] = (7, 15, 23, 31)
    table: Whole = 0
    taps: tuple[Whole, ...] = ()
    modern: bool = False
    dtype: DType = "float32"

    @property
    def block(self) -> BlockConfig:
        """Of every block."""
        return BlockConfig(
            self.dim,
            self.heads,
            mlp_ratio=self.hidden / self.dim,
            activation="gelu_tanh" if self.modern else "silu",
            gated=not self.modern,
            norm="layer" if self.modern else "rms",
            eps=1e-6,
            dtype=self.dtype,
        )


class Features(NamedTuple):
    """tokens [N / 4, out]; deep [S, N / 4, out], for the first blocks of the language model;
    patches [N, D] of the last block."""

    tokens: Array
    deep: Array
    patches: Array


class _Layer(nn.Module):
    config: BlockConfig

    @nn.compact
    def __call__(self, x, whole, masks, rope):
        mask = jnp.where(whole, masks[0], masks[1])
        _, x, _ = Block(self.config, name="block")((), x, None, rope, mask=mask[None])
        return x, x


class Merger(nn.Module):
    """Four patches become one token; ``late``: the norm is of the four together."""

    out: int
    modern: bool
    late: bool
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        norm = (layer_norm if self.modern else rms_norm)(1e-6, self.dtype)
        four = lambda a: a.reshape(-1, MERGE * MERGE * x.shape[-1])
        x = norm(four(x)) if self.late else four(norm(x))
        x = nn.Dense(x.shape[-1], dtype=self.dtype, name="up")(x)
        return nn.Dense(self.out, dtype=self.dtype, name="down")(ACTIVATIONS["gelu"](x))


class QwenVision(nn.Module):
    """(patches [N, p * p * 2 * 3], grid (t, h, w) of patches) -> :class:`Features`.

    Patches come in the order of the published processors: time steps, then tokens row by row, then
    the 2 x 2 cells of a token; a patch is [3, 2, p, p]. :func:`patches_of` makes them of frames.
    """

    config: QwenVisionConfig

    def setup(self):
        c = self.config
        self.patch_embed = nn.Dense(c.dim, use_bias=c.modern, dtype=c.dtype)
        if c.table:
            small = nn.initializers.normal(0.02)
            self.positions = self.param("positions", small, (c.table**2, c.dim))
        scan: Any = nn.scan
        layers = scan(
            _Layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=c.depth,
        )
        self.layers = layers(c.block)
        self.merger = Merger(c.out, c.modern, late=False, dtype=c.dtype)
        self.deep = [Merger(c.out, c.modern, late=True, dtype=c.dtype) for _ in c.taps]

    def __call__(self, patches: Array, grid: tuple[int, int, int]) -> Features:
        c = self.config
        x = self.patch_embed(patches)
        rows, cols = cells(grid)
        if c.table:
            x = x + self._table(grid).astype(x.dtype)
        pairs = c.dim // c.heads // 2
        rates = 10_000.0 ** (-np.arange(pairs // 2) / (pairs // 2))
        angle = np.concatenate([rows[:, None] * rates, cols[:, None] * rates], axis=1)
        rope = jnp.cos(angle.astype(np.float32)), jnp.sin(angle.astype(np.float32))
        whole = np.isin(np.arange(c.depth), c.whole) | (c.window == 0)
        masks = jnp.asarray(groups(grid, 0)), jnp.asarray(groups(grid, c.window))
        x, found = self.layers(x[None, None], jnp.asarray(whole), masks, rope)
        x, found = x[0, 0], found[:, 0, 0]
        deep = [merger(found[at]) for merger, at in zip(self.deep, c.taps, strict=True)]
        stacked = jnp.stack(deep) if deep else jnp.zeros((0, x.shape[0] // 4, c.out), x.dtype)
        return Features(self.merger(x), stacked, x)

    def _table(self, grid: tuple[int, int, int]) -> Array:
        """The learned table on the grid, corner on corner, in the order of the patches."""
        side = self.config.table
        place = self.positions.reshape(side, side, -1)
        spread = lambda n: _between(np.linspace(0, side - 1, n), side)
        fine = resample_table(place, spread(grid[1]), spread(grid[2]))
        rows, cols = cells(grid)
        return fine[rows, cols]


def _between(at: np.ndarray, count: int) -> np.ndarray:
    """[n, count]: weights of linear interpolation at ``at``."""
    return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(count)))


def cells(grid: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns) of the patches in their order, each int [t * h * w]."""
    steps, height, width = grid
    r, c = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")

    def ordered(a: np.ndarray) -> np.ndarray:
        a = a.reshape(height // MERGE, MERGE, width // MERGE, MERGE).swapaxes(1, 2)
        return np.tile(a.reshape(-1), steps)

    return ordered(r), ordered(c)


def groups(grid: tuple[int, int, int], window: int) -> np.ndarray:
    """bool [N, N]: patches of one time step see each other, with ``window`` those of one window of
    so many tokens a side, whose last one may be smaller."""
    rows, cols = cells(grid)
    step = np.repeat(np.arange(grid[0]), grid[1] * grid[2])
    key = step * 1_000_000
    if window:
        side = window * MERGE
        key = key + (rows // side) * 1000 + cols // side
    return key[:, None] == key[None]


def patches_of(frames: Array, patch: int) -> tuple[Array, tuple[int, int, int]]:
    """Frames [T, H, W, 3], T even and sides multiples of two patches -> (patches, grid)."""
    steps, height, width = frames.shape[0] // 2, frames.shape[1] // patch, frames.shape[2] // patch
    x = frames.reshape(steps, 2, height // MERGE, MERGE, patch, width // MERGE, MERGE, patch, 3)
    x = jnp.transpose(x, (0, 2, 5, 3, 6, 8, 1, 4, 7))
    return x.reshape(steps * height * width, -1), (steps, height, width)


def qwen_patch_kernel(x: np.ndarray) -> np.ndarray:
    """torch.nn.Conv3d weight [D, 3, 2, p, p] -> the kernel of the product [3 * 2 * p * p, D]."""
    return x.reshape(x.shape[0], -1).T
