"""XMem: a tracker of masks with sensory, working and long-term memory.

Source: Cheng and Schwing, "XMem: Long-Term Video Object Segmentation with an Atkinson-Shiffrin
Memory Model" (arXiv 2207.07115) and its code, hkchengrex/XMem.

Axis letters as in ``stream.py``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.streaming import DType
from ...ranges import Count
from ...resnet import WIDER, ResNet
from .blocks import Feel, Fuse, Recur, ResBlock, aggregate, conv, grown, rows
from .carry import MemoryCarry, MemoryConfig, Seen
from .stream import MemoryTracker

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class XMemConfig(MemoryConfig):
    """Sizes; fields as in :class:`MemoryConfig`.

    Attributes:
      blocks: of the image's trunk, a ResNet-50, at strides 4, 8 and 16; mask_blocks: of the masks',
        a ResNet-18.
      decoder: widths of the decoder at strides 16, 8 and 4.
      middle: of what the sensory memory is told.
    """

    blocks: tuple[Count, Count, Count] = (3, 4, 6)
    mask_blocks: tuple[Count, Count, Count] = (2, 2, 2)
    decoder: tuple[Count, Count, Count] = (512, 256, 256)
    middle: Count = 256


class Keys(nn.Module):
    """What cells are asked for and found by: [B, h, w, C] -> key, select, shrink."""

    width: int
    dtype: DType = jnp.float32

    def setup(self):
        self.key = conv(self.width, 3, self.dtype)
        self.select = conv(self.width, 3, self.dtype)
        self.shrink = conv(1, 3, self.dtype)

    def __call__(self, x: Array) -> tuple[Array, Array, Array]:
        flat = lambda a: a.reshape(a.shape[0], -1, a.shape[-1]).astype(jnp.float32)
        key, select, shrink = (flat(f(x)) for f in (self.key, self.select, self.shrink))
        return key, nn.sigmoid(select), shrink[..., 0] ** 2 + 1


class Up(nn.Module):
    """An object's map at twice its size, with the image's: skip [M, 2h, 2w, C], g [M, h, w, D]."""

    inside: int
    width: int
    dtype: DType = jnp.float32

    def setup(self):
        self.skip = conv(self.inside, 3, self.dtype)
        self.block = ResBlock(self.width, self.inside, dtype=self.dtype)

    def __call__(self, skip: Array, g: Array, objects: int) -> Array:
        return self.block(rows(self.skip(skip), objects) + grown(g, 2))


def others(prob: Array) -> Array:
    """Of each object the sum of the others' masks: [B, O, ...] -> the same."""
    return prob.sum(1, keepdims=True) - prob


class XMem(MemoryTracker):
    """See :class:`~streamzoo.zoo.segment.xmem.stream.MemoryTracker`."""

    config: XMemConfig
    feels_always = False

    def setup(self):
        c = self.config
        dtype = jnp.dtype(c.dtype)
        deep, wide = 4 * WIDER * c.width, 4 * c.width
        d16, d8, d4 = c.decoder
        self.image_encoder = ResNet(c.blocks, True, c.width, dtype)
        self.keys = Keys(c.key, dtype)
        self.mask_encoder = ResNet(c.mask_blocks, False, c.width, dtype)
        self.mask_fuse = Fuse(c.value, deep + wide, dtype=dtype)
        self.deep_feel = Recur(c.sensory, dtype)
        self.fuse = Fuse(d16, deep + c.value + c.sensory, dtype=dtype)
        self.up8 = Up(d16, d8, dtype)
        self.up4 = Up(d8, d4, dtype)
        self.mask = conv(1, 3, dtype)
        self.feel = Feel(c.middle, c.sensory, dtype)

    def see(self, frames: Array) -> Seen:
        """The image's part: frames [B, H, W, 3]."""
        f4, f8, f16 = self.image_encoder(frames)
        return Seen(*self.keys(f16), (f16, f8, f4))

    def find(self, carry: MemoryCarry, seen: Seen, read: Array) -> tuple[Array, Array]:
        """See :class:`MemoryTracker`."""
        c = self.config
        (f16, f8, f4), (h, w) = seen.maps, c.grid
        state = carry.sensory.reshape(-1, h, w, c.sensory)
        found = jnp.concatenate([read.reshape(-1, h, w, c.value), state], -1)
        g16 = self.fuse(rows(f16, c.objects), found)
        g8 = self.up8(f8, g16, c.objects)
        g4 = self.up4(f4, g8, c.objects)
        low = self.mask(nn.relu(g4))
        felt = self.feel(g16, g8, jnp.concatenate([g4, low], -1), state)
        logits = grown(low.astype(jnp.float32), 4)[..., 0]
        logits = logits.reshape(*carry.active.shape, *c.image_size)
        prob = jnp.where(carry.active[..., None, None], nn.sigmoid(logits), 0.0)
        prob = nn.softmax(aggregate(prob, carry.active), axis=1)
        return felt.reshape(carry.sensory.shape), prob

    def remember(
        self, carry: MemoryCarry, seen: Seen, frames: Array, prob: Array
    ) -> tuple[Array, Array, Any]:
        """See :class:`MemoryTracker`."""
        c = self.config
        h, w = c.grid
        flat = lambda a: a.reshape(-1, *c.image_size, 1).astype(frames.dtype)
        x = jnp.concatenate([rows(frames, c.objects), flat(prob), flat(others(prob))], -1)
        value = self.mask_fuse(rows(seen.maps[0], c.objects), self.mask_encoder(x)[2])
        state = self.deep_feel(value, carry.sensory.reshape(-1, h, w, c.sensory))
        value = value.reshape(*carry.active.shape, h * w, c.value)
        return value, state.reshape(carry.sensory.shape), None
