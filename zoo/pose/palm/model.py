"""MediaPipe's palm detector: boxes of palms and seven points of each, in single frames.

Source: Zhang et al., "MediaPipe Hands: On-device Real-time Hand Tracking" (arXiv 2006.10214), the
``palm_detection_lite`` network of the package ``mediapipe`` 0.10.21 (Apache-2.0). What is made of
its anchors follows that package's graph (``modules/palm_detection``): scores above a half, and
overlapping boxes averaged by their scores.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ....layers.ranks import to_rank
from ....layers.streaming import DType
from ...detect.boxes import letterbox, overlap
from ...encode.efficientnet.model import conv, depthwise
from ...per_frame import PerFrame
from ...preprocess import fitted
from ...ranges import Checked, Count, Share, Size
from ..outputs import Pose

Array = jax.Array
# The seven points: the wrist, where the five fingers begin (the thumb has two).
PALM_POINTS = (
    "wrist", "index knuckle", "middle knuckle", "ring knuckle", "little knuckle",
    "thumb base", "thumb knuckle",
)  # fmt: skip
ANCHORS = ((8, 2), (16, 6))  # stride of a map, and anchors in each of its cells
AGAIN = 3  # blocks of one size after the first
CLIP = 100.0  # logits beyond it count as it


@dataclasses.dataclass(frozen=True)
class PalmConfig(Checked):
    """Shapes of the palm detector and its operating point.

    Attributes:
      image_size: (height, width) into which frames are letterboxed.
      widths: channels at strides 2, 4, 8, 16 and 32.
      slots: palms that are found at most.
      threshold: a palm's score must be above it.
      iou: overlap from which on two boxes are one palm's.
    """

    image_size: Size = (192, 192)
    widths: tuple[Count, ...] = (32, 64, 128, 256, 256)
    slots: Count = 2
    threshold: Share = 0.5
    iou: Share = 0.3
    dtype: DType = "float32"


class Slope(nn.Module):
    """ReLU with a learned slope per channel below zero."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        slope = self.param("slope", nn.initializers.constant(0.25), (self.width,))
        return jnp.where(x >= 0, x, x * to_rank(slope.astype(x.dtype), x))


class Block(nn.Module):
    """5 x 5 filter per channel and a pointwise convolution, added to the input: [M, H, W, C] ->
    [M, H / stride, W / stride, O]. With a stride of 2 the input is pooled; new channels get zeros.
    """

    inside: int
    width: int
    stride: int = 1

    def setup(self):
        init, zeros = nn.initializers.he_normal(), nn.initializers.zeros
        self.depth_kernel = self.param("depth_kernel", init, (5, 5, 1, self.inside))
        self.depth_bias = self.param("depth_bias", zeros, (self.inside,))
        self.point_kernel = self.param("point_kernel", init, (1, 1, self.inside, self.width))
        self.point_bias = self.param("point_bias", zeros, (self.width,))
        self.out = Slope(self.width)

    def __call__(self, x: Array) -> Array:
        y = depthwise(x, self.depth_kernel, self.depth_bias, self.stride)
        y = conv(y, self.point_kernel, self.point_bias, 1)
        if self.stride != 1:
            x = nn.max_pool(x, (2, 2), (2, 2), "SAME")
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.width - self.inside)))
        return self.out(x + y)


class Up(nn.Module):
    """Twice the resolution (bilinear), and a pointwise convolution."""

    inside: int
    width: int

    def setup(self):
        init, zeros = nn.initializers.he_normal(), nn.initializers.zeros
        self.kernel = self.param("kernel", init, (1, 1, self.inside, self.width))
        self.bias = self.param("bias", zeros, (self.width,))
        self.out = Slope(self.width)

    def __call__(self, x: Array) -> Array:
        m, h, w, c = x.shape
        x = jax.image.resize(x, (m, 2 * h, 2 * w, c), "bilinear")
        return self.out(conv(x, self.kernel, self.bias, 1))


class PalmNet(nn.Module):
    """The network and what is made of its anchors, of single pictures."""

    config: PalmConfig

    def setup(self):
        widths = self.config.widths
        init, zeros = nn.initializers.he_normal(), nn.initializers.zeros
        self.stem_kernel = self.param("stem_kernel", init, (5, 5, 3, widths[0]))
        self.stem_bias = self.param("stem_bias", zeros, (widths[0],))
        self.stem_out = Slope(widths[0])
        blocks, inside = [], widths[0]
        for level, width in enumerate(widths):
            for i in range(AGAIN + (level > 0)):
                blocks.append(Block(inside, width, 2 if level and not i else 1))
                inside = width
        self.blocks = blocks
        self.up = [Up(widths[4], widths[3]), Up(widths[3], widths[2])]
        self.merge = [Block(w, w) for w in (widths[3], widths[3], widths[2], widths[2])]
        values = 4 + 2 * len(PALM_POINTS)
        for (stride, anchors), width in zip(ANCHORS, (widths[2], widths[3]), strict=True):
            for name, size in (("score", anchors), ("box", anchors * values)):
                kernel, bias = f"{name}{stride}_kernel", f"{name}{stride}_bias"
                setattr(self, kernel, self.param(kernel, init, (1, 1, width, size)))
                setattr(self, bias, self.param(bias, zeros, (size,)))

    def maps(self, pictures: Array) -> tuple[Array, Array, Array]:
        """RGB [M, H, W, 3] in 0..1, sides multiples of 32 -> the last maps at strides 8, 16, 32."""
        x = pictures.astype(self.config.dtype)
        x = self.stem_out(conv(x, self.stem_kernel, self.stem_bias, 2))
        levels = []
        for block in self.blocks:
            if block.stride != 1:
                levels.append(x)
            x = block(x)
        middle = levels[3] + self.up[0](x)
        middle = self.merge[1](self.merge[0](middle))
        fine = levels[2] + self.up[1](middle)
        return self.merge[3](self.merge[2](fine)), middle, x

    def __call__(self, pictures: Array) -> tuple[Array, Array]:
        """RGB [M, H, W, 3] in 0..1 -> per anchor, as the published graph gives them: values
        [M, A, 18] in pixels (middle, size and seven points, x before y, all but the size from the
        middle of the anchor's cell), score logits [M, A]."""
        fine, middle, _ = self.maps(pictures)
        boxes, scores = [], []
        for (stride, _), x in zip(ANCHORS, (fine, middle), strict=True):
            values = 4 + 2 * len(PALM_POINTS)
            boxes.append(self._head("box", stride, x).reshape(x.shape[0], -1, values))
            scores.append(self.scores(x, stride).reshape(x.shape[0], -1))
        join = lambda parts: jnp.concatenate(parts, axis=1).astype(jnp.float32)
        return join(boxes), join(scores)

    def scores(self, x: Array, stride: int) -> Array:
        """The map of a stride -> score logits of its anchors [M, h, w, 2 or 6]."""
        return self._head("score", stride, x)

    def _head(self, name: str, stride: int, x: Array) -> Array:
        name = f"{name}{stride}"
        return conv(x, getattr(self, f"{name}_kernel"), getattr(self, f"{name}_bias"), 1)

    def find(self, pictures: Array) -> Pose:
        """RGB [M, H, W, 3] in 0..1, any size -> palms, leaves [M, N, ...]; slots below the
        threshold are not valid, and hold what was best there all the same."""
        side = self.config.image_size
        _, height, width, _ = pictures.shape
        values, logits = self(letterbox(pictures, side, 0.0))
        shown = fitted((height, width), side)
        scale = np.asarray([1 / shown[1], 1 / shown[0]], np.float32)
        points = values.reshape(*values.shape[:2], -1, 2) + cells(side)[None, :, None]
        half = values[..., 2:4] / 2
        middle = points[:, :, 0]
        boxes = jnp.concatenate([middle - half, middle + half], axis=-1)
        scores = nn.sigmoid(jnp.clip(logits, -CLIP, CLIP))
        corners = boxes.reshape(*boxes.shape[:-1], 2, 2)
        every = jnp.concatenate([corners, points[:, :, 2:]], axis=2)  # [M, A, 9, 2]
        merged, best = jax.vmap(self._merge)(every, boxes, scores)
        merged = merged * scale[None, None, None]
        keypoints = jnp.concatenate(
            [merged[:, :, 2:], jnp.broadcast_to(best[..., None, None], (*merged.shape[:2], 7, 1))],
            axis=-1,
        )
        boxes = merged[:, :, :2].reshape(*best.shape, 4)
        return Pose(keypoints, jnp.clip(boxes, 0, 1), best, best > self.config.threshold)

    @nn.nowrap
    def _merge(self, every: Array, boxes: Array, scores: Array) -> tuple[Array, Array]:
        """Of one picture: the best palms [N, 9, 2], each the mean of its boxes by their scores."""
        cfg = self.config
        left, found, bests = scores, [], []
        for _ in range(cfg.slots):
            best = jnp.argmax(left)
            score = left[best]
            same = (overlap(boxes, boxes[best]) > cfg.iou) & (left > cfg.threshold)
            weight = jnp.where(same | (jnp.arange(len(left)) == best), left, 0.0)
            mean = jnp.einsum("a,apc->pc", weight, every) / jnp.maximum(weight.sum(), 1e-9)
            found.append(mean)
            bests.append(score)
            left = jnp.where(weight > 0, 0.0, left)
        return jnp.stack(found), jnp.stack(bests)


def cells(side: tuple[int, int], anchors: tuple[tuple[int, int], ...] = ANCHORS) -> np.ndarray:
    """Middles of the anchors' cells in pixels x, y [A, 2], in the order of the answers; of each map
    ``anchors`` has its stride and how many a cell has."""
    found = []
    for stride, count in anchors:
        y, x = np.mgrid[: side[0] // stride, : side[1] // stride] * stride + stride / 2
        found.append(np.repeat(np.stack([x, y], axis=-1).reshape(-1, 2), count, axis=0))
    return np.concatenate(found).astype(np.float32)


class PalmDetector(PerFrame[Pose]):
    """Palms of every frame; keeps no memory, so its carry is empty."""

    config: PalmConfig
    task = "pose"

    def setup(self):
        self.net = PalmNet(self.config)
        nn.share_scope(self, self.net)

    def find(self, pictures: Array) -> Pose:
        """RGB [M, H, W, 3] in 0..1 -> palms, leaves [M, N, ...]: each with the seven
        ``PALM_POINTS``, whose scores are the palm's."""
        return self.net.find(pictures)
