"""Depth of single frames by a small decoder on a frozen EfficientNet-Lite0.

The maps of four resolutions become one width each, from the coarsest on they are enlarged and
added, and a last map says one number per pixel: an inverse depth. The mean of the coarsest map
tells every cell what the whole scene is, and two planes of coordinates where the cell lies.

Sources: the pyramid is Lin et al., "Feature Pyramid Networks" (arXiv 1612.03144); what is said and
how it is learned is MiDaS (arXiv 1907.01341). The network is ours.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.ranks import to_rank
from ....layers.streaming import DType
from ...encode.efficientnet.model import EfficientNetLite, EfficientNetLiteConfig
from ...per_frame import PerFrame
from ...ranges import Checked, Count, Size
from ...segment.propagate.model import Conv
from ..decoder import resize_linear
from ..outputs import Depth

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class NanoDepthConfig(Checked):
    """Shapes of the network.

    Attributes:
      image_size: (height, width) that it learned at; frames may have any size.
      trunk: the encoder, frozen: another file has its weights.
      width: channels of every map of the decoder.
    """

    image_size: Size = (192, 256)
    trunk: EfficientNetLiteConfig = EfficientNetLiteConfig(head=0, num_classes=0)
    width: Count = 36
    dtype: DType = "float32"


class Unit(nn.Module):
    """x + conv(relu(conv(relu(x)))), maps [M, h, w, C]."""

    width: int
    dtype: DType

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = Conv(self.width, self.dtype, name="into")(nn.relu(x))
        return x + Conv(self.width, self.dtype, name="back")(nn.relu(y))


def places(x: Array) -> Array:
    """Of maps [M, h, w, C] the row and the column of each cell, -1 to 1: [M, h, w, 2]."""
    m, h, w, _ = x.shape
    axes = (jnp.linspace(-1, 1, n, dtype=x.dtype) for n in (h, w))
    both = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1)
    return jnp.broadcast_to(both[None], (m, h, w, 2))


class DepthNano(PerFrame[Depth]):
    """Inverse depth of every frame; keeps no memory, so its carry is empty."""

    config: NanoDepthConfig
    task = "depth"

    def setup(self):
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)
        self.trunk = EfficientNetLite(dataclasses.replace(cfg.trunk, dtype=cfg.dtype))
        self.sides = [nn.Dense(cfg.width, dtype=dtype) for _ in range(4)]
        self.scene = nn.Dense(cfg.width, dtype=dtype)
        self.units = [Unit(cfg.width, dtype) for _ in range(4)]
        self.narrow = Conv(16, dtype)
        self.last = nn.Dense(1, dtype=dtype)

    def find(self, pictures: Array) -> Depth:
        """Pictures [M, H, W, 3] of the card's range, of any size -> maps [M, H, W]."""
        size = pictures.shape[1], pictures.shape[2]
        *fine, deep = self.trunk.levels(pictures)
        whole = self.scene(deep.mean(axis=(1, 2)))
        x = self.sides[3](jnp.concatenate([deep, places(deep)], axis=-1))
        x = self.units[3](x + to_rank(whole[:, None, None], x))
        for i in (2, 1, 0):
            x = resize_linear(x, fine[i].shape[1:3]) + self.sides[i](fine[i])
            x = self.units[i](x)
        raw = self.last(nn.relu(self.narrow(nn.relu(x)))).astype(jnp.float32)
        depth = nn.softplus(resize_linear(raw, size)[..., 0])
        every = jnp.ones(depth.shape[:1], bool)
        return Depth(depth, ~every, every)
