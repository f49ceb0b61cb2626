"""FastestDet: one map of cells, each of which says whether an object's middle is in it.

Source: dog-qiuqiu/FastestDet (BSD-3-Clause), whose trunk is ShuffleNet V2 (Ma et al., arXiv
1807.11164): half of the channels pass by each block. Batch norms are folded into the
convolutions, as at inference.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ....layers.conv2d import Depthwise
from ....layers.streaming import DType
from ...per_frame import PerFrame
from ...ranges import Checked, Count, Share, Size
from ..boxes import best
from ..outputs import Detections

Array = jax.Array
STRIDE = 16  # pixels per cell of the map
OBJECT, CLASS = 0.6, 0.4  # powers of the two probabilities in a score


@dataclasses.dataclass(frozen=True)
class FastestDetConfig(Checked):
    """Shapes of a FastestDet and its operating point.

    Attributes:
      image_size: (height, width) to which frames are stretched, multiples of 32.
      stem: channels of the first convolution.
      widths: channels of the three stages, at strides 8, 16 and 32.
      repeats: blocks of each stage, the one that halves the sides included.
      slots: objects that a frame has at most.
      threshold: a detection's score must be above it.
      iou: a box that overlaps a better one of its class by more than this is dropped.
    """

    image_size: Size = (352, 352)
    classes: Count = 80
    stem: Count = 24
    widths: tuple[Count, ...] = (48, 96, 192)
    repeats: tuple[Count, ...] = (4, 8, 4)
    slots: Count = 100
    threshold: Share = 0.65
    iou: Share = 0.45
    dtype: DType = "float32"


def _point(width: int, dtype: DType) -> nn.Conv:
    return nn.Conv(width, (1, 1), dtype=dtype)


class Block(nn.Module):
    """Half of ``width`` channels through 1 x 1, 3 x 3 per channel, 1 x 1; the other half around.

    With ``halve`` both halves see all channels, the one around through 3 x 3 per channel and
    1 x 1, and height and width are halved. Else the even channels go around and the odd ones
    through, which mixes the halves from block to block.
    """

    inside: int
    width: int
    halve: bool = False
    dtype: DType = jnp.float32

    def setup(self):
        half = self.width // 2
        step, inside = (2, self.inside) if self.halve else (1, half)
        if self.halve:
            self.around_depth = Depthwise(inside, 3, 2, dtype=self.dtype)
            self.around_point = _point(inside, self.dtype)
        self.reduce = _point(half, self.dtype)
        self.depth = Depthwise(half, 3, step, dtype=self.dtype)
        self.point = _point(self.width - inside, self.dtype)

    def __call__(self, x: Array) -> Array:
        """[M, H, W, inside] -> [M, H, W, width], or half of the sides."""
        if self.halve:
            around = nn.relu(self.around_point(self.around_depth(x)))
        else:
            around, x = x[..., ::2], x[..., 1::2]
        x = nn.relu(self.point(self.depth(nn.relu(self.reduce(x)))))
        return jnp.concatenate([around, x], axis=-1)


class Pyramid(nn.Module):
    """Sums of what one, two and three 5 x 5 filters per channel see, added to the input."""

    width: int
    dtype: DType = jnp.float32

    def setup(self):
        self.reduce = _point(self.width, self.dtype)
        self.near, self.middle, self.far = (
            [Depthwise(self.width, 5, dtype=self.dtype) for _ in range(n)] for n in (1, 2, 3)
        )
        self.join = _point(self.width, self.dtype)

    def __call__(self, x: Array) -> Array:
        """[M, h, w, C] -> [M, h, w, width]."""
        x = nn.relu(self.reduce(x))
        parts = []
        for filters in (self.near, self.middle, self.far):
            y = x
            for filter in filters:
                y = nn.relu(filter(y))
            parts.append(y)
        return nn.relu(x + self.join(jnp.concatenate(parts, axis=-1)))


class FastestDet(PerFrame[Detections]):
    """Objects of every frame; keeps no memory, so its carry is empty."""

    config: FastestDetConfig
    task = "detect"

    def setup(self):
        cfg = self.config
        self.stem = nn.Conv(cfg.stem, (3, 3), (2, 2), padding=1, dtype=cfg.dtype)
        blocks, inside = [], cfg.stem
        for width, repeats in zip(cfg.widths, cfg.repeats, strict=True):
            for i in range(repeats):
                blocks.append(Block(inside, width, halve=i == 0, dtype=cfg.dtype))
                inside = width
        self.blocks = blocks
        width = cfg.widths[-2]
        self.pyramid = Pyramid(width, dtype=cfg.dtype)
        self.shared = _point(width, cfg.dtype)
        for name, size in (("obj", 1), ("box", 4), ("cls", cfg.classes)):
            setattr(self, f"{name}_filter", Depthwise(width, 5, dtype=cfg.dtype))
            setattr(self, f"{name}_out", _point(size, cfg.dtype))

    def raw(self, x: Array) -> Array:
        """The exported network: RGB [M, *image_size, 3] in 0..1 -> [M, h, w, 5 + classes] at a
        stride of 16: probability of an object, four numbers of its box, of each class its share.
        """
        x = x[..., ::-1].astype(self.config.dtype)  # the network reads BGR
        x = nn.relu(self.stem(x))
        x = _pool(x, jnp.maximum, -jnp.inf)
        ends, maps = np.cumsum(self.config.repeats).tolist(), []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i + 1 in ends:
                maps.append(x)
        fine, middle, coarse = maps
        coarse = coarse.repeat(2, axis=1).repeat(2, axis=2)
        fine = _pool(fine, jnp.add, 0.0) / 9
        x = self.pyramid(jnp.concatenate([fine, middle, coarse], axis=-1))
        x = nn.relu(self.shared(x))
        obj = nn.sigmoid(self.obj_out(nn.relu(self.obj_filter(x))))
        box = self.box_out(nn.relu(self.box_filter(x)))
        cls = nn.softmax(self.cls_out(nn.relu(self.cls_filter(x))), axis=-1)
        return jnp.concatenate([obj, box, cls], axis=-1).astype(jnp.float32)

    def find(self, pictures: Array) -> Detections:
        """Pictures [M, H, W, 3] in 0..1 -> Detections whose leaves have one leading axis, M."""
        cfg = self.config
        shape = (pictures.shape[0], *cfg.image_size, 3)
        if pictures.shape != shape:
            pictures = jax.image.resize(pictures, shape, "bilinear", antialias=False)
        boxes, scores, labels = self.decode(self.raw(pictures))

        kept = best(boxes, scores, labels, slots=cfg.slots, threshold=cfg.threshold, iou=cfg.iou)
        found = Detections(*kept)
        return found.replace(boxes=jnp.clip(found.boxes, 0.0, 1.0))

    @nn.nowrap
    def decode(self, raw: Array) -> tuple[Array, Array, Array]:
        """What :meth:`raw` gives -> boxes x1, y1, x2, y2 as fractions of the frame [M, h * w, 4],
        scores [M, h * w] and the surest class of each cell [M, h * w]."""
        rows, cols = raw.shape[1:3]
        row, col = np.divmod(np.arange(rows * cols), cols)
        cells = np.stack([col, row], axis=1).astype(np.float32)[None]
        flat = raw.reshape(raw.shape[0], rows * cols, raw.shape[-1])
        middle = (jnp.tanh(flat[..., 1:3]) + cells) / np.asarray([[[cols, rows]]], np.float32)
        half = nn.sigmoid(flat[..., 3:5]) / 2
        boxes = jnp.concatenate([middle - half, middle + half], axis=-1)
        sure = flat[..., 5:]
        scores = flat[..., 0] ** OBJECT * sure.max(axis=-1) ** CLASS
        return boxes, scores, sure.argmax(axis=-1).astype(jnp.int32)


def _pool(x: Array, join, fill: float) -> Array:
    """``join`` of the 3 x 3 pixels around every second one, ``fill`` outside of the map."""
    for axis in (1, 2):
        n = -(-x.shape[axis] // 2)
        pads = [(0, 0)] * x.ndim
        pads[axis] = (1, 1)
        wide = jnp.pad(x, pads, constant_values=fill)
        part = lambda i, a=wide, axis=axis, n=n: jax.lax.slice_in_dim(a, i, i + 2 * n - 1, 2, axis)
        x = join(join(part(0), part(1)), part(2))
    return x
