"""From features of a picture to tokens of a language model."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from ...layers.policies.pooling import pool_grid
from ...layers.streaming import Array, DType
from ...layers.transformer import ACTIVATIONS


class VideoProjector(nn.Module):
    """LLaVA-OneVision: two layers, then a grid of half the side; a mark stands behind the video.

    features [..., h, w, V] -> tokens [..., ceil(h / 2) * ceil(w / 2), D]. ``newline`` [D] is the
    mark, as a parameter. Source: Li et al., "LLaVA-OneVision" (arXiv 2408.03326).
    """

    dim: int
    dtype: DType = jnp.float32

    def setup(self):
        self.up = nn.Dense(self.dim, dtype=self.dtype)
        self.down = nn.Dense(self.dim, dtype=self.dtype)
        self.newline = self.param("newline", nn.initializers.normal(0.02), (self.dim,))

    def __call__(self, features: Array) -> Array:
        x = self.down(ACTIVATIONS["gelu"](self.up(features)))
        pooled = pool_grid(x, 2, "bilinear")
        return pooled.reshape(*pooled.shape[:-3], -1, self.dim)


class PixelShuffle(nn.Module):
    """SmolVLM: cells of ``factor`` x ``factor`` patches side by side, then one linear map.

    features [..., h, w, V] -> tokens [..., h w / factor^2, D]. Source: Marafioti et al., "SmolVLM"
    (arXiv 2504.05299).
    """

    dim: int
    factor: int = 4
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, features: Array) -> Array:
        *lead, rows, cols, width = features.shape
        f = self.factor
        x = features.reshape(*lead, rows // f, f, cols // f, f, width).swapaxes(-4, -3)
        x = x.reshape(*lead, (rows // f) * (cols // f), f * f * width)
        return nn.Dense(self.dim, use_bias=False, dtype=self.dtype, name="project")(x)
