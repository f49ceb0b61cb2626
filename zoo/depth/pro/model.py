"""Depth Pro: one image transformer reads overlapping pieces of a picture at three scales, another
one the whole of it, and a third one says the field of view.

The answer of the network is an inverse depth of a camera with a canonical focal length; the field
of view makes metres of it.

Source: Bochkovskii et al., "Depth Pro: Sharp Monocular Metric Depth in Less Than a Second" (arXiv
2410.02073); the order of operations is that of transformers' class.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.ranks import to_rank
from ....layers.streaming import DType
from ...encode.vit import ImageViT, ImageViTConfig
from ...per_frame import PerFrame
from ...ranges import Checked, Count, Share, Whole
from ..decoder import ResidualUnit, resize_linear
from ..outputs import Depth
from .pieces import cut, joined

Array = jax.Array
NEAR, FAR = 1e4, 1e-4  # of an inverse depth
LARGE = ImageViTConfig(
    (384, 384), 16, 1024, 24, 16, layer_scale=1e-5, table_grid=(24, 24), pool="none"
)


@dataclasses.dataclass(frozen=True)
class DepthProConfig(Checked):
    """Shapes of the network.

    Attributes:
      encoder: of the pieces; that of the whole picture and that of the field of view are like it.
      size: side of the square that a picture is brought to.
      ratios, overlaps: of the pictures that are cut, the smallest first, and of their pieces.
      scaled: channels of the map of each.
      hooks: blocks of the pieces' encoder, from 0, whose tokens are read, too.
      between: channels of the map of each of these.
      fused: channels of every map that is fused.
      padding: cells of the finest pictures' pieces that are cut away where pieces meet.
      fov: there is a network that says the field of view; without, depth is relative.
      fov_layers: convolutions of its head.
    """

    encoder: ImageViTConfig = LARGE
    size: Count = 1536
    ratios: tuple[Share, ...] = (0.25, 0.5, 1.0)
    overlaps: tuple[Share, ...] = (0.0, 0.5, 0.25)
    scaled: tuple[Count, ...] = (1024, 1024, 512)
    hooks: tuple[Whole, ...] = (11, 5)
    between: tuple[Count, ...] = (256, 256)
    fused: Count = 256
    padding: Whole = 3
    fov: bool = True
    fov_layers: Count = 2
    dtype: DType = "float32"

    def __post_init__(self):
        super().__post_init__()
        if not len(self.ratios) == len(self.overlaps) == len(self.scaled):
            raise ValueError(f"ratios {self.ratios}: one overlap and one width for each")
        if len(self.hooks) != len(self.between) or not self.hooks:
            raise ValueError(f"hooks {self.hooks}: one width for each, and at least one")
        if min(self.ratios) * self.size < self.encoder.image_size[0]:
            raise ValueError(
                f"size {self.size}: at a ratio of {min(self.ratios)} it is smaller than a piece"
            )

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) the model is meant for."""
        return self.size, self.size


class Up(nn.Module):
    """A transposed convolution that makes 2 x 2 cells of every cell: [M, h, w, C] -> 2 h, 2 w."""

    width: int
    bias: bool = False
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        m, h, w, c = x.shape
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (2, 2, c, self.width))
        y = jnp.einsum("mhwi,abio->mhawbo", x, kernel.astype(self.dtype))
        y = y.reshape(m, 2 * h, 2 * w, self.width)
        if not self.bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        return y + to_rank(bias.astype(self.dtype), y)


class Rise(nn.Module):
    """A dense layer to ``first`` channels, then ``times`` doublings of the sides."""

    first: int
    width: int
    times: int
    dtype: DType = jnp.float32

    def setup(self):
        self.into = nn.Dense(self.first, use_bias=False, dtype=self.dtype)
        self.ups = [Up(self.width, dtype=self.dtype) for _ in range(self.times)]

    def __call__(self, x: Array) -> Array:
        x = self.into(x)
        for up in self.ups:
            x = up(x)
        return x


class FuseUp(nn.Module):
    """Adds a map to what comes from below and doubles the sides of the sum.

    Attributes:
      merges: there is a map to add; rises: the sides are doubled.
    """

    dim: int
    merges: bool = True
    rises: bool = True
    dtype: DType = jnp.float32

    def setup(self):
        if self.merges:
            self.unit1 = ResidualUnit(self.dim, dtype=self.dtype)
        self.unit2 = ResidualUnit(self.dim, dtype=self.dtype)
        if self.rises:
            self.up = Up(self.dim, dtype=self.dtype)
        self.out = nn.Dense(self.dim, dtype=self.dtype)

    def __call__(self, x: Array, other: Array | None) -> Array:
        if self.merges and other is not None:
            x = x + self.unit1(other)
        x = self.unit2(x)
        return self.out(self.up(x) if self.rises else x)


def _conv(width: int, dtype: DType, bias: bool = True, strides: int = 1) -> nn.Conv:
    return nn.Conv(width, (3, 3), strides=strides, padding=1, use_bias=bias, dtype=dtype)


class View(nn.Module):
    """The horizontal field of view in degrees: pictures and the coarsest fused map -> [M]."""

    config: DepthProConfig

    def setup(self):
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)
        self.encoder = ImageViT(encoder_of(cfg))
        self.neck = nn.Dense(cfg.fused // 2, dtype=dtype)
        self.narrow = _conv(cfg.fused // 2, dtype, strides=2)
        widths = [-(-cfg.fused // 2 ** (i + 2)) for i in range(cfg.fov_layers)]
        self.layers = [_conv(width, dtype, strides=2) for width in widths]
        grid = cfg.encoder.table[0]
        side = int((grid - 1) / 2**cfg.fov_layers + 1)
        self.last = nn.Conv(1, (side, side), padding="VALID", dtype=dtype)

    def __call__(self, pictures: Array, whole: Array) -> Array:
        x = self.neck(
            self.encoder(resize_linear(pictures, self.config.encoder.image_size)).features
        )
        below = nn.relu(self.narrow(whole))
        x = resize_linear(x, below.shape[1:3]) + below
        x = resize_linear(x, self.config.encoder.table)
        for layer in self.layers:
            x = nn.relu(layer(x))
        return self.last(x).reshape(x.shape[0]).astype(jnp.float32)


def encoder_of(config: DepthProConfig) -> ImageViTConfig:
    """Any of the three encoders."""
    return dataclasses.replace(
        config.encoder, dtype=config.dtype, final_norm="tokens", pool="none", projection=0
    )


class DepthPro(PerFrame[Depth]):
    """Metric depth of every frame; keeps no memory, so its carry is empty."""

    config: DepthProConfig
    task = "depth"

    def setup(self):
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)
        self.pieces, self.whole = ImageViT(encoder_of(cfg)), ImageViT(encoder_of(cfg))
        self.whole_up = Up(cfg.scaled[0], True, dtype)
        self.scaled_up = [Rise(width, width, 1, dtype) for width in cfg.scaled]
        self.between_up = [
            Rise(cfg.fused if i == 0 else width, width, 2 + i, dtype)
            for i, width in enumerate(cfg.between)
        ]
        self.merge = nn.Dense(cfg.scaled[0], dtype=dtype)
        widths = (*cfg.scaled, *cfg.between)
        same = widths[-1] == cfg.fused  # then the last one goes in as it is
        self.narrow = [_conv(cfg.fused, dtype, bias=False) for _ in widths[: len(widths) - same]]
        last = len(widths) - 1
        self.fuse = [FuseUp(cfg.fused, i > 0, i < last, dtype) for i in range(len(widths))]
        self.conv1, self.grow = _conv(cfg.fused // 2, dtype), Up(cfg.fused // 2, True, dtype)
        self.conv2, self.conv3 = _conv(32, dtype), nn.Dense(1, dtype=dtype)
        if cfg.fov:
            self.view = View(cfg)

    def find(self, pictures: Array) -> Depth:
        """Pictures [M, H, W, 3] of the card's range, of any size -> maps [M, H, W]."""
        size = pictures.shape[1], pictures.shape[2]
        inverse, view = self.canonical(resize_linear(pictures, self.config.image_size))
        every = jnp.ones(inverse.shape[:1], bool)
        if view is None:
            return Depth(resize_linear(inverse[..., None], size)[..., 0], ~every, every)
        # width over focal length
        share = 2 * jnp.tan(jnp.deg2rad(view) / 2)
        inverse = resize_linear((inverse * share[:, None, None])[..., None], size)[..., 0]
        return Depth(1 / jnp.clip(inverse, FAR, NEAR), every, every)

    def canonical(self, pictures: Array) -> tuple[Array, Array | None]:
        """Square pictures [M, size, size, 3] -> (inverse depth of the canonical camera
        [M, size', size'], degrees of view [M] or None)."""
        maps = self.maps(pictures)
        x = self.fuse[0](maps[0], None)
        for fuse, one in zip(self.fuse[1:], maps[1:], strict=True):
            x = fuse(x, one)
        x = nn.relu(self.conv2(self.grow(self.conv1(x))))
        inverse = nn.relu(self.conv3(x)).astype(jnp.float32)[..., 0]
        return inverse, self.view(pictures, maps[0]) if self.config.fov else None

    def maps(self, pictures: Array) -> list[Array]:
        """The maps that are fused, the coarsest first."""
        cfg = self.config
        grid, piece = cfg.encoder.table[0], cfg.encoder.image_size[0]
        base = cfg.size // 2 ** ((cfg.size // grid).bit_length() - 1)  # cells of the coarsest
        sets = []
        for ratio, overlap in zip(cfg.ratios, cfg.overlaps, strict=True):
            side = int(cfg.size * ratio)
            sets.append(cut(resize_linear(pictures, (side, side)), piece, overlap))
        batch = pictures.shape[0]
        every = jnp.concatenate(sets).reshape(-1, piece, piece, 3)
        out = self.pieces(every, taps=("hidden",))
        assert out.taps is not None and out.features is not None
        counts = [len(one) for one in sets]
        grouped = lambda x: x.reshape(sum(counts), batch, grid, grid, x.shape[-1])
        last, starts = grouped(out.features), [sum(counts[:i]) for i in range(len(counts))]
        found = []
        for i, (start, count) in enumerate(zip(starts, counts, strict=True)):
            pad = int(cfg.padding / cfg.ratios[i])
            x = joined(last[start : start + count], pad)
            found.append(self.scaled_up[i](resize_linear(x, (base * 2**i, base * 2**i))))
        top = base * 2 ** (len(counts) - 1)
        for hook, up in zip(cfg.hooks, self.between_up, strict=True):
            x = out.taps["hidden"][hook][:, cfg.encoder.prefix :]
            x = joined(grouped(x)[starts[-1] :], int(cfg.padding / cfg.ratios[-1]))
            found.append(up(resize_linear(x, (top, top))))
        whole = self.whole(resize_linear(pictures, (piece, piece))).features
        assert whole is not None
        whole = self.whole_up(resize_linear(whole, (base, base)))
        found[0] = self.merge(jnp.concatenate([found[0], whole], axis=-1))
        return [self.narrow[i](x) if i < len(self.narrow) else x for i, x in enumerate(found)]
