"""Text and picture look at each other, then each at itself.

Source: Liu et al., "Grounding DINO" (arXiv 2303.05499), section 3.1 and figure 3, block 2; the
fusion is that of Li et al., "GLIP" (arXiv 2112.03857), section 3.2.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ....layers.deformable import Deformable, Sizes
from ....layers.kernels.attention import attention
from ....layers.positions import waves
from ....layers.transformer import LayerScale, Mlp, layer_norm
from ...segment.decoder import CrossAttention
from .config import GroundingConfig
from .phrases import Phrases

Array = jax.Array


def centres(sizes: Sizes) -> np.ndarray:
    """[S, 2] x, y of the middles of all cells as fractions of the frame."""
    found = []
    for height, width in sizes:
        row, col = np.divmod(np.arange(height * width), width)
        found.append(np.stack([(col + 0.5) / width, (row + 0.5) / height], axis=-1))
    return np.concatenate(found).astype(np.float32)


class Fusion(nn.Module):
    """Cells read the text and tokens read the picture, both by the same products."""

    config: GroundingConfig

    def setup(self):
        c = self.config
        self.norm_cells, self.norm_text = (layer_norm(c.eps, c.dtype) for _ in range(2))
        for name in ("cells", "text", "cells_value", "text_value"):
            setattr(self, name, nn.Dense(c.encoder_hidden // 2, dtype=c.dtype))
        self.cells_out, self.text_out = (nn.Dense(c.dim, dtype=c.dtype) for _ in range(2))
        self.cells_gain, self.text_gain = (LayerScale(c.dim, 1e-4, c.dtype) for _ in range(2))

    def __call__(self, cells: Array, text: Array, valid: Array) -> tuple[Array, Array]:
        """cells [M, S, D], text [M, N, D], valid [M, N] -> both, changed."""
        x, y = self.norm_cells(cells), self.norm_text(text)
        heads = self.config.encoder_heads // 2
        cut = lambda a: a.reshape(*a.shape[:2], heads, -1)
        q, k = cut(self.cells(x)), cut(self.text(y))
        read = attention(q, k, cut(self.text_value(y)), mask=valid[:, None, None])
        told = attention(k, q, cut(self.cells_value(x)))
        read, told = (a.reshape(*a.shape[:2], -1) for a in (read, told))
        # what is read is added to the normed, unlike in a pre-norm block
        return x + self.cells_gain(self.cells_out(read)), y + self.text_gain(self.text_out(told))


class TextBlock(nn.Module):
    """The tokens of a phrase among themselves; norms stand behind the sums."""

    config: GroundingConfig

    def setup(self):
        c = self.config
        self.attn = CrossAttention(c.dim, c.encoder_heads // 2, c.dim, c.dtype)
        self.mlp = Mlp(c.dim, c.encoder_hidden // 2, c.activation, c.dtype)
        self.norm1, self.norm2 = (layer_norm(c.eps, c.dtype) for _ in range(2))

    def __call__(self, x: Array, phrases: Phrases) -> Array:
        """x [M, N, D] -> [M, N, D]."""
        at = x + waves(phrases.place, self.config.dim).astype(x.dtype)
        x = self.norm1(x + self.attn(at, at, x, phrases.sees))
        return self.norm2(x + self.mlp(x))


class CellBlock(nn.Module):
    """The cells of the pyramid among themselves; norms stand behind the sums."""

    config: GroundingConfig

    def setup(self):
        c = self.config
        self.attn = Deformable(c.dim, c.encoder_heads, c.levels, c.encoder_points, c.dtype)
        self.mlp = Mlp(c.dim, c.encoder_hidden, c.activation, c.dtype)
        self.norm1, self.norm2 = (layer_norm(c.eps, c.dtype) for _ in range(2))

    def __call__(self, x: Array, positions: Array, sizes: Sizes) -> Array:
        """x [M, S, D], positions [S, D] -> [M, S, D]."""
        at = jnp.broadcast_to(centres(sizes), (x.shape[0], x.shape[1], 2))
        x = self.norm1(x + self.attn(x + positions[None], at, x, sizes))
        return self.norm2(x + self.mlp(x))


class FusedBlock(nn.Module):
    """One block of the encoder."""

    config: GroundingConfig

    def setup(self):
        self.fusion = Fusion(self.config)
        self.text = TextBlock(self.config)
        self.cells = CellBlock(self.config)

    def __call__(
        self, cells: Array, text: Array, positions: Array, sizes: Sizes, phrases: Phrases
    ) -> tuple[Array, Array]:
        """cells [M, S, D], text [M, N, D] -> both, changed."""
        cells, text = self.fusion(cells, text, phrases.valid)
        return self.cells(cells, positions, sizes), self.text(text, phrases)
