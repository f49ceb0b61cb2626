"""NanoTrack's two networks: features of a crop, and where a template is in a search crop.

Source: HonglinChu/SiamTrackers, NanoTrack version 2 (Apache-2.0). The trunk is the small
MobileNetV3 (Howard et al., arXiv 1905.02244), cut at a stride of 16. Batch norms are folded into
the convolutions, as at inference.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.conv2d import Depthwise, SqueezeExcite, depthwise_conv2d
from ....layers.streaming import DType
from ...mobilenet import Stage

Array = jax.Array


STEM = 16
STAGES = (
    Stage(3, 16, 16, 8, False, 2),
    Stage(3, 72, 24, 0, False, 2),
    Stage(3, 88, 24, 0, False, 1),
    Stage(5, 96, 40, 24, True, 2),
    Stage(5, 240, 40, 64, True, 1),
    Stage(5, 240, 40, 64, True, 1),
    Stage(5, 120, 48, 32, True, 1),
    Stage(5, 144, 48, 40, True, 1),
)
WIDTH = STAGES[-1].width
STRIDE = 16
TOWER = 96  # channels of the heads
DEPTH = 6  # filters of each head


class Inverted(nn.Module):
    """1 x 1, k x k per channel, gate, 1 x 1; added to the input where the shapes are the same."""

    stage: Stage
    inside: int  # channels that come in
    dtype: DType = jnp.float32

    def setup(self):
        s = self.stage
        if s.inside != self.inside:
            self.expand = nn.Conv(s.inside, (1, 1), dtype=self.dtype)
        self.depth = Depthwise(s.inside, s.kernel, s.stride, dtype=self.dtype)
        if s.squeezed:
            self.gate = SqueezeExcite(s.inside, s.squeezed, hard=True, dtype=self.dtype)
        self.project = nn.Conv(s.width, (1, 1), dtype=self.dtype)

    def __call__(self, x: Array) -> Array:
        s = self.stage
        act = nn.hard_swish if s.hard else nn.relu
        y = x
        if s.inside != self.inside:
            y = act(self.expand(y))
            y = self.depth(y)
            y = act(self.gate(y) if s.squeezed else y)
        else:  # the first stage, which expands nothing, gates what the activation left
            y = act(self.depth(y))
            y = self.gate(y) if s.squeezed else y
        y = self.project(y)
        return x + y if y.shape == x.shape else y


class Trunk(nn.Module):
    """RGB crops [M, S, S, 3] in 0..255 -> features [M, ceil(S / 16), ceil(S / 16), 48]."""

    dtype: DType = jnp.float32

    def setup(self):
        self.stem = nn.Conv(STEM, (3, 3), (2, 2), padding=1, dtype=self.dtype)
        widths = (STEM, *(s.width for s in STAGES))
        self.stages = [
            Inverted(s, inside, dtype=self.dtype) for s, inside in zip(STAGES, widths, strict=False)
        ]

    def __call__(self, x: Array) -> Array:
        x = nn.hard_swish(self.stem(x[..., ::-1].astype(self.dtype)))  # the network reads BGR
        for stage in self.stages:
            x = stage(x)
        return x


class Likeness(nn.Module):
    """How like every cell of the search map is to each cell of the template, gated by cell.

    template [M, h, w, C], search [M, H, W, C] -> [M, H, W, h * w].
    """

    cells: int
    dtype: DType = jnp.float32

    def setup(self):
        self.template = nn.Conv(WIDTH, (1, 1), dtype=self.dtype)
        self.search = nn.Conv(WIDTH, (1, 1), dtype=self.dtype)
        self.down = nn.Dense(self.cells, dtype=self.dtype)
        self.up = nn.Dense(self.cells, dtype=self.dtype)

    def __call__(self, template: Array, search: Array) -> Array:
        key = self.template(template)
        key = key.reshape(key.shape[0], -1, WIDTH)
        like = jnp.einsum("mnc,mhwc->mhwn", key, self.search(search))
        mean = like.mean(axis=(1, 2))
        return like * nn.sigmoid(self.up(nn.relu(self.down(mean))))[:, None, None]


class Tower(nn.Module):
    """3 x 3 per channel and 1 x 1, six times, then ``out`` numbers of every cell."""

    inside: int
    out: int
    dtype: DType = jnp.float32

    def setup(self):
        init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
        widths = (self.inside, *(TOWER,) * (DEPTH - 1))
        self.filters = [self.param(f"filter_{i}", init, (3, 3, 1, w)) for i, w in enumerate(widths)]
        self.points = [nn.Conv(TOWER, (1, 1), dtype=self.dtype) for _ in widths]
        self.last = nn.Conv(self.out, (1, 1), dtype=self.dtype)

    def __call__(self, x: Array) -> Array:
        for kernel, point in zip(self.filters, self.points, strict=True):
            x = nn.relu6(point(depthwise_conv2d(x, kernel)))
        return self.last(x)


class Head(nn.Module):
    """Where the template is: template [M, h, w, 48], search [M, H, W, 48] -> logits [M, H, W, 2]
    of background and object, and pixels from each cell to the box's four sides [M, H, W, 4], left,
    top, right, bottom."""

    cells: int
    dtype: DType = jnp.float32

    def setup(self):
        self.like_box = Likeness(self.cells, dtype=self.dtype)
        self.like_score = Likeness(self.cells, dtype=self.dtype)
        self.score = Tower(self.cells, 2, dtype=self.dtype)
        self.box = Tower(self.cells, 4, dtype=self.dtype)

    def __call__(self, template: Array, search: Array) -> tuple[Array, Array]:
        score = self.score(self.like_score(template, search))
        sides = jnp.exp(self.box(self.like_box(template, search)))
        return score.astype(jnp.float32), sides.astype(jnp.float32)
