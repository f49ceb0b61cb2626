"""Depth of single frames: an image transformer, four of whose layers a decoder reads.

Sources: MiDaS and DPT (arXiv 1907.01341, 2103.13413); Depth Anything (2401.10891) and V2
(2406.09414).
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from ...layers.positions import resize_cubic
from ...layers.streaming import DType
from ...layers.transformer.activations import ACTIVATIONS
from ..encode.vit import ImageViT, ImageViTConfig
from ..per_frame import PerFrame
from ..ranges import Checked, Count, Weight, Whole
from .decoder import Neck, resize_corners, resize_linear
from .outputs import Depth

Array = jax.Array
READOUTS = ("ignore", "project")
SMALL = ImageViTConfig(
    (518, 518), 14, 384, 12, 6, layer_scale=1e-5, table_grid=(37, 37), pool="none"
)


@dataclasses.dataclass(frozen=True)
class DepthConfig(Checked):
    """Shapes of a depth model.

    Attributes:
      encoder: the transformer.
      layers: four of its blocks, from 0, whose tokens are read.
      normed: these pass through the encoder's last norm (DINOv2).
      readout: the class token is left out ("ignore"), or each token is projected beside it.
      widths, fused, hidden: channels of the four maps, of the fused one, of the last but one.
      doubles: see :class:`~.decoder.Neck`.
      max_depth: metres of the farthest depth; 0 for a model of relative, inverse depth.
    """

    encoder: ImageViTConfig = SMALL
    layers: tuple[Whole, ...] = (2, 5, 8, 11)
    normed: bool = True
    readout: str = "ignore"
    widths: tuple[Count, ...] = (48, 96, 192, 384)
    fused: Count = 64
    hidden: Count = 32
    doubles: bool = False
    max_depth: Weight = 0.0
    dtype: DType = "float32"

    def __post_init__(self):
        super().__post_init__()
        if self.readout not in READOUTS:
            raise ValueError(f"readout {self.readout!r}: choose from {', '.join(READOUTS)}")
        if len(self.layers) != 4 or len(self.widths) != 4:
            raise ValueError(f"layers {self.layers} and widths {self.widths}: give four of each")
        if not all(0 <= layer < self.encoder.depth for layer in self.layers):
            raise ValueError(f"layers {self.layers}: the encoder has {self.encoder.depth}")

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) the model is meant for."""
        return self.encoder.image_size


class DepthHead(nn.Module):
    """A fused map -> one number per pixel, before its activation."""

    fused: int
    hidden: int
    dtype: DType = jnp.float32
    outputs: int = 1

    def setup(self):
        self.conv1 = nn.Conv(self.fused // 2, (3, 3), padding=1, dtype=self.dtype)
        self.conv2 = nn.Conv(self.hidden, (3, 3), padding=1, dtype=self.dtype)
        self.conv3 = nn.Dense(self.outputs, dtype=self.dtype)

    def __call__(self, x: Array, size: tuple[int, int], places: Array | None = None) -> Array:
        """x [M, h, w, fused] -> [M, *size, outputs]; ``places`` [*size, fused / 2] is added."""
        x = resize_corners(self.conv1(x), size)
        if places is not None:
            x = x + places[None].astype(x.dtype)
        return self.conv3(nn.relu(self.conv2(x)))


class DepthViT(PerFrame[Depth]):
    """Depth of every frame; keeps no memory, so its carry is empty."""

    config: DepthConfig
    task = "depth"

    def setup(self):
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)
        norm = "tokens" if cfg.normed else "none"
        encoder = dataclasses.replace(
            cfg.encoder, dtype=cfg.dtype, final_norm=norm, pool="none", projection=0
        )
        self.encoder = ImageViT(encoder)
        if cfg.readout == "project":
            self.readouts = [nn.Dense(encoder.dim, dtype=dtype) for _ in cfg.layers]
        self.neck = Neck(cfg.widths, cfg.fused, cfg.doubles, dtype=dtype)
        self.head = DepthHead(cfg.fused, cfg.hidden, dtype)

    def find(self, pictures: Array) -> Depth:
        """Pictures [M, H, W, 3] of the card's range, of any size -> maps [M, H, W].

        The network runs at the nearest multiples of its patch.
        """
        patch = self.config.encoder.patch
        size = pictures.shape[1], pictures.shape[2]
        height, width = (max(round(side / patch), 1) * patch for side in size)
        maps = self.tokens(resize_cubic(pictures, (height, width)))
        x = self.neck(maps)
        target = (2 * x.shape[1], 2 * x.shape[2]) if self.config.doubles else (height, width)
        raw = self.head(x, target).astype(jnp.float32)
        farthest = self.config.max_depth
        depth = farthest * nn.sigmoid(raw) if farthest else nn.relu(raw)
        depth = resize_linear(depth, size)[..., 0]
        every = jnp.ones(depth.shape[:1], bool)
        return Depth(depth, every if self.config.max_depth else ~every, every)

    def tokens(self, pictures: Array) -> list[Array]:
        """What the decoder reads: four maps [M, h, w, D]."""
        cfg = self.config
        out = self.encoder(pictures, taps=("hidden",))
        assert out.taps is not None and out.features is not None
        first, found = cfg.encoder.prefix, []
        for i, layer in enumerate(cfg.layers):
            x = out.taps["hidden"][layer]
            if cfg.normed:
                x = self.encoder.norm(x)
            x, top = x[:, first:], x[:, :1]
            if cfg.readout == "project":
                beside = jnp.broadcast_to(top, x.shape)
                x = self.readouts[i](jnp.concatenate([x, beside], axis=-1))
                x = ACTIVATIONS[cfg.encoder.activation](x)
            found.append(x.reshape(out.features.shape))
        return found
