"""Trunk and neck: frames to maps of one width, at strides 4, 8 and 16, or at 16 alone."""

from __future__ import annotations

import flax.linen as nn
import jax

from ...layers.streaming import DType
from ..encode.repvit.model import RepViT, RepViTConfig
from .hiera import Hiera, HieraConfig
from .neck import FpnNeck
from .window_vit import MapEncoder, WindowVitConfig

Array = jax.Array
Trunk = HieraConfig | RepViTConfig | WindowVitConfig


def build_encoder(trunk: Trunk, dim: int, top_down: tuple[int, ...], dtype: DType) -> nn.Module:
    """The encoder for a trunk's config: [N, H, W, 3] -> maps, fine to coarse."""
    if isinstance(trunk, WindowVitConfig):
        return SingleMap(trunk, dim, dtype)
    return PyramidEncoder(trunk, dim, top_down, dtype)


class SingleMap(MapEncoder):
    """A plain ViT and its neck: [N, H, W, 3] -> ([N, H/16, W/16, D],)."""

    def __call__(self, frames: Array, hidden: bool = False) -> tuple[Array, ...]:  # pyright: ignore
        return (super().__call__(frames)[0],)


class PyramidEncoder(nn.Module):
    """Trunk of four stages and a feature pyramid.

    [N, H, W, 3] -> ([N, H/4, W/4, D], [N, H/8, W/8, D], [N, H/16, W/16, D]).
    """

    trunk_config: HieraConfig | RepViTConfig
    dim: int
    top_down: tuple[int, ...]
    dtype: DType

    def setup(self):
        c = self.trunk_config
        self.trunk = RepViT(c) if isinstance(c, RepViTConfig) else Hiera(c, self.dtype)
        self.neck = FpnNeck(self.dim, 4, self.top_down, 3, self.dtype)

    def __call__(self, frames: Array) -> tuple[Array, ...]:
        trunk = self.trunk
        maps = trunk.pyramid(frames) if isinstance(trunk, RepViT) else trunk(frames)
        return self.neck(tuple(maps))
