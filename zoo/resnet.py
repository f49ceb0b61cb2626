"""ResNets down to a stride of 16, as the trunks of mask trackers. Batch norms are folded.

Source: He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385), with the
stride in the 3 x 3 convolution, as torchvision has it.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..layers.streaming import DType

Array = jax.Array
WIDER = 4  # of the last layer of a block with a narrow middle


class Block(nn.Module):
    """Two 3 x 3 convolutions, or (``narrow``) 1 x 1, 3 x 3 and 1 x 1, beside a shortcut.

    [M, H, W, inside] -> [M, H / stride, W / stride, width, times ``WIDER`` if narrow].
    """

    width: int
    inside: int
    stride: int = 1
    narrow: bool = False
    dtype: DType = jnp.float32

    @property
    def reshapes(self) -> bool:
        """The shortcut has to."""
        return self.stride > 1 or self.inside != self.width * (WIDER if self.narrow else 1)

    def setup(self):
        out = self.width * (WIDER if self.narrow else 1)
        conv = lambda width, size, stride=1: nn.Conv(
            width, (size, size), (stride, stride), padding=size // 2, dtype=self.dtype
        )
        if self.narrow:
            self.conv1 = conv(self.width, 1)
            self.conv2 = conv(self.width, 3, self.stride)
            self.conv3 = conv(out, 1)
        else:
            self.conv1 = conv(out, 3, self.stride)
            self.conv2 = conv(out, 3)
        if self.reshapes:
            self.skip = conv(out, 1, self.stride)

    def __call__(self, x: Array) -> Array:
        y = self.conv2(nn.relu(self.conv1(x)))
        if self.narrow:
            y = self.conv3(nn.relu(y))
        return nn.relu(y + (self.skip(x) if self.reshapes else x))


class ResNet(nn.Module):
    """[M, H, W, C] -> maps at strides 4, 8 and 16.

    Attributes:
      blocks: of the three stages; ResNet-50: (3, 4, 6) with ``narrow``, ResNet-18: (2, 2, 2).
      width: of the stem and the first stage, twice as wide with each stage after it.
    """

    blocks: tuple[int, int, int]
    narrow: bool
    width: int = 64
    dtype: DType = jnp.float32

    def setup(self):
        self.stem = nn.Conv(self.width, (7, 7), (2, 2), padding=3, dtype=self.dtype)
        inside, stages = self.width, []
        for i, count in enumerate(self.blocks):
            width, stage = self.width * 2**i, []
            for j in range(count):
                stride = 2 if i and not j else 1
                stage.append(Block(width, inside, stride, self.narrow, self.dtype))
                inside = width * (WIDER if self.narrow else 1)
            stages.append(stage)
        self.layer1, self.layer2, self.layer3 = stages

    def __call__(self, x: Array) -> tuple[Array, Array, Array]:
        x = nn.relu(self.stem(x.astype(self.dtype)))
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # of no weight beside what is positive
        x = nn.max_pool(x, (3, 3), (2, 2))
        maps = []
        for stage in (self.layer1, self.layer2, self.layer3):
            for block in stage:
                x = block(x)
            maps.append(x)
        return maps[0], maps[1], maps[2]
