"""Pictures to maps of one width, at a quarter, half and all of the patch.

Source: Li et al., ViTDet (arXiv 2203.16527), section 3, whose simple pyramid is made of the last
map of a plain trunk alone.
"""

from __future__ import annotations

import flax.linen as nn
import jax

from ....layers.streaming import DType
from ....layers.transformer import gelu
from ..decoder import Double
from ..window_vit import WindowVit, WindowVitConfig

Array = jax.Array


class Level(nn.Module):
    """A map, doubled ``doubled`` times at half the width, then two convolutions to width D."""

    dim: int
    doubled: int
    dtype: DType

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[M, h, w, C] -> [M, 2^doubled h, 2^doubled w, D]."""
        for i in range(self.doubled):
            x = gelu(x) if i else x
            x = Double(x.shape[-1] // 2, self.dtype, name=f"double{i}")(x)
        x = nn.Conv(self.dim, (1, 1), dtype=self.dtype, name="conv1")(x)
        return nn.Conv(self.dim, (3, 3), dtype=self.dtype, name="conv2")(x)


class Pyramid(nn.Module):
    """Trunk and pyramid."""

    trunk_config: WindowVitConfig
    dim: int
    dtype: DType

    def setup(self):
        self.trunk = WindowVit(self.trunk_config, self.dtype)
        self.level0, self.level1, self.level2 = (
            Level(self.dim, doubled, self.dtype) for doubled in (2, 1, 0)
        )

    def __call__(self, pictures: Array) -> tuple[Array, Array, Array]:
        """[M, H, W, 3] -> maps [M, h, w, D], the finest first."""
        x, _ = self.trunk(pictures)
        return self.level0(x), self.level1(x), self.level2(x)
