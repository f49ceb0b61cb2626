"""YOLOX: an anchor-free detector of single frames.

Source: Ge et al., "YOLOX: Exceeding YOLO Series in 2021" (arXiv 2107.08430), and
Megvii-BaseDetection/YOLOX (Apache-2.0): CSPDarknet, a path-aggregating pyramid, a decoupled head.
Batch norms are folded into the convolutions, as at inference.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ....layers.conv2d import Depthwise
from ....layers.streaming import DType
from ...per_frame import PerFrame
from ...preprocess import fitted
from ...ranges import Checked, Count, Share, Size, Whole
from ..boxes import best, letterbox
from ..outputs import Detections

Array = jax.Array
STRIDES = (8, 16, 32)
FILL = 114.0  # grey of the letterbox


@dataclasses.dataclass(frozen=True)
class YOLOXConfig(Checked):
    """Shapes of a YOLOX and its operating point.

    Attributes:
      image_size: (height, width) of the network's input, multiples of 32; frames of another size
        are letterboxed into it.
      trim: the grey beside a letterboxed frame ends at the next multiple of 32, where a wide frame
        would else be filled up to image_size: less to compute, the same boxes but for the last
        digits near the edge.
      width: channels of the first stage; each stage doubles them.
      depth: bottlenecks of the first stage; the two after it have three times as many.
      depthwise: 3 x 3 convolutions are depthwise and pointwise (the nano model).
      slots: objects that a frame has at most.
      threshold: a detection's score (objectness times class) must be above it.
      iou: a box that overlaps a better one of its class by more than this is dropped.
    """

    image_size: Size = (416, 416)
    trim: bool = False
    classes: Count = 80
    width: Count = 16
    depth: Whole = 1
    depthwise: bool = True
    slots: Count = 100
    threshold: Share = 0.3
    iou: Share = 0.45
    dtype: DType = "float32"


class Maps(NamedTuple):
    """The pyramid of M letterboxed pictures."""

    levels: tuple[Array, Array, Array]  # [M, h, w, D] at strides 8, 16, 32
    part: tuple[float, float]  # rows and columns that the picture takes of them, the rest is grey


class BaseConv(nn.Module):
    """k x k convolution and SiLU; x [M, H, W, C] -> [M, H / stride, W / stride, width]."""

    width: int
    size: int = 1
    stride: int = 1
    dtype: DType = jnp.float32

    def setup(self):
        side, step = (self.size,) * 2, (self.stride,) * 2
        self.conv = nn.Conv(self.width, side, step, padding=self.size // 2, dtype=self.dtype)

    def __call__(self, x: Array) -> Array:
        return nn.silu(self.conv(x))


class DepthwiseConv(nn.Module):
    """A 3 x 3 filter per channel, then a pointwise convolution, each with SiLU."""

    inside: int
    width: int
    stride: int = 1
    dtype: DType = jnp.float32

    def setup(self):
        self.depth = Depthwise(self.inside, 3, self.stride, dtype=self.dtype)
        self.point = BaseConv(self.width, dtype=self.dtype)

    def __call__(self, x: Array) -> Array:
        return self.point(nn.silu(self.depth(x)))


def conv3(cfg: YOLOXConfig, inside: int, width: int, stride: int = 1) -> nn.Module:
    """The 3 x 3 convolution of this size of model."""
    if cfg.depthwise:
        return DepthwiseConv(inside, width, stride, dtype=cfg.dtype)
    return BaseConv(width, 3, stride, dtype=cfg.dtype)


class Bottleneck(nn.Module):
    """1 x 1, then 3 x 3, with or without the input added."""

    config: YOLOXConfig
    width: int
    shortcut: bool

    def setup(self):
        self.reduce = BaseConv(self.width, dtype=self.config.dtype)
        self.filter = conv3(self.config, self.width, self.width)

    def __call__(self, x: Array) -> Array:
        y = self.filter(self.reduce(x))
        return x + y if self.shortcut else y


class CSP(nn.Module):
    """Cross-stage-partial block: half the channels go through the bottlenecks, half around."""

    config: YOLOXConfig
    width: int
    depth: int
    shortcut: bool

    def setup(self):
        half, dtype = self.width // 2, self.config.dtype
        self.main = BaseConv(half, dtype=dtype)
        self.around = BaseConv(half, dtype=dtype)
        self.blocks = [Bottleneck(self.config, half, self.shortcut) for _ in range(self.depth)]
        self.join = BaseConv(self.width, dtype=dtype)

    def __call__(self, x: Array) -> Array:
        y = self.main(x)
        for block in self.blocks:
            y = block(y)
        return self.join(jnp.concatenate([y, self.around(x)], axis=-1))


class SPP(nn.Module):
    """Spatial pyramid pooling: maxima over windows of 5, 9 and 13 cells beside the map."""

    width: int
    dtype: DType = jnp.float32

    def setup(self):
        self.reduce = BaseConv(self.width // 2, dtype=self.dtype)
        self.join = BaseConv(self.width, dtype=self.dtype)

    def __call__(self, x: Array) -> Array:
        maps = [self.reduce(x)]
        for _ in range(3):  # a maximum over 5 of a maximum over 5 is one over 9
            maps.append(_max5(maps[-1]))
        return self.join(jnp.concatenate(maps, axis=-1))


def _max5(x: Array) -> Array:
    """Maximum over 5 x 5 cells, those outside the map left out."""
    for axis in (1, 2):
        n = x.shape[axis]
        pads = [(0, 0)] * x.ndim
        pads[axis] = (2, 2)
        wide = jnp.pad(x, pads, constant_values=-jnp.inf)
        parts = [jax.lax.slice_in_dim(wide, i, i + n, axis=axis) for i in range(5)]
        x = jnp.stack(parts).max(axis=0)
    return x


def _double(x: Array) -> Array:
    """Twice the rows and columns, each cell repeated."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


class Head(nn.Module):
    """Box, objectness and classes of each cell of one map."""

    config: YOLOXConfig

    def setup(self):
        cfg = self.config
        width = 4 * cfg.width
        self.stem = BaseConv(width, dtype=cfg.dtype)
        self.cls = [conv3(cfg, width, width) for _ in range(2)]
        self.reg = [conv3(cfg, width, width) for _ in range(2)]
        rare = nn.initializers.constant(-4.6)  # a probability of 0.01, as at the start of training
        self.cls_out = nn.Conv(cfg.classes, (1, 1), bias_init=rare, dtype=cfg.dtype)
        self.box_out = nn.Conv(4, (1, 1), dtype=cfg.dtype)
        self.obj_out = nn.Conv(1, (1, 1), bias_init=rare, dtype=cfg.dtype)

    def __call__(self, x: Array) -> Array:
        """x [M, h, w, C] -> [M, h * w, 5 + classes], probabilities after the box."""
        x = self.stem(x)
        c, r = x, x
        for block in self.cls:
            c = block(c)
        for block in self.reg:
            r = block(r)
        sure = nn.sigmoid(jnp.concatenate([self.obj_out(r), self.cls_out(c)], axis=-1))
        y = jnp.concatenate([self.box_out(r), sure], axis=-1)
        return y.reshape(y.shape[0], -1, y.shape[-1]).astype(jnp.float32)


class YOLOX(PerFrame[Detections]):
    """Objects of every frame; keeps no memory, so its carry is empty."""

    config: YOLOXConfig
    task = "detect"

    def setup(self):
        cfg = self.config
        w, dtype = cfg.width, cfg.dtype
        self.stem = BaseConv(w, 3, dtype=dtype)
        widths = (2 * w, 4 * w, 8 * w, 16 * w)
        self.down = [conv3(cfg, n // 2, n, 2) for n in widths]
        depths = (cfg.depth, 3 * cfg.depth, 3 * cfg.depth, cfg.depth)
        self.stages = [
            CSP(cfg, n, depth, shortcut=i < 3)
            for i, (n, depth) in enumerate(zip(widths, depths, strict=True))
        ]
        self.spp = SPP(16 * w, dtype=dtype)
        self.lateral5 = BaseConv(8 * w, dtype=dtype)
        self.top4 = CSP(cfg, 8 * w, cfg.depth, shortcut=False)
        self.lateral4 = BaseConv(4 * w, dtype=dtype)
        self.top3 = CSP(cfg, 4 * w, cfg.depth, shortcut=False)
        self.down3 = conv3(cfg, 4 * w, 4 * w, 2)
        self.bottom4 = CSP(cfg, 8 * w, cfg.depth, shortcut=False)
        self.down4 = conv3(cfg, 8 * w, 8 * w, 2)
        self.bottom5 = CSP(cfg, 16 * w, cfg.depth, shortcut=False)
        self.heads = [Head(cfg) for _ in STRIDES]

    def find(self, pictures: Array) -> Detections:
        """Pictures [M, H, W, 3] in 0..255 -> Detections whose leaves have one leading axis, M."""
        return self.see(pictures)[0]

    def see(self, pictures: Array) -> tuple[Detections, Maps]:
        """As :meth:`find`, and the maps in which the objects were found."""
        cfg = self.config
        rows, cols = fitted((pictures.shape[1], pictures.shape[2]), cfg.image_size)
        side = (-(-rows // 32) * 32, -(-cols // 32) * 32) if cfg.trim else cfg.image_size
        maps = self.maps(letterbox(pictures, side, FILL))
        boxes, sure = self.decode(self.heads_of(maps), side)
        scores, labels = sure.max(axis=-1), sure.argmax(axis=-1).astype(jnp.int32)

        kept = best(boxes, scores, labels, slots=cfg.slots, threshold=cfg.threshold, iou=cfg.iou)
        found = Detections(*kept)
        scale = np.asarray([[[cols, rows, cols, rows]]], np.float32)
        found = found.replace(boxes=jnp.clip(found.boxes / scale, 0.0, 1.0))
        return found, Maps(maps, (rows / side[0], cols / side[1]))

    def raw(self, x: Array) -> Array:
        """The exported network: letterboxed RGB [M, *image_size, 3] -> [M, cells, 5 + classes].

        Boxes are offsets in cells and logarithms of sizes, the rest probabilities; cells go row by
        row, the finest map first.
        """
        return self.heads_of(self.maps(x))

    def maps(self, x: Array) -> tuple[Array, Array, Array]:
        """Letterboxed RGB [M, *image_size, 3] -> the pyramid at strides 8, 16 and 32, [M, h, w, D]
        with 4, 8 and 16 times ``width`` channels."""
        x = _focus(x[..., ::-1].astype(self.config.dtype))  # the network reads BGR
        x = self.stem(x)
        maps = []
        for i, (down, stage) in enumerate(zip(self.down, self.stages, strict=True)):
            x = down(x)
            x = stage(self.spp(x) if i == 3 else x)
            maps.append(x)
        _, c3, c4, c5 = maps
        p5 = self.lateral5(c5)
        p4 = self.lateral4(self.top4(jnp.concatenate([_double(p5), c4], axis=-1)))
        n3 = self.top3(jnp.concatenate([_double(p4), c3], axis=-1))
        n4 = self.bottom4(jnp.concatenate([self.down3(n3), p4], axis=-1))
        n5 = self.bottom5(jnp.concatenate([self.down4(n4), p5], axis=-1))
        return n3, n4, n5

    def heads_of(self, maps: tuple[Array, Array, Array]) -> Array:
        """What the heads say of each cell, as :meth:`raw` gives it."""
        found = [head(m) for head, m in zip(self.heads, maps, strict=True)]
        return jnp.concatenate(found, axis=1)

    @nn.nowrap
    def decode(self, raw: Array, side: tuple[int, int] | None = None) -> tuple[Array, Array]:
        """What :meth:`raw` gives -> boxes x1, y1, x2, y2 in pixels of the network's input
        [M, cells, 4], and scores, objectness times class [M, cells, classes]."""
        cells, stride = (a[None] for a in grid(side or self.config.image_size))
        centre = (raw[..., :2] + cells) * stride
        half = jnp.exp(raw[..., 2:4]) * stride / 2
        boxes = jnp.concatenate([centre - half, centre + half], axis=-1)
        return boxes, raw[..., 4:5] * raw[..., 5:]


def grid(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Column and row of each prediction [n, 2] and its stride in pixels [n, 1]."""
    cells, strides = [], []
    for stride in STRIDES:
        rows, cols = size[0] // stride, size[1] // stride
        row, col = np.divmod(np.arange(rows * cols), cols)
        cells.append(np.stack([col, row], axis=1))
        strides.append(np.full((rows * cols, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)


def _focus(x: Array) -> Array:
    """[M, H, W, C] -> [M, H / 2, W / 2, 4 C]: the four pixels of each 2 x 2 block side by side,
    top left, bottom left, top right, bottom right."""
    parts = [x[:, row::2, col::2] for col in (0, 1) for row in (0, 1)]
    return jnp.concatenate(parts, axis=-1)
