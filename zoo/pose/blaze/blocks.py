"""What BlazePose's two networks are built of: a trunk after EfficientNet and separable filters."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax

from ....layers.conv2d import depthwise_conv2d
from ...encode.efficientnet.model import MBConv, conv, depthwise, relu6

Array = jax.Array


class Stage(NamedTuple):
    kernel: int
    level: int  # place of the width that comes out
    expand: int
    stride: int


BLOCKS = (
    Stage(3, 1, 1, 1), Stage(3, 2, 4, 2), Stage(3, 2, 6, 1), Stage(5, 3, 6, 2), Stage(5, 3, 6, 1),
    Stage(3, 4, 6, 2), Stage(3, 4, 6, 1), Stage(3, 4, 6, 1), Stage(5, 5, 6, 1), Stage(5, 5, 6, 1),
    Stage(5, 5, 6, 1), Stage(5, 6, 6, 2), Stage(5, 6, 6, 1), Stage(5, 6, 6, 1), Stage(5, 6, 6, 1),
)  # fmt: skip
EXPAND = 6  # of what follows the last block
HALVES = tuple(i for i, stage in enumerate(BLOCKS) if stage.stride == 2)  # blocks of stride 2


class Separable(nn.Module):
    """3 x 3 filter per channel, then 1 x 1: [M, H, W, C] -> [M, H / stride, W / stride, width].

    ``acts``: whether each of the two is cut to 0..6. ``middle``: all sides are padded alike with a
    stride of 2 too.
    """

    inside: int
    width: int
    acts: tuple[bool, bool] = (True, True)
    stride: int = 1
    middle: bool = False

    def setup(self):
        init, zeros = nn.initializers.he_normal(), nn.initializers.zeros
        self.depth_kernel = self.param("depth_kernel", init, (3, 3, 1, self.inside))
        self.depth_bias = self.param("depth_bias", zeros, (self.inside,))
        self.point_kernel = self.param("point_kernel", init, (1, 1, self.inside, self.width))
        self.point_bias = self.param("point_bias", zeros, (self.width,))

    def __call__(self, x: Array) -> Array:
        filtered = depthwise_conv2d if self.middle else depthwise
        x = filtered(x, self.depth_kernel, self.depth_bias, self.stride)
        x = relu6(x) if self.acts[0] else x
        x = conv(x, self.point_kernel, self.point_bias, 1)
        return relu6(x) if self.acts[1] else x


class Residual(nn.Module):
    """A separable filter added to its input, which a stride of 2 pools. ``act``: its first half
    is cut to 0..6."""

    width: int
    act: bool = True
    stride: int = 1

    def setup(self):
        self.filter = Separable(self.width, self.width, (self.act, False), self.stride)

    def __call__(self, x: Array) -> Array:
        y = self.filter(x)
        if self.stride != 1:
            x = nn.max_pool(x, (2, 2), (2, 2))
        return relu6(x + y)


class Trunk(nn.Module):
    """RGB [M, H, W, 3], sides multiples of 32 -> the map at stride 32 [M, h, w, 6 * widths[-1]]
    and the inputs of the four blocks of stride 2, fine first."""

    widths: tuple[int, ...]  # of the stem and of six levels

    def setup(self):
        init, zeros = nn.initializers.he_normal(), nn.initializers.zeros
        self.stem = nn.Conv(self.widths[0], (3, 3), (2, 2), padding=1)
        blocks, inside = [], self.widths[0]
        for stage in BLOCKS:
            width = self.widths[stage.level]
            blocks.append(
                MBConv(stage.kernel, inside, width, stage.expand, stage.stride, middle=True)
            )
            inside = width
        self.blocks = blocks
        wide = inside * EXPAND
        self.wide_kernel = self.param("wide_kernel", init, (1, 1, inside, wide))
        self.wide_bias = self.param("wide_bias", zeros, (wide,))
        self.last_kernel = self.param("last_kernel", init, (3, 3, 1, wide))
        self.last_bias = self.param("last_bias", zeros, (wide,))

    def __call__(self, x: Array) -> tuple[Array, list[Array]]:
        x = relu6(self.stem(x))
        skipped = []
        for i, block in enumerate(self.blocks):
            if i in HALVES:
                skipped.append(x)
            x = block(x)
        x = relu6(conv(x, self.wide_kernel, self.wide_bias, 1))
        return relu6(depthwise(x, self.last_kernel, self.last_bias, 1)), skipped


def double(x: Array) -> Array:
    """[M, H, W, C] at twice the size, bilinear."""
    m, h, w, c = x.shape
    return jax.image.resize(x, (m, 2 * h, 2 * w, c), "bilinear")
