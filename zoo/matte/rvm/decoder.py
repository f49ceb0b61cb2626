"""The recurrent decoder of Robust Video Matting and the filter that sharpens what it answers.

Source: Lin et al., "Robust High-Resolution Video Matting with Temporal Guidance" (arXiv
2108.11515), sections 3.2 and 3.3; the filter is the deep guided filter of Wu et al. (arXiv
1803.05619).
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.conv2d import depthwise_conv2d
from ....layers.conv_gru import ConvGRU
from ....layers.streaming import DType

Array = jax.Array
WIDTHS = (80, 40, 32, 16)  # channels at strides 8, 4, 2 and 1
TOP = 128  # at stride 16
State = tuple[Array, ...]


def halved(x: Array) -> Array:
    """Means of 2 x 2 pixels [M, H, W, C] -> [M, ceil(H / 2), ceil(W / 2), C]; at an odd edge of
    those that there are."""
    m, height, width, c = x.shape
    pads = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    add = lambda a: (
        jnp.pad(a, pads).reshape(a.shape[0], -(-height // 2), 2, -(-width // 2), 2, a.shape[-1])
    ).sum((2, 4))
    return add(x) / add(jnp.ones((1, height, width, 1), x.dtype))


def resized(x: Array, size: tuple[int, int]) -> Array:
    """[M, H, W, C] -> [M, *size, C], bilinear between pixel middles, not smoothed before."""
    shape = (x.shape[0], *size, x.shape[3])
    return jax.image.resize(x, shape, "bilinear", antialias=False)


def doubled(x: Array, like: Array) -> Array:
    """Twice the size, cut off at that of ``like``."""
    x = resized(x, (2 * x.shape[1], 2 * x.shape[2]))
    return x[:, : like.shape[1], : like.shape[2]]


class Recurrent(nn.Module):
    """The second half of the channels through a recurrent unit; the first stays as it is."""

    width: int
    dtype: DType = jnp.float32

    def setup(self):
        self.gru = ConvGRU(self.width // 2, self.dtype)

    def __call__(self, state: Array, x: Array, valid: Array) -> tuple[Array, Array]:
        """x [B * T, H, W, C], valid [B, T]."""
        still, moving = jnp.split(x, 2, axis=-1)
        moving = moving.reshape(*valid.shape, *moving.shape[1:])
        state, moving = self.gru(state, moving, valid)
        return state, jnp.concatenate([still, moving.reshape(still.shape)], axis=-1)


class Decoder(nn.Module):
    """Maps at strides 16 to 1, each with what the trunk and the frame say at its size."""

    dtype: DType = jnp.float32

    def setup(self):
        conv = lambda width: nn.Conv(width, (3, 3), padding=1, dtype=self.dtype)
        self.recurrent = [Recurrent(width, self.dtype) for width in (TOP, *WIDTHS[:-1])]
        self.merge = [conv(width) for width in WIDTHS]
        self.last = conv(WIDTHS[-1])

    def __call__(
        self, states: State, frames: Array, maps: list[Array], valid: Array
    ) -> tuple[State, Array]:
        """Frames [B * T, H, W, 3] in 0..1; maps fine first, the last one of ``TOP`` channels.
        Returns the states, coarse first, and 16 channels of every pixel."""
        pictures = [frames]
        for _ in range(3):
            pictures.append(halved(pictures[-1]))
        state, x = self.recurrent[0](states[0], maps[3], valid)
        new = [state]
        for i, picture in enumerate(reversed(pictures)):
            parts = [doubled(x, picture), *([maps[2 - i]] if i < 3 else []), picture]
            x = nn.relu(self.merge[i](jnp.concatenate(parts, axis=-1).astype(self.dtype)))
            if i < 3:
                state, x = self.recurrent[i + 1](states[i + 1], x, valid)
                new.append(state)
        return tuple(new), nn.relu(self.last(x))


class GuidedFilter(nn.Module):
    """What the network says of small frames, as lines over the brightness of the large ones."""

    dtype: DType = jnp.float32

    def setup(self):
        self.box = self.param("box", nn.initializers.constant(1 / 9), (3, 3, 1, 4))
        self.mix = [nn.Conv(width, (1, 1), dtype=self.dtype) for width in (16, 16, 4)]

    def __call__(self, fine: Array, base: Array, answer: Array, hidden: Array) -> Array:
        """Frames fine [M, H, W, 3] and base [M, h, w, 3]; answer [M, h, w, 4] and hidden
        [M, h, w, 16] of the base -> the answer [M, H, W, 4]."""
        bright = lambda x: jnp.concatenate([x, x.mean(axis=-1, keepdims=True)], axis=-1)
        mean = lambda x: depthwise_conv2d(x, self.box)
        x, y = bright(base), answer
        mean_x, mean_y = mean(x), mean(y)
        covariance, variance = mean(x * y) - mean_x * mean_y, mean(x * x) - mean_x * mean_x
        slope = jnp.concatenate([covariance, variance, hidden], axis=-1)
        slope = self.mix[2](nn.relu(self.mix[1](nn.relu(self.mix[0](slope)))))
        offset = mean_y - slope * mean_x
        size = fine.shape[1], fine.shape[2]
        return resized(slope, size) * bright(fine) + resized(offset, size)
