"""MoveNet: points of one person, or of up to six, in single frames.

Source: Google's MoveNet SinglePose and MultiPose "lightning" (Apache-2.0, described in "Next-
Generation Pose Detection with MoveNet and TensorFlow.js", 2021): a CenterNet (Zhou et al., arXiv
1904.07850) on MobileNetV2 (arXiv 1801.04381) with a feature pyramid. What is done with the maps is
part of the published graph; its constants, stored as float16, are kept to the bit.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ....layers.streaming import DType
from ...detect.boxes import letterbox
from ...encode.efficientnet.model import MBConv, conv, depthwise, relu6
from ...per_frame import PerFrame
from ...preprocess import fitted
from ...ranges import Checked, Count, Share, Size
from ..outputs import POINTS, Pose

Array = jax.Array
STRIDE = 4  # pixels per cell of the maps
# MobileNetV2: blocks, stride and place of the width of each stage
STAGES = ((1, 1), (2, 2), (3, 2), (4, 2), (3, 1), (3, 2), (1, 1))
SEEN = 0.126953125  # a point's score above it counts for the person's


def _half(x: Any) -> Any:
    """A constant as the published files hold it."""
    return np.asarray(x, np.float16).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class MoveNetConfig(Checked):
    """Shapes of a MoveNet and its operating point.

    Attributes:
      image_size: (height, width) into which frames are letterboxed. For several persons it is a
        bound: the network sees the frame and no more than fills up multiples of 32.
      slots: persons, 1 (the one nearest the middle) or 6 at most.
      widths: channels of the stem, of MobileNetV2's seven stages and of its last convolution.
      threshold: a person's score must be above it.
    """

    image_size: Size = (256, 256)
    slots: Count = 6
    widths: tuple[Count, ...] = (48, 24, 40, 48, 96, 144, 240, 480, 1280)
    threshold: Share = 0.15
    dtype: DType = "float32"

    @property
    def single(self) -> bool:
        """True for the network that looks for one person."""
        return self.slots == 1


class Separable(nn.Module):
    """3 x 3 filter per channel without a bias, then a pointwise convolution with one, and ReLU."""

    inside: int
    width: int

    def setup(self):
        init, zeros = nn.initializers.he_normal(), nn.initializers.zeros
        self.depth_kernel = self.param("depth_kernel", init, (3, 3, 1, self.inside))
        self.point_kernel = self.param("point_kernel", init, (1, 1, self.inside, self.width))
        self.point_bias = self.param("point_bias", zeros, (self.width,))

    def __call__(self, x: Array) -> Array:
        x = depthwise(x, self.depth_kernel, jnp.zeros((), x.dtype), 1)
        return nn.relu(conv(x, self.point_kernel, self.point_bias, 1))


class Branch(nn.Module):
    """One map of the head: [M, h, w, 24] -> [M, h, w, width]."""

    width: int

    def setup(self):
        init = nn.initializers.he_normal()
        self.hidden = Separable(24, 96)
        self.kernel = self.param("kernel", init, (1, 1, 96, self.width))
        self.bias = self.param("bias", nn.initializers.zeros, (self.width,))

    def __call__(self, x: Array) -> Array:
        return conv(self.hidden(x), self.kernel, self.bias, 1).astype(jnp.float32)


def branches(config: MoveNetConfig) -> dict[str, int]:
    """Maps of the head and their channels; offsets are y, x."""
    points = len(POINTS)
    maps = dict(center=1, kpt_heatmap=points, kpt_regress=2 * points, kpt_offset=2 * points)
    return maps if config.single else maps | dict(box_scale=2, box_offset=2)


class MoveNet(PerFrame[Pose]):
    """Points of the persons in every frame; keeps no memory, so its carry is empty."""

    config: MoveNetConfig
    task = "pose"

    def setup(self):
        cfg = self.config
        init, zeros = nn.initializers.he_normal(), nn.initializers.zeros
        stem, *widths, top = cfg.widths
        self.stem_kernel = self.param("stem_kernel", init, (3, 3, 3, stem))
        self.stem_bias = self.param("stem_bias", zeros, (stem,))
        blocks, inside = [], stem
        for (repeats, stride), width in zip(STAGES, widths, strict=True):
            for i in range(repeats):
                expand = 6 if blocks else 1
                blocks.append(MBConv(3, inside, width, expand, stride if i == 0 else 1))
                inside = width
        self.blocks = blocks
        self.top_kernel = self.param("top_kernel", init, (1, 1, inside, top))
        self.top_bias = self.param("top_bias", zeros, (top,))
        # coarse to fine: from the last map, and from those of strides 16, 8 and 4
        taps = ((top, 64), (widths[3], 64), (widths[2], 32), (widths[1], 24))
        for i, (wide, narrow) in enumerate(taps):
            setattr(self, f"lateral{i}_kernel", self.param(f"lateral{i}_kernel", init,
                    (1, 1, wide, narrow)))  # fmt: skip
            setattr(self, f"lateral{i}_bias", self.param(f"lateral{i}_bias", zeros, (narrow,)))
        self.merge = [Separable(64, 32), Separable(32, 24), Separable(24, 24)]
        self.heads = {name: Branch(width) for name, width in branches(cfg).items()}

    def find(self, pictures: Array) -> Pose:
        """RGB [M, H, W, 3] in 0..255 -> persons, leaves [M, N, ...]."""
        size = pictures.shape[1], pictures.shape[2]
        rows, cols = self.canvas(size)
        found = self.answer(self.raw(letterbox(pictures, (rows, cols), 0.0)))
        shown = fitted(size, (rows, cols))
        scale = np.asarray([cols / shown[1], rows / shown[0]], np.float32).reshape(1, 1, 1, 2)
        points, boxes = found.keypoints, found.boxes.reshape(*found.boxes.shape[:-1], 2, 2)
        return found.replace(
            keypoints=jnp.concatenate([points[..., :2] * scale, points[..., 2:]], axis=-1),
            boxes=jnp.clip(boxes * scale, 0, 1).reshape(found.boxes.shape),
        )

    @nn.nowrap
    def canvas(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the network's input for frames of ``size``."""
        side = self.config.image_size
        if self.config.single:  # made for one size only
            return side
        rows, cols = fitted(size, side)
        return -(-rows // 32) * 32, -(-cols // 32) * 32

    def raw(self, frames: Array) -> dict[str, Array]:
        """RGB [M, H, W, 3] in 0..255 -> the maps of the head [M, H / 4, W / 4, n], as they are."""
        x = frames.astype(self.config.dtype) * _half(2 / 255) - 1
        x = relu6(conv(x, self.stem_kernel, self.stem_bias, 2))
        maps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in (2, 5, 9):
                maps.append(x)
        x = relu6(conv(x, self.top_kernel, self.top_bias, 1))
        x = self._lateral(0, x)
        for i, (fine, merge) in enumerate(zip(reversed(maps), self.merge, strict=True), start=1):
            x = merge(_double(x) + self._lateral(i, fine))
        return {name: head(x) for name, head in self.heads.items()}

    def _lateral(self, i: int, x: Array) -> Array:
        return conv(x, getattr(self, f"lateral{i}_kernel"), getattr(self, f"lateral{i}_bias"), 1)

    @nn.nowrap
    def answer(self, maps: dict[str, Array]) -> Pose:
        """The maps -> persons in fractions of the network's input, leaves [M, N, ...]. Slots below
        the threshold are not valid, and still hold what was found."""
        one = self._one if self.config.single else self._several
        # what follows mixes ranks and types as the graph does: a caller's flags are not about it
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return jax.vmap(one)(maps)

    @nn.nowrap
    def _several(self, maps: dict[str, Array]) -> Pose:
        """Of one frame, maps [h, w, n]."""
        cfg = self.config
        rows, cols = maps["center"].shape[:2]
        size = np.asarray([rows, cols], np.float32)
        # A person stands where the centre's map has a peak.
        centre = nn.sigmoid(maps["center"][..., 0])
        peak = jnp.abs(centre - _max5(centre)) < 1.0132789611816406e-06
        sure, index = jax.lax.top_k((centre * peak).reshape(-1), cfg.slots)
        y, x = index // cols, index % cols
        at = jnp.stack([y, x], axis=-1).astype(jnp.float32)
        middle = at + maps["box_offset"][y, x]
        half = jnp.maximum(maps["box_scale"][y, x], 0.0) * 0.5
        low, high = jnp.clip(middle - half, 0, size), jnp.clip(middle + half, 0, size)
        # Each point is where its map is high, near where the person's centre expects it, and
        # inside the person's box.
        expected = at[:, None] + maps["kpt_regress"][y, x].reshape(cfg.slots, -1, 2)
        cells = np.indices((rows, cols)).transpose(1, 2, 0).astype(np.float32)
        far = ((cells[:, :, None, None] - expected) ** 2).sum(axis=-1)
        spread = _half(0.3) * min(rows, cols)
        inside = (cells[:, :, None] >= low) & (cells[:, :, None] < high)
        heat = nn.sigmoid(maps["kpt_heatmap"])[:, :, None] * jnp.exp(-far / spread)
        heat = heat * jnp.all(inside, axis=-1)[..., None]  # [h, w, N, 17]
        best = heat.reshape(rows * cols, cfg.slots, -1).argmax(axis=0)
        y, x, point = best // cols, best % cols, np.arange(len(POINTS))
        offset = maps["kpt_offset"].reshape(rows, cols, -1, 2)[y, x, point]
        where = jnp.stack([y, x], axis=-1) + offset
        score = heat.max(axis=2)[y, x, point]  # of whichever person the point there is surest
        seen = score > SEEN
        total = jnp.where(seen, sure[:, None] * score, 0.0).sum(axis=-1)
        scores = total / jnp.maximum(seen.sum(axis=-1), 1)
        boxes = jnp.concatenate([low / size, high / size], axis=-1)[:, np.asarray([1, 0, 3, 2])]
        points = jnp.concatenate([(where / size)[..., ::-1], score[..., None]], axis=-1)
        return Pose(points, boxes, scores, scores > cfg.threshold)

    @nn.nowrap
    def _one(self, maps: dict[str, Array]) -> Pose:
        """Of one frame, maps [h, w, n]: the person nearest the middle."""
        rows, cols = maps["center"].shape[:2]
        cells = np.indices((rows, cols)).transpose(1, 2, 0).astype(np.float32)
        middle = np.asarray([rows // 2, cols // 2])
        prior = _half(1 / (np.sqrt(((cells - middle) ** 2).sum(axis=-1)) + 1.8))
        index = (nn.sigmoid(maps["center"][..., 0]) * prior).argmax()
        y, x = index // cols, index % cols
        expected = jnp.stack([y, x]) + maps["kpt_regress"][y, x].reshape(-1, 2)
        far = jnp.sqrt(((cells[:, :, None] - expected) ** 2).sum(axis=-1))
        heat = nn.sigmoid(maps["kpt_heatmap"])
        best = (heat / (far + _half(1.8))).reshape(rows * cols, -1).argmax(axis=0)
        y, x, point = best // cols, best % cols, np.arange(len(POINTS))
        offset = maps["kpt_offset"].reshape(rows, cols, -1, 2)[y, x, point]
        where = (jnp.stack([y, x], axis=-1) + offset) * _half(1 / np.asarray([rows, cols]))
        score = heat[y, x, point]
        # The network names no box: that of the points that it sees, and their mean score.
        seen = score > SEEN
        total = score.mean()
        low = jnp.where(seen[:, None], where, 1.0).min(axis=0)
        high = jnp.where(seen[:, None], where, 0.0).max(axis=0)
        boxes = jnp.concatenate([low[::-1], jnp.maximum(low, high)[::-1]])[None]
        points = jnp.concatenate([where[:, ::-1], score[:, None]], axis=-1)[None]
        return Pose(points, boxes, total[None], (total > self.config.threshold)[None])


def _max5(x: Array) -> Array:
    """Maximum over 5 x 5 cells of a map [h, w], those outside left out."""
    for axis in (0, 1):
        n = x.shape[axis]
        wide = jnp.pad(x, [(2, 2) if a == axis else (0, 0) for a in (0, 1)],
                       constant_values=-jnp.inf)  # fmt: skip
        parts = [jax.lax.slice_in_dim(wide, i, i + n, axis=axis) for i in range(5)]
        x = jnp.stack(parts).max(axis=0)
    return x


def _double(x: Array) -> Array:
    """Twice the rows and columns, bilinear, pixel centres at halves."""
    m, h, w, c = x.shape
    return jax.image.resize(x, (m, 2 * h, 2 * w, c), "bilinear")
