"""ConvNeXt as DINOv3 and EUPE distil it: a convolutional image encoder with dense features.

Sources: Liu et al., "A ConvNet for the 2020s" (arXiv 2201.03545); Simeoni et al., "DINOv3" (arXiv
2508.10104), section 5.2: no class token, so the mean over the last map stands for the frame, and
one norm serves both. EUPE (arXiv 2603.22387) trains the same network.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.conv2d import Depthwise
from ....layers.streaming import DType
from ....layers.transformer import LayerScale, Mlp, Taps, layer_norm
from ...checks import check_images, check_taps
from ..outputs import EncoderOutput

Array = jax.Array

TAPS = ("stages",)


@dataclasses.dataclass(frozen=True)
class ConvNeXtConfig:
    """Shapes of a ConvNeXt; the defaults are Tiny.

    Attributes:
      widths, depths: channels and blocks per stage.
      filter: side of the depthwise filters, odd.
      activation: a name of ``layers.transformer.ACTIVATIONS``.
      eps: of all norms.
      layer_scale: initial gain of a block's branch.
      dtype: compute type; parameters are fp32.
    """

    image_size: tuple[int, int] = (224, 224)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (3, 3, 9, 3)
    filter: int = 7
    activation: str = "gelu"
    eps: float = 1e-6
    layer_scale: float = 1e-6
    dtype: DType = "float32"

    def __post_init__(self):
        if len(self.widths) != len(self.depths) or not self.widths:
            raise ValueError(f"{len(self.widths)} widths and {len(self.depths)} depths: one each")
        if self.filter % 2 == 0:
            raise ValueError(f"filters of side {self.filter}: an odd side has a middle")

    @property
    def stride(self) -> int:
        """Pixels per cell of the last map."""
        return 4 * 2 ** (len(self.widths) - 1)


def patches(x: Array, side: int) -> Array:
    """Squares of cells side by side: x [M, H, W, C] -> [M, H / side, W / side, side^2 C].

    Rows and columns that fill no square are left out, as a strided convolution does.
    """
    m, height, width, c = x.shape
    rows, cols = height // side, width // side
    x = x[:, : rows * side, : cols * side].reshape(m, rows, side, cols, side, c)
    return x.swapaxes(2, 3).reshape(m, rows, cols, side * side * c)


class ConvNeXtBlock(nn.Module):
    """Filter each channel, norm, MLP, gain, residual. x [M, H, W, C] -> the same."""

    dim: int
    config: ConvNeXtConfig

    def setup(self):
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)
        self.mixer = Depthwise(self.dim, cfg.filter, dtype=dtype)
        self.norm = layer_norm(cfg.eps, dtype)
        self.mlp = Mlp(self.dim, 4 * self.dim, cfg.activation, dtype)
        self.scale = LayerScale(self.dim, cfg.layer_scale, dtype)

    def __call__(self, x: Array, _: None = None) -> tuple[Array, None]:
        return x + self.scale(self.mlp(self.norm(self.mixer(x)))), None


class Stage(nn.Module):
    """A downsampling (norm before it, or after it in the first stage) and ``depth`` blocks."""

    index: int
    config: ConvNeXtConfig

    def setup(self):
        cfg, dim = self.config, self.config.widths[self.index]
        dtype = jnp.dtype(cfg.dtype)
        self.down = nn.Dense(dim, dtype=dtype)
        self.norm = layer_norm(cfg.eps, dtype)
        stack = nn.scan(
            ConvNeXtBlock,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=cfg.depths[self.index],
        )
        self.blocks = stack(dim, cfg)

    def __call__(self, x: Array) -> Array:
        if self.index:
            x = self.down(patches(self.norm(x), 2))
        else:
            x = self.norm(self.down(patches(x, 4)))
        return self.blocks(x, None)[0]


class ConvNeXt(nn.Module):
    """Feature maps of single frames."""

    config: ConvNeXtConfig
    task = "encode"

    def setup(self):
        cfg = self.config
        self.stages = [Stage(i, cfg) for i in range(len(cfg.widths))]
        self.norm = layer_norm(cfg.eps, jnp.dtype(cfg.dtype))

    def pyramid(self, frames: Array) -> tuple[Array, ...]:
        """The maps of all stages, not normed, finest first: frames [B, H, W, 3], normalised ->
        [B, H / 4, W / 4, C0], [B, H / 8, W / 8, C1], ..., odd sizes rounded down."""
        check_images(frames, 1, "ConvNeXt")
        least = self.config.stride
        if min(frames.shape[1:3]) < least:
            raise ValueError(
                f"ConvNeXt takes frames of at least {least}x{least} pixels, "
                f"got {frames.shape[1]}x{frames.shape[2]}"
            )
        x = frames.astype(self.config.dtype)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)

    def __call__(self, frames: Array, taps: Taps = ()) -> EncoderOutput:
        """frames [B, H, W, 3], normalised -> ``features`` [B, H / 32, W / 32, D] and ``pooled``
        [B, D], the mean over the map, both normed; tap ``stages``: the tuple of ``pyramid``.

        Raises:
          ValueError: frames of the wrong shape or type, unknown taps.
        """
        check_taps(taps, TAPS)
        maps = self.pyramid(frames)
        last = maps[-1]
        pooled = self.norm(last.astype(jnp.float32).mean(axis=(1, 2)).astype(last.dtype))
        found = {"stages": maps} if taps else None
        return EncoderOutput(self.norm(last), pooled, taps=found)
