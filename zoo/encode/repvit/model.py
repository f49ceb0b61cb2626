"""RepViT: a convolutional image encoder for phones, and the trunk of EdgeTAM.

Source: Wang et al., "RepViT: Revisiting Mobile CNN From ViT Perspective" (arXiv 2307.09283). The
form of inference: batch norms are folded into the convolutions, and the three branches of a
token mixer (3 x 3, 1 x 1 and identity) are one 3 x 3 depthwise filter.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.conv2d import Depthwise, SqueezeExcite
from ....layers.streaming import DType
from ....layers.transformer import Mlp, Taps, gelu
from ...checks import check_images, check_taps
from ..outputs import EncoderOutput

Array = jax.Array

TAPS = ("stem", "stages")


@dataclasses.dataclass(frozen=True)
class RepViTConfig:
    """Shapes of a RepViT; the defaults are M1.

    Attributes:
      widths, depths: channels and blocks per stage. Blocks alternate, with squeeze-and-excite and
        without, so depths are even.
      mlp_ratio: hidden over outer channels of a channel mixer.
      num_classes: of the classifier, 0 for none.
      dtype: compute type; parameters are fp32.
    """

    image_size: tuple[int, int] = (224, 224)
    widths: tuple[int, ...] = (48, 96, 192, 384)
    depths: tuple[int, ...] = (2, 2, 14, 2)
    mlp_ratio: float = 2.0
    num_classes: int = 0
    dtype: DType = "float32"

    def __post_init__(self):
        if len(self.widths) != len(self.depths) or not self.widths:
            raise ValueError(f"{len(self.widths)} widths and {len(self.depths)} depths: one each")
        for depth in self.depths:
            if depth % 2 or depth < 2:
                raise ValueError(f"depth {depth}: a stage has pairs of blocks, so 2, 4, 6, ...")

    @property
    def stride(self) -> int:
        """Pixels per cell of the last map."""
        return 2 ** (len(self.widths) + 1)


def squeezed_width(dim: int) -> int:
    """A quarter of the channels, to the nearest multiple of 8."""
    return max(8, (dim // 4 + 4) // 8 * 8)


class RepViTBlock(nn.Module):
    """Token mixer (3 x 3 per channel), maybe channel gates, channel mixer with a residual.

    x [M, H, W, C] -> [M, H, W, C].
    """

    dim: int
    hidden: int
    gated: bool
    dtype: DType

    def setup(self):
        self.mixer = Depthwise(self.dim, dtype=self.dtype)
        if self.gated:
            self.gate = SqueezeExcite(self.dim, squeezed_width(self.dim), self.dtype)
        self.mlp = Mlp(self.dim, self.hidden, dtype=self.dtype)

    def __call__(self, x: Array) -> Array:
        x = self.mixer(x)
        if self.gated:
            x = self.gate(x)
        return x + self.mlp(x)


class _Pair(nn.Module):
    """A block with gates and one without: the unit that is stacked and scanned."""

    dim: int
    hidden: int
    dtype: DType

    def setup(self):
        self.layer0 = RepViTBlock(self.dim, self.hidden, True, self.dtype)
        self.layer1 = RepViTBlock(self.dim, self.hidden, False, self.dtype)

    def __call__(self, x: Array, _: None) -> tuple[Array, None]:
        return self.layer1(self.layer0(x)), None


class Downsample(nn.Module):
    """x [M, H, W, C] -> [M, H / 2, W / 2, D]: a block, a strided filter, a widening, an MLP."""

    inside: int
    dim: int
    mlp_ratio: float
    dtype: DType

    def setup(self):
        hidden = int(self.inside * self.mlp_ratio)
        self.block = RepViTBlock(self.inside, hidden, False, self.dtype)
        self.spatial = Depthwise(self.inside, stride=2, dtype=self.dtype)
        self.channels = nn.Dense(self.dim, dtype=self.dtype)
        self.mlp = Mlp(self.dim, int(self.dim * self.mlp_ratio), dtype=self.dtype)

    def __call__(self, x: Array) -> Array:
        x = self.channels(self.spatial(self.block(x)))
        return x + self.mlp(x)


class Stage(nn.Module):
    """Maps of one resolution: maybe a downsampling, then ``depth`` blocks."""

    inside: int
    dim: int
    depth: int
    mlp_ratio: float
    downsample: bool
    dtype: DType

    def setup(self):
        if self.downsample:
            self.down = Downsample(self.inside, self.dim, self.mlp_ratio, self.dtype)
        stack = nn.scan(
            _Pair,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.depth // 2,
        )
        self.blocks = stack(self.dim, int(self.dim * self.mlp_ratio), self.dtype)

    def __call__(self, x: Array) -> Array:
        if self.downsample:
            x = self.down(x)
        return self.blocks(x, None)[0]


class RepViT(nn.Module):
    """Feature maps of single frames."""

    config: RepViTConfig
    task = "encode"

    def setup(self):
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)

        def strided(width):
            return nn.Conv(width, (3, 3), 2, padding=((1, 1), (1, 1)), dtype=dtype)

        self.stem1, self.stem2 = strided(cfg.widths[0] // 2), strided(cfg.widths[0])
        before = (cfg.widths[0], *cfg.widths[:-1])
        self.stages = [
            Stage(inside, dim, depth, cfg.mlp_ratio, i > 0, dtype)
            for i, (inside, dim, depth) in enumerate(
                zip(before, cfg.widths, cfg.depths, strict=False)
            )
        ]
        if cfg.num_classes:
            init, shape = nn.initializers.normal(0.02), (cfg.widths[-1], cfg.num_classes)
            self.head_kernel = self.param("head_kernel", init, shape)
            self.head_bias = self.param("head_bias", nn.initializers.zeros, shape[1:])

    def pyramid(self, frames: Array) -> tuple[Array, ...]:
        """The maps of all stages, finest first: frames [B, H, W, 3], normalised ->
        [B, H / 4, W / 4, 48], [B, H / 8, W / 8, 96], ..., odd sizes rounded up."""
        return self._maps(frames)[1:]

    def __call__(self, frames: Array, taps: Taps = ()) -> EncoderOutput:
        """frames [B, H, W, 3], normalised -> ``features`` [B, H / 32, W / 32, D], their mean
        ``pooled`` [B, D]; taps ``stem`` [B, H / 4, W / 4, C] and ``stages`` (tuple of maps).

        Raises:
          ValueError: frames of the wrong shape or type, unknown taps.
        """
        check_taps(taps, TAPS)
        stem, *stages = self._maps(frames)
        last = stages[-1]
        found = {"stem": stem, "stages": tuple(stages)}
        pooled = last.astype(jnp.float32).mean(axis=(1, 2)).astype(last.dtype)
        return EncoderOutput(last, pooled, taps={t: found[t] for t in taps} or None)

    def logits(self, frames: Array) -> Array:
        """frames [B, H, W, 3] -> class logits [B, num_classes].

        Raises ValueError for an encoder without classifier."""
        if not self.config.num_classes:
            raise ValueError("this RepViT has no classifier: num_classes is 0")
        pooled = self(frames).pooled
        return jnp.asarray(pooled, jnp.float32) @ self.head_kernel + self.head_bias

    def _maps(self, frames: Array) -> tuple[Array, ...]:
        check_images(frames, 1, "RepViT")
        x = self.stem2(gelu(self.stem1(frames.astype(self.config.dtype))))
        maps = [x]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return tuple(maps)
