"""BlazePose's landmarks: 33 points of the person in a square cut-out, and two that say where the
person will be looked for in the next frame."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from ....layers.streaming import DType
from ...ranges import Checked, Count
from .blocks import EXPAND, Residual, Separable, Trunk, double

Array = jax.Array
EVERY = 39  # points that the network gives: the body's 33, two of the next cut-out, four of hands
NEAR = 4  # cells of a heat map on each side of a point that count (the package's text says 3)
SURE = 0.5  # a heat map that is nowhere as high as this among them says nothing
DEEP = (2, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1)  # strides of the blocks before the points


@dataclasses.dataclass(frozen=True)
class LandmarkConfig(Checked):
    """Shapes.

    Attributes:
      side: of the square cut-out in pixels, a multiple of 128.
      widths: channels of the stem and of the six levels of blocks.
      merge: channels of the heat maps' branch and of the mask's.
      deep: channels before the points.
    """

    side: Count = 256
    widths: tuple[Count, ...] = (24, 16, 24, 32, 64, 88, 144)
    merge: tuple[Count, ...] = (48, 8)
    deep: Count = 288
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side % 128:
            raise ValueError(f"side={self.side} should be a multiple of 128")


@flax.struct.dataclass
class Landmarks:
    """What the network says of a cut-out."""

    points: Array  # [M, 39, 5] x, y, depth in pixels of the cut-out; logits: visible, in the frame
    world: Array  # [M, 39, 3] metres about the middle of the hips
    present: Array  # [M] probability that a person is there
    heat: Array  # [M, side / 4, side / 4, 39] logits


class LandmarkNet(nn.Module):
    """The network of single cut-outs."""

    config: LandmarkConfig

    def setup(self):
        cfg = self.config
        coarse, fine = cfg.merge
        self.trunk = Trunk(cfg.widths)
        top = cfg.widths[-1] * EXPAND
        self.skip = [
            Separable(cfg.widths[level], width)
            for level, width in ((1, fine), (2, coarse), (3, coarse), (5, coarse))
        ]
        self.up = Separable(top, coarse)
        self.heat = nn.Conv(EVERY, (1, 1))
        self.shrink = Separable(coarse, fine)
        self.mask = [Residual(fine) for _ in range(4)]
        self.mask_out = nn.Conv(1, (3, 3))
        self.down = Separable(top, cfg.deep)
        self.deep = [Residual(cfg.deep, stride=stride) for stride in DEEP]
        cells = cfg.side // 128
        whole = lambda width: nn.Conv(width, (cells, cells), padding="VALID")
        self.points, self.world, self.present = whole(5 * EVERY), whole(3 * EVERY), whole(1)

    def __call__(self, cutouts: Array) -> Landmarks:
        """RGB [M, side, side, 3] in 0..1 -> :class:`Landmarks`."""
        x, heat, _ = self._maps(cutouts)
        x = self.down(x)
        for block in self.deep:
            x = block(x)
        split = lambda a, width: a.reshape(a.shape[0], EVERY, width).astype(jnp.float32)
        present = nn.sigmoid(self.present(x).astype(jnp.float32)).reshape(-1)
        return Landmarks(
            split(self.points(x), 5), split(self.world(x), 3), present,
            self.heat(heat).astype(jnp.float32),
        )  # fmt: skip

    def segment(self, cutouts: Array) -> Array:
        """RGB [M, side, side, 3] in 0..1 -> logits of the person's mask [M, side, side]."""
        _, x, fine = self._maps(cutouts)
        x = double(self.shrink(x)) + self.skip[0](fine)
        x = self.mask[1](self.mask[0](x))
        x = self.mask[3](self.mask[2](double(x)))
        return self.mask_out(x)[..., 0].astype(jnp.float32)

    def _maps(self, cutouts: Array) -> tuple[Array, Array, Array]:
        """The map at stride 32, the merged one at stride 4, and the skipped one at stride 2."""
        top, skipped = self.trunk(cutouts.astype(self.config.dtype))
        x = self.up(top)
        for i in (3, 2, 1):
            x = double(x) + self.skip[i](skipped[i])
        return top, x, skipped[0]

    def init_all(self, cutouts: Array) -> tuple[Landmarks, Array]:
        """Both answers; makes every parameter."""
        return self(cutouts), self.segment(cutouts)


def refined(points: Array, heat: Array) -> Array:
    """Points [P, 2] as fractions of the cut-out, moved to the middle of what the heat maps' logits
    [h, w, P] show within ``NEAR`` cells of them, where these are ``SURE`` of anything."""
    h, w, _ = heat.shape
    size = jnp.asarray([w, h], jnp.float32)[None]
    cell = jnp.trunc(points * size)
    x, y = cell[:, 0], cell[:, 1]
    rows, cols = (np.arange(n, dtype=np.float32) for n in (h, w))
    near = lambda places, at: jnp.abs(places[:, None] - at[None]) <= NEAR
    inside = near(rows, y)[:, None] & near(cols, x)[None]  # [h, w, P]
    sure = jnp.where(inside, nn.sigmoid(heat), 0.0)
    total = jnp.maximum(sure.sum((0, 1)), 1e-9)
    mean = jnp.stack(
        [jnp.einsum("hwp,w->p", sure, cols), jnp.einsum("hwp,h->p", sure, rows)], axis=-1
    )
    mean = mean / total[:, None] / size
    seen = (x >= 0) & (x < w) & (y >= 0) & (y < h) & (sure.max((0, 1)) >= SURE)
    return jnp.where(seen[:, None], mean, points)
