"""Two tokens a frame: what a question looks for in it, and what it holds.

Source: Li et al., "LLaMA-VID: An Image is Worth 2 Tokens in Large Language Models" (arXiv
2311.17043), section 3.2, and its code, dvlab-research/LLaMA-VID.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from .policies.pooling import pool_clip
from .streaming import Array, DType
from .transformer import ACTIVATIONS


class ContextContent(nn.Module):
    """(queries [B, T, Q, C] of a text, patches [B, T, N, V]) -> tokens [B, T, 1 + M, D].

    The first is the context token: queries attend to the patches, whose own features are the
    values, and the mean over queries is projected. The others are the content: the mean of all
    patches, or of cells of a grid, projected by two layers.

    Attributes:
      query: C, width of the queries.
      dim: D, width of a token.
      grid: cells a side of the content; 0 keeps every patch.
      dtype: compute type.

    Raises:
      ValueError: patches that are no square, where there is a grid.
    """

    query: int
    dim: int
    grid: int = 1
    dtype: DType = jnp.float32

    def setup(self):
        self.key = nn.Dense(self.query, dtype=self.dtype)
        self.value = nn.Dense(self.dim, dtype=self.dtype)
        self.up = nn.Dense(self.dim, dtype=self.dtype)
        self.down = nn.Dense(self.dim, dtype=self.dtype)

    def __call__(self, queries: Array, patches: Array) -> Array:
        # the scale is of the patches' width, as published, though keys have the queries'
        scale = patches.shape[-1] ** -0.5
        scores = jnp.einsum("btqc,btnc->btqn", queries, self.key(patches)) * scale
        weights = nn.softmax(scores.astype(jnp.float32), axis=-1).astype(patches.dtype)
        context = self.value(jnp.einsum("btqn,btnv->btqv", weights, patches).mean(axis=2))
        content = self.down(ACTIVATIONS["gelu"](self.up(self._pooled(patches))))
        return jnp.concatenate([context[:, :, None], content], axis=2)

    def _pooled(self, patches: Array) -> Array:
        if self.grid == 0:
            return patches
        batch, steps, count, width = patches.shape
        side = round(count**0.5)
        if side * side != count:
            raise ValueError(f"{count} patches are no square")
        cells = patches.reshape(batch, steps, 1, side, side, width)
        pooled = pool_clip(cells, (1, self.grid, self.grid))
        return pooled.reshape(batch, steps, -1, width)
