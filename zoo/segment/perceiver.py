"""2-D spatial perceiver: a memory of h x w tokens pressed into a few latents.

Global latents attend to the whole memory. Spatial latents stand on a coarser grid, and each
attends to its own window of the memory only, so they keep their places. Both pass through the same
layers.

Two properties of the published model differ from what one would expect (and are reproduced): the
positions are added to keys and to values alike, and the global latents come out at position zero.

Axis letters: M rows, (h, w) the memory's grid, L latents, K width.

Source: Zhou et al., "EdgeTAM" (arXiv 2501.07256), section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ...layers.ranks import to_rank
from ...layers.streaming import DType
from ...layers.transformer import gelu, layer_norm
from .memory import masked_attention
from .neck import sine_positions, to_windows

Array = jax.Array


@dataclass(frozen=True)
class PerceiverConfig:
    """Shapes of a perceiver.

    latents: global ones; grid: (rows, columns) of the spatial ones; heads of width head; hidden:
    width of the MLPs; depth: layers.
    """

    latents: int = 256
    grid: tuple[int, int] = (16, 16)
    heads: int = 1
    head: int = 64
    hidden: int = 256
    depth: int = 2

    @property
    def tokens(self) -> int:
        """L: global and spatial latents."""
        return self.latents + self.grid[0] * self.grid[1]


class _Attention(nn.Module):
    """Attention without biases, from latents to tokens [M, J, K]."""

    dim: int
    heads: int
    head: int
    dtype: DType

    def setup(self):
        inner = self.heads * self.head

        def dense(width: int) -> nn.Dense:
            return nn.Dense(width, use_bias=False, dtype=self.dtype)

        self.q, self.k, self.v, self.out = dense(inner), dense(inner), dense(inner), dense(self.dim)

    def __call__(self, x: Array, tokens: Array, at: Array | None = None) -> Array:
        q, k, v = self.q(x), self.k(tokens), self.v(tokens)
        if at is not None:
            k, v = k + to_rank(at.astype(k.dtype), k), v + to_rank(at.astype(v.dtype), v)
        q, k, v = (a.reshape(*a.shape[:2], self.heads, self.head) for a in (q, k, v))
        y = masked_attention(q, k, v, jnp.ones(k.shape[:2], bool))
        return self.out(y.reshape(*y.shape[:2], -1))


class _Mlp(nn.Module):
    """Norm and two layers without biases."""

    dim: int
    hidden: int
    dtype: DType

    def setup(self):
        self.norm = layer_norm(1e-5, self.dtype)
        self.up = nn.Dense(self.hidden, use_bias=False, dtype=self.dtype)
        self.down = nn.Dense(self.dim, use_bias=False, dtype=self.dtype)

    def __call__(self, x: Array) -> Array:
        return self.down(gelu(self.up(self.norm(x))))


class PerceiverLayer(nn.Module):
    """Latents attend to the memory, pass an MLP, attend to each other, pass another."""

    dim: int
    config: PerceiverConfig
    dtype: DType = jnp.float32

    def setup(self):
        c = self.config
        self.norm_latents, self.norm_tokens, self.norm_self = (
            layer_norm(1e-5, self.dtype) for _ in range(3)
        )
        self.cross = _Attention(self.dim, c.heads, c.head, self.dtype)
        self.within = _Attention(self.dim, c.heads, c.head, self.dtype)
        self.mlp = _Mlp(self.dim, c.hidden, self.dtype)
        self.mlp_self = _Mlp(self.dim, c.hidden, self.dtype)

    def __call__(self, latents: Array, tokens: Array, at: Array | None) -> Array:
        """latents [M, L, K], tokens [M, J, K], at [J, heads * head] or None -> [M, L, K]."""
        x = latents
        x = x + self.cross(self.norm_latents(x), self.norm_tokens(tokens), at)
        x = x + self.mlp(x)
        h = self.norm_self(x)
        x = x + self.within(h, h)
        return x + self.mlp_self(x)


class SpatialPerceiver(nn.Module):
    """memory [M, h, w, K] -> latents [M, L, K]: the global ones, then the spatial ones."""

    dim: int
    config: PerceiverConfig
    dtype: DType = jnp.float32

    def setup(self):
        c = self.config
        if c.latents and c.heads * c.head != self.dim:
            raise ValueError(
                f"{c.heads} heads of {c.head} are not the memory's width {self.dim}, which the"
                " positions have"
            )
        init = nn.initializers.normal(1.0)
        self.latents = self.param("latents", init, (c.latents, self.dim))
        self.spatial = self.param("spatial", init, (c.grid[0] * c.grid[1], self.dim))
        for i in range(c.depth):
            setattr(self, f"layer{i}", PerceiverLayer(self.dim, c, self.dtype))
        self.norm = layer_norm(1e-5, self.dtype)

    def __call__(self, memory: Array) -> Array:
        """Raises ValueError if the memory's grid is not a multiple of the latents' grid, or the
        windows are not square."""
        m, h, w, _ = memory.shape
        rows, cols = self.config.grid
        window = h // rows
        if h % rows or w % cols or w // cols != window:
            raise ValueError(
                f"a memory of {h}x{w} does not fall into {rows}x{cols} square windows; image size"
                " and the perceiver's grid must fit"
            )
        at = jnp.asarray(sine_positions((h, w), self.dim)).reshape(h * w, self.dim)
        x = jnp.broadcast_to(self.latents.astype(self.dtype), (m, *self.latents.shape))
        x = self._run(x, memory.reshape(m, h * w, -1), at)
        windows = to_windows(memory, window).reshape(m * rows * cols, window * window, -1)
        y = jnp.broadcast_to(self.spatial.astype(self.dtype), (m, *self.spatial.shape))
        y = self._run(y.reshape(m * rows * cols, 1, -1), windows, None)
        return self.norm(jnp.concatenate([x, y.reshape(m, rows * cols, -1)], axis=1))

    def _run(self, x: Array, tokens: Array, at: Array | None) -> Array:
        for i in range(self.config.depth):
            x = getattr(self, f"layer{i}")(x, tokens, at)
        return x

    @nn.nowrap
    def positions(self) -> np.ndarray:
        """[L, K]: zeros for the global latents, the grid's sines for the spatial ones."""
        c = self.config
        grid = sine_positions(c.grid, self.dim).reshape(-1, self.dim)
        return np.concatenate([np.zeros((c.latents, self.dim), np.float32), grid])
