"""EfficientNet-Lite: a convolutional image encoder without squeeze-and-excitation, for small chips.

Source: Tan and Le, "EfficientNet" (arXiv 1905.11946), and the Lite variants of its TPU repository:
ReLU6, no SE, stem and head of fixed width, TF's "SAME" padding. Batch norms are folded into the
convolutions, as at inference: the encoder is a frozen one.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.conv2d import depthwise_conv2d
from ....layers.kernels.dispatch import Backend, Op
from ....layers.ranks import to_rank
from ....layers.streaming import DType
from ...ranges import Checked, Count, Size, Whole

Array = jax.Array

# The network was trained on (x - 127) / 128.
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3


class Stage(NamedTuple):
    kernel: int
    repeats: int
    width: int  # channels that come out
    expand: int
    stride: int


LITE0 = (
    Stage(3, 1, 16, 1, 1),
    Stage(3, 2, 24, 6, 2),
    Stage(5, 2, 40, 6, 2),
    Stage(3, 3, 80, 6, 2),
    Stage(5, 3, 112, 6, 1),
    Stage(5, 4, 192, 6, 2),
    Stage(3, 1, 320, 6, 1),
)


@dataclasses.dataclass(frozen=True)
class EfficientNetLiteConfig(Checked):
    """Shapes of an EfficientNet-Lite.

    Attributes:
      stem: channels of the first convolution.
      head: channels of the last convolution, 0 to leave it and the classifier out.
      num_classes: of the classifier, 0 for none.
      dtype: compute type.
    """

    image_size: Size = (224, 224)
    stem: Count = 32
    stages: tuple[Stage, ...] = LITE0
    head: Whole = 1280
    num_classes: Whole = 1000
    dtype: DType = "float32"

    @property
    def stride(self) -> int:
        """Pixels per cell of the last feature map."""
        stride = 2
        for stage in self.stages:
            stride *= stage.stride
        return stride


def conv(x: Array, kernel: Array, bias: Array, stride: int, groups: int = 1) -> Array:
    """x [M, H, W, C], kernel [k, k, C / groups, O] -> [M, H / stride, W / stride, O]."""
    y = jax.lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    return y + to_rank(bias.astype(x.dtype), x)


def _sums(x: Array, kernel: Array, bias: Array, *, stride: int) -> Array:
    side = kernel.shape[0]
    height, width = (-(-n // stride) for n in x.shape[1:3])
    pads = [
        max((out - 1) * stride + side - n, 0)
        for out, n in zip((height, width), x.shape[1:3], strict=True)
    ]
    x = jnp.pad(x, ((0, 0), *((p // 2, p - p // 2) for p in pads), (0, 0)))
    kernel = kernel.astype(x.dtype)
    y: Any = to_rank(bias.astype(x.dtype), x)
    for row in range(side):
        for col in range(side):
            part = x[:, row : row + (height - 1) * stride + 1 : stride]
            part = part[:, :, col : col + (width - 1) * stride + 1 : stride]
            y = y + part * to_rank(kernel[row, col, 0], x)
    return y


def _grouped(x: Array, kernel: Array, bias: Array, *, stride: int) -> Array:
    return conv(x, kernel, bias, stride, groups=x.shape[-1])


_depthwise = Op("depthwise same", Backend("reference", _sums), Backend("convolution", _grouped))


def depthwise(x: Array, kernel: Array, bias: Array, stride: int) -> Array:
    """One k x k filter per channel: x [M, H, W, C], kernel [k, k, 1, C].

    A sum of shifted products: XLA's grouped convolution is several times slower on a CPU.
    """
    return _depthwise(x, kernel, bias, stride=stride)


def relu6(x: Array) -> Array:
    return jnp.clip(x, 0.0, 6.0)


class MBConv(nn.Module):
    """Inverted bottleneck: widen, filter each channel, narrow. x [M, H, W, C] -> [M, h, w, O].

    ``middle``: the filter pads all sides alike, where TensorFlow's "SAME" with a stride of 2 pads
    the far side more.
    """

    kernel: int
    inside: int
    width: int
    expand: int
    stride: int
    middle: bool = False

    def setup(self):
        init, zeros = nn.initializers.he_normal(), nn.initializers.zeros
        middle = self.inside * self.expand
        if self.expand != 1:
            self.expand_kernel = self.param("expand_kernel", init, (1, 1, self.inside, middle))
            self.expand_bias = self.param("expand_bias", zeros, (middle,))
        side = self.kernel
        self.depth_kernel = self.param("depth_kernel", init, (side, side, 1, middle))
        self.depth_bias = self.param("depth_bias", zeros, (middle,))
        self.project_kernel = self.param("project_kernel", init, (1, 1, middle, self.width))
        self.project_bias = self.param("project_bias", zeros, (self.width,))

    def __call__(self, x: Array) -> Array:
        y = x
        if self.expand != 1:
            y = relu6(conv(y, self.expand_kernel, self.expand_bias, 1))
        filtered = depthwise_conv2d if self.middle else depthwise
        y = relu6(filtered(y, self.depth_kernel, self.depth_bias, self.stride))
        y = conv(y, self.project_kernel, self.project_bias, 1)
        return x + y if self.stride == 1 and self.inside == self.width else y


class EfficientNetLite(nn.Module):
    """Feature maps of single frames."""

    config: EfficientNetLiteConfig
    task = "encode"

    def setup(self):
        cfg = self.config
        init, zeros = nn.initializers.he_normal(), nn.initializers.zeros
        self.stem_kernel = self.param("stem_kernel", init, (3, 3, 3, cfg.stem))
        self.stem_bias = self.param("stem_bias", zeros, (cfg.stem,))
        blocks, inside = [], cfg.stem
        for stage in cfg.stages:
            for i in range(stage.repeats):
                stride = stage.stride if i == 0 else 1
                blocks.append(MBConv(stage.kernel, inside, stage.width, stage.expand, stride))
                inside = stage.width
        self.blocks = blocks
        if cfg.head:
            self.head_kernel = self.param("head_kernel", init, (1, 1, inside, cfg.head))
            self.head_bias = self.param("head_bias", zeros, (cfg.head,))
        if cfg.num_classes:
            self.fc = nn.Dense(cfg.num_classes)

    def __call__(self, frames: Array) -> Array:
        """Class logits: frames [..., H, W, 3], normalised -> [..., num_classes].

        Raises ValueError for an encoder without head or classifier."""
        if not self.config.head or not self.config.num_classes:
            raise ValueError("this encoder has no classifier: use features or pyramid")
        return self.fc(self.features(frames).mean(axis=(-3, -2)))

    def features(self, frames: Array) -> Array:
        """frames [..., H, W, 3] -> the head's map [..., H / 32, W / 32, 1280]."""
        x = self._levels(frames.reshape(-1, *frames.shape[-3:]))[-1]
        x = relu6(conv(x, self.head_kernel, self.head_bias, 1))
        return x.reshape(*frames.shape[:-3], *x.shape[1:])

    def pyramid(self, frames: Array) -> Array:
        """frames [..., H, W, 3] -> [..., H / 32, W / 32, 768]: the last map (320 channels), and
        the last one of twice its resolution (112 channels), its 2 x 2 cells side by side."""
        *_, fine, coarse = self._levels(frames.reshape(-1, *frames.shape[-3:]))
        m, h, w, _ = coarse.shape
        fine = fine.reshape(m, h, 2, w, 2, -1).swapaxes(2, 3).reshape(m, h, w, -1)
        x = jnp.concatenate([fine, coarse], axis=-1)
        return x.reshape(*frames.shape[:-3], *x.shape[1:])

    def levels(self, frames: Array) -> tuple[Array, ...]:
        """frames [M, H, W, 3] -> the last maps at strides 4, 8, ..., 32, finest first: of Lite0
        with 24, 40, 112 and 320 channels. Odd sizes are rounded up."""
        return tuple(self._levels(frames)[1:])

    def _levels(self, x: Array) -> list[Array]:
        """The last map of every resolution, finest first."""
        cfg = self.config
        x = relu6(conv(x.astype(cfg.dtype), self.stem_kernel, self.stem_bias, 2))
        levels: list[Array] = []
        for block in self.blocks:
            if block.stride != 1:
                levels.append(x)
            x = block(x)
        return [*levels, x]


def pyramid_width(config: EfficientNetLiteConfig) -> int:
    """Channels of :meth:`EfficientNetLite.pyramid`."""
    last = max(i for i, stage in enumerate(config.stages) if stage.stride == 2)
    return 4 * config.stages[last - 1].width + config.stages[-1].width


def of_pyramid(features: Array, config: EfficientNetLiteConfig) -> tuple[Array, Array]:
    """The two maps that :meth:`EfficientNetLite.pyramid` has put together, [M, h, w, F]: the finer
    one [M, 2 h, 2 w, C] and the last."""
    m, h, w, width = features.shape
    split = width - config.stages[-1].width
    fine = features[..., :split].reshape(m, h, w, 2, 2, split // 4).swapaxes(2, 3)
    return fine.reshape(m, 2 * h, 2 * w, split // 4), features[..., split:]
