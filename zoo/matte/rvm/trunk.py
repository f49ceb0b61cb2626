"""MobileNetV3 large as a trunk of maps at strides 2, 4, 8 and 16.

Source: Howard et al., "Searching for MobileNetV3" (arXiv 1905.02244), table 1; the last three
blocks are dilated instead of strided, as section 6.4 has it for segmentation. Batch norms are
folded into the convolutions, as at inference.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.conv2d import Depthwise, SqueezeExcite
from ....layers.streaming import DType
from ...mobilenet import Stage

Array = jax.Array
STEM = 16
STAGES = (
    Stage(3, 16, 16, 0, False, 1),
    Stage(3, 64, 24, 0, False, 2),
    Stage(3, 72, 24, 0, False, 1),
    Stage(5, 72, 40, 24, False, 2),
    Stage(5, 120, 40, 32, False, 1),
    Stage(5, 120, 40, 32, False, 1),
    Stage(3, 240, 80, 0, True, 2),
    Stage(3, 200, 80, 0, True, 1),
    Stage(3, 184, 80, 0, True, 1),
    Stage(3, 184, 80, 0, True, 1),
    Stage(3, 480, 112, 120, True, 1),
    Stage(3, 672, 112, 168, True, 1),
    Stage(5, 672, 160, 168, True, 1),
    Stage(5, 960, 160, 240, True, 1),
    Stage(5, 960, 160, 240, True, 1),
)
DILATED = 12  # blocks from here on
WIDE = 960  # channels of the last map
KEPT = {0: 16, 2: 24, 5: 40}  # blocks whose maps are given, and their channels


class Inverted(nn.Module):
    """1 x 1, k x k per channel, gate, 1 x 1; added to the input where the shapes are the same."""

    stage: Stage
    inside: int  # channels that come in
    dilation: int = 1
    dtype: DType = jnp.float32

    def setup(self):
        s = self.stage
        if s.inside != self.inside:
            self.expand = nn.Conv(s.inside, (1, 1), dtype=self.dtype)
        self.depth = Depthwise(s.inside, s.kernel, s.stride, self.dtype, self.dilation)
        if s.squeezed:
            self.gate = SqueezeExcite(s.inside, s.squeezed, hard=True, dtype=self.dtype)
        self.project = nn.Conv(s.width, (1, 1), dtype=self.dtype)

    def __call__(self, x: Array) -> Array:
        s = self.stage
        act = nn.hard_swish if s.hard else nn.relu
        y = act(self.expand(x)) if s.inside != self.inside else x
        y = act(self.depth(y))
        y = self.project(self.gate(y) if s.squeezed else y)
        return x + y if y.shape == x.shape else y


class Trunk(nn.Module):
    """RGB [M, H, W, 3], normalised -> maps of 16, 24, 40 and 960 channels, fine first; sides are
    halved and rounded up."""

    dtype: DType = jnp.float32

    def setup(self):
        self.stem = nn.Conv(STEM, (3, 3), (2, 2), padding=1, dtype=self.dtype)
        widths = (STEM, *(s.width for s in STAGES))
        self.stages = [
            Inverted(s, inside, 2 if i >= DILATED else 1, self.dtype)
            for i, (s, inside) in enumerate(zip(STAGES, widths, strict=False))
        ]
        self.last = nn.Conv(WIDE, (1, 1), dtype=self.dtype)

    def __call__(self, x: Array) -> list[Array]:
        x = nn.hard_swish(self.stem(x.astype(self.dtype)))
        maps = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in KEPT:
                maps.append(x)
        return [*maps, nn.hard_swish(self.last(x))]
