"""Boxes of a frame that show what a concept is, or what it is not, as tokens of the prompt."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.positions import waves
from ....layers.roi_align import roi_align
from ....layers.transformer import layer_norm
from .blocks import EPS, ReadBlock
from .config import Sam3Config

Array = jax.Array


class ExemplarEncoder(nn.Module):
    """Exemplars to tokens that have read the frame."""

    config: Sam3Config

    def setup(self):
        c = self.config
        normal = nn.initializers.normal(1.0)
        self.kinds = self.param("kinds", normal, (2, c.dim))  # what it is not, what it is
        self.all = self.param("all", normal, (c.dim,))
        self.cells_norm = layer_norm(EPS, c.dtype)
        self.corners = nn.Dense(c.dim, dtype=c.dtype)
        self.pooled = nn.Dense(c.dim, dtype=c.dtype)
        self.places = nn.Dense(c.dim, dtype=c.dtype)
        self.project = nn.Dense(c.dim, dtype=c.dtype)
        self.project_norm = layer_norm(EPS, c.dtype)
        self.blocks = [ReadBlock(c) for _ in range(c.exemplar_depth)]
        self.norm = layer_norm(EPS, c.dtype)

    def __call__(self, boxes: Array, kinds: Array, cells: Array, at: Array) -> Array:
        """Tokens of K exemplars and, behind them, one that stands for all.

        Args:
          boxes: [M, K, 4] x1, y1, x2, y2 as fractions of the frame.
          kinds: [M, K] int32, 1 for what the concept is, 0 for what it is not, -1 for no box.
          cells: [M, h, w, D], the coarsest map of the frame.
          at: [h * w, D], their positions.

        Returns:
          [M, K + 1, D]; of boxes that are not there, anything.
        """
        c, there = self.config, kinds >= 0
        boxes = jnp.where(there[..., None], boxes, 0.0)
        x1, y1, x2, y2 = jnp.moveaxis(boxes, -1, 0)
        x, y, width, height = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
        half = c.dim // 2
        # the old rule of RoIAlign, with one sample per cell of the map
        patch = roi_align(
            self.cells_norm(cells), boxes, size=c.roi, sampling_ratio=0, aligned=False, mask=there
        )
        place = [waves(y, half), waves(x, half), height[..., None], width[..., None]]
        tokens = (
            self.corners(jnp.stack([x, y, width, height], axis=-1))
            + self.pooled(patch.reshape(*boxes.shape[:2], -1))
            + self.places(jnp.concatenate(place, axis=-1))
            + self.kinds[jnp.maximum(kinds, 0)].astype(c.dtype)
        )
        every = jnp.broadcast_to(self.all.astype(c.dtype), (boxes.shape[0], 1, c.dim))
        tokens = self.project_norm(self.project(jnp.concatenate([tokens, every], axis=1)))
        valid = jnp.pad(there, ((0, 0), (0, 1)), constant_values=True)
        flat = cells.reshape(cells.shape[0], -1, c.dim)
        for block in self.blocks:
            tokens = block(tokens, flat, read_at=at[None], valid=valid)
        return self.norm(tokens)
