"""BlazePose's detector of persons: where the hips are, how large and how upright the body is."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.streaming import DType
from ...detect.boxes import overlap
from ...encode.efficientnet.model import conv, relu6
from ...ranges import Checked, Count, Share
from ..palm.model import cells
from .blocks import EXPAND, Residual, Separable, Trunk, double

Array = jax.Array
ANCHORS = ((8, 2), (16, 2), (32, 6))  # stride of a map, and anchors in each of its cells
POINTS = 4  # middle of the hips, size of the body; middle of the shoulders, size of the upper body
VALUES = 4 + 2 * POINTS
CLIP = 100.0  # logits beyond it count as it


@dataclasses.dataclass(frozen=True)
class DetectorConfig(Checked):
    """Shapes of the detector and its operating point.

    Attributes:
      side: of the square into whose middle frames are scaled, a multiple of 32.
      widths: channels of the stem and of the six levels of blocks.
      merge: channels at strides 16 and 8 where coarse maps join fine ones, multiples of 4.
      threshold: a person's score must be above it.
      iou: overlap from which on two boxes are one person's.
    """

    side: Count = 224
    widths: tuple[Count, ...] = (24, 16, 24, 40, 80, 112, 192)
    merge: tuple[Count, ...] = (192, 96)
    threshold: Share = 0.5
    iou: Share = 0.3
    dtype: DType = "float32"


class Found(NamedTuple):
    """The surest person of each picture."""

    points: Array  # [M, 4, 2] x, y in pixels of the network's input
    score: Array  # [M]


class Detector(nn.Module):
    """The network of single square pictures and what is made of its anchors."""

    config: DetectorConfig

    def setup(self):
        cfg = self.config
        self.trunk = Trunk(cfg.widths)
        top = cfg.widths[-1] * EXPAND
        self.skip = [
            Separable(cfg.widths[level], width, (False, True))
            for level, width in zip((5, 3), cfg.merge, strict=True)
        ]
        init, zeros = nn.initializers.he_normal(), nn.initializers.zeros
        self.merge = [[Residual(width, False) for _ in range(2)] for width in cfg.merge]
        for i, (inside, width) in enumerate(zip((top, cfg.merge[0]), cfg.merge, strict=True)):
            for name, value, shape in (
                ("kernel", init, (1, 1, inside, width)), ("bias", zeros, (width,)),
            ):  # fmt: skip
                setattr(self, f"up_{i}_{name}", self.param(f"up_{i}_{name}", value, shape))
        widths = (cfg.merge[1] // 4, cfg.merge[0] // 4, top // 4)
        plain = (False, False)
        self.score, self.box = (
            [
                Separable(width, anchors * values, plain, 2, middle=True)
                for width, (_, anchors) in zip(widths, ANCHORS, strict=True)
            ]
            for values in (1, VALUES)
        )

    def __call__(self, pictures: Array) -> tuple[Array, Array]:
        """RGB [M, S, S, 3] in -1..1 -> per anchor, as the published graph gives them: values
        [M, A, 12] in pixels (middle, size and four points, x before y, all but the size from the
        middle of the anchor's cell), score logits [M, A]."""
        x, skipped = self.trunk(pictures.astype(self.config.dtype))
        maps = [x]
        for i, (skip, merge, j) in enumerate(zip(self.skip, self.merge, (3, 2), strict=True)):
            kernel, bias = getattr(self, f"up_{i}_kernel"), getattr(self, f"up_{i}_bias")
            x = skip(skipped[j]) + relu6(conv(double(x), kernel, bias, 1))
            for block in merge:
                x = block(x)
            maps.append(x)
        boxes, scores = [], []
        for x, score, box in zip(reversed(maps), self.score, self.box, strict=True):
            x = unfold(x)
            boxes.append(box(x).reshape(x.shape[0], -1, VALUES))
            scores.append(score(x).reshape(x.shape[0], -1))
        join = lambda parts: jnp.concatenate(parts, axis=1).astype(jnp.float32)
        return join(boxes), join(scores)

    def find(self, pictures: Array) -> Found:
        """RGB [M, S, S, 3] in -1..1 -> the surest person, the mean of its boxes by their scores;
        it is there where the score is above the threshold."""
        cfg = self.config
        values, logits = self(pictures)
        points = values.reshape(*values.shape[:2], -1, 2)
        points = points + cells((cfg.side, cfg.side), ANCHORS)[None, :, None]
        half = values[..., 2:4] / 2
        boxes = jnp.concatenate([points[:, :, 0] - half, points[:, :, 0] + half], axis=-1)
        scores = nn.sigmoid(jnp.clip(logits, -CLIP, CLIP))

        def surest(points: Array, boxes: Array, scores: Array) -> Found:
            best = jnp.argmax(scores)
            same = (overlap(boxes, boxes[best]) > cfg.iou) & (scores > cfg.threshold)
            weight = jnp.where(same | (jnp.arange(len(scores)) == best), scores, 0.0)
            mean = jnp.einsum("a,apc->pc", weight, points) / jnp.maximum(weight.sum(), 1e-9)
            return Found(mean, scores[best])

        return jax.vmap(surest)(points[:, :, 2:], boxes, scores)


def unfold(x: Array) -> Array:
    """Channels to 2 x 2 pixels: [M, h, w, 4 C] -> [M, 2 h, 2 w, C]."""
    m, h, w, c = x.shape
    x = x.reshape(m, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(m, 2 * h, 2 * w, c // 4)
