"""Queries and cells become masks.

Source: Cheng et al., MaskFormer (arXiv 2107.06278), section 3.2, whose pixel decoder and products
SAM 3 takes over.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.transformer import layer_norm
from ..decoder import CrossAttention, MlpHead
from .blocks import EPS
from .config import Sam3Config

Array = jax.Array


class PixelDecoder(nn.Module):
    """Cells that read the prompt once more, brought to the finest map: a vector per pixel."""

    config: Sam3Config

    def setup(self):
        c = self.config
        self.norm = layer_norm(EPS, c.dtype)
        self.prompt = CrossAttention(c.dim, c.heads, c.dim, c.dtype)
        for i in range(2):
            setattr(self, f"conv{i}", nn.Conv(c.dim, (3, 3), dtype=c.dtype))
            norm = nn.GroupNorm(8, epsilon=EPS, use_fast_variance=False, dtype=c.dtype)
            setattr(self, f"norm{i}", norm)
        self.instances = nn.Dense(c.dim, dtype=c.dtype)
        self.whole = nn.Dense(1, dtype=c.dtype)
        self.query = MlpHead(c.dim, c.dim, 3, dtype=c.dtype)

    def __call__(
        self, cells: Array, maps: tuple[Array, Array], prompt: Array, valid: Array
    ) -> tuple[Array, Array]:
        """Encoded cells [M, h, w, D] and the two finer maps, the finest first.

        Returns:
          (what queries are compared with [M, 4h, 4w, D], logits of the concept [M, 4h, 4w]).
        """
        flat = cells.reshape(cells.shape[0], -1, cells.shape[-1])
        flat = flat + self.prompt(self.norm(flat), prompt, prompt, valid)
        x = flat.reshape(cells.shape)
        for i, finer in enumerate(maps[::-1]):
            x = x.repeat(2, axis=1).repeat(2, axis=2) + finer
            x = nn.relu(getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(x)))
        return self.instances(x), self.whole(x)[..., 0].astype(jnp.float32)
