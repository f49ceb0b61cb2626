"""DEVA's propagation: XMem's memories, each object by itself, and the last mask beside them.

Source: Cheng et al., "Tracking Anything with Decoupled Video Segmentation" (arXiv 2309.03903) and
its code, hkchengrex/Tracking-Anything-with-DEVA.

Axis letters as in ``xmem/stream.py``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.prototypes import share, similarity
from ....layers.streaming import DType
from ...ranges import Count
from ...resnet import ResNet
from ..xmem.blocks import Feel, Fuse, Recur, ResBlock, aggregate, conv, grown, rows
from ..xmem.carry import MemoryCarry, MemoryConfig, Seen
from ..xmem.model import Keys
from ..xmem.stream import MemoryTracker, coarse

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class DevaConfig(MemoryConfig):
    """Sizes; fields as in :class:`~streamzoo.zoo.segment.xmem.carry.MemoryConfig`.

    Attributes:
      blocks: of the image's trunk, a ResNet-50, at strides 4, 8 and 16; mask_blocks: of the masks',
        a ResNet-18.
      image: width of the image's map at stride 16.
      decoder: widths of the decoder at strides 8 and 4; at 16 it is ``value``.
      middle: of what the sensory memory is told.
    """

    sensory: Count = 512
    blocks: tuple[Count, Count, Count] = (3, 4, 6)
    mask_blocks: tuple[Count, Count, Count] = (2, 2, 2)
    image: Count = 512
    decoder: tuple[Count, Count] = (256, 256)
    middle: Count = 512


class AddUp(nn.Module):
    """An object's map at twice its size, plus the image's: skip [M, 2h, 2w, C], g [M, h, w, C] ->
    [M, 2h, 2w, width]."""

    inside: int
    width: int
    dtype: DType = jnp.float32

    def setup(self):
        self.block = ResBlock(self.width, self.inside, 1, self.dtype)

    def __call__(self, skip: Array, g: Array) -> Array:
        return self.block(skip + grown(g, 2))


def upsampled(low: Array, active: Array) -> Array:
    """Logits [B, O, h, w] of each object by itself -> probabilities [B, O + 1, 4h, 4w] of all in
    ``active`` [B, O], which were aggregated before they grew."""
    prob = jnp.where(active[..., None, None], nn.sigmoid(low), 0.0)
    logits = aggregate(prob, active)
    there = jnp.isfinite(logits)
    b, n, h, w = logits.shape
    wide = jax.image.resize(
        jnp.where(there, logits, 0.0), (b, n, 4 * h, 4 * w), "bilinear", antialias=False
    )
    return nn.softmax(jnp.where(there[..., :1, :1], wide, -jnp.inf), axis=1)


class EachAlone(MemoryTracker):
    """A network that draws each object by itself, from a narrower image than its trunk's."""

    looks_back = True

    def see(self, frames: Array) -> Seen:
        """The image's part: frames [B, H, W, 3]."""
        f4, f8, f16 = self.image_encoder(frames)
        key, select, shrink = self.keys(self.asked(f16))
        return Seen(key, select, shrink, (self.image(f16), f8, f4))

    def drawn(
        self, carry: MemoryCarry, seen: Seen, state: Array, g16: Array
    ) -> tuple[Array, Array]:
        """Objects at stride 16, [B * O, h, w, D], and their sensory memory [B * O, h, w, S] -> what
        ``find`` gives."""
        c = self.config
        (_, f8, f4), (h, w) = seen.maps, c.grid
        g8 = self.up8(rows(self.skip8(f8), c.objects), g16)
        g4 = self.up4(rows(self.skip4(f4), c.objects), g8)
        low = self.mask(nn.relu(g4))
        felt = self.feel(g16, g8, jnp.concatenate([g4, low], -1), state)
        low = low.astype(jnp.float32).reshape(*carry.active.shape, 4 * h, 4 * w)
        return felt.reshape(carry.sensory.shape), upsampled(low, carry.active)


class Deva(EachAlone):
    """See :class:`~streamzoo.zoo.segment.xmem.stream.MemoryTracker`."""

    config: DevaConfig

    def setup(self):
        c = self.config
        dtype = jnp.dtype(c.dtype)
        d8, d4 = c.decoder
        self.image_encoder = ResNet(c.blocks, True, c.width, dtype)
        self.image = conv(c.image, 1, dtype)
        self.asked = conv(c.image, 1, dtype)
        self.keys = Keys(c.key, dtype)
        self.mask_encoder = ResNet(c.mask_blocks, False, c.width, dtype)
        self.mask_fuse = Fuse(c.value, c.image + 4 * c.width, 1, dtype)
        self.deep_feel = Recur(c.sensory, dtype)
        self.sense = conv(c.value, 1, dtype)
        self.fuse = Fuse(c.value, c.image + c.value, 1, dtype)
        self.skip8 = conv(c.value, 1, dtype)
        self.skip4 = conv(d8, 1, dtype)
        self.up8 = AddUp(c.value, d8, dtype)
        self.up4 = AddUp(d8, d4, dtype)
        self.mask = conv(1, 3, dtype)
        self.feel = Feel(c.middle, c.sensory, dtype)

    def find(self, carry: MemoryCarry, seen: Seen, read: Array) -> tuple[Array, Array]:
        """See :class:`~streamzoo.zoo.segment.xmem.stream.MemoryTracker`."""
        c = self.config
        f16, (h, w) = seen.maps[0], c.grid
        state = carry.sensory.reshape(-1, h, w, c.sensory)
        assert carry.mask is not None
        last = jnp.concatenate([state, carry.mask.reshape(-1, h, w, 1)], -1).astype(f16.dtype)
        g16 = read.reshape(-1, h, w, c.value).astype(f16.dtype) + self.sense(last)
        g16 = self.fuse(rows(f16, c.objects), g16)
        return self.drawn(carry, seen, state, g16)

    def remember(
        self, carry: MemoryCarry, seen: Seen, frames: Array, prob: Array
    ) -> tuple[Array, Array, Any]:
        """See :class:`~streamzoo.zoo.segment.xmem.stream.MemoryTracker`."""
        c = self.config
        h, w = c.grid
        mask = prob.reshape(-1, *c.image_size, 1).astype(frames.dtype)
        x = jnp.concatenate([rows(frames, c.objects), mask], -1)
        value = self.mask_fuse(rows(seen.maps[0], c.objects), self.mask_encoder(x)[2])
        state = self.deep_feel(value, carry.sensory.reshape(-1, h, w, c.sensory))
        value = value.reshape(*carry.active.shape, h * w, c.value)
        return value, state.reshape(carry.sensory.shape), None

    def align(self, source: Array, masks: Array, there: Array, target: Array) -> Array:
        """Masks of one frame laid onto another, with nothing else remembered.

        source, target: [B, H, W, 3]; masks [B, O, H, W] of ``source``, of the slots in ``there``
        [B, O] bool. Returns probabilities [B, O + 1, H, W] in ``target``, the background first.
        """
        first, second = self.see(source), self.see(target)
        carry = dataclasses.replace(self.init_carry(source.shape[0]), active=there)
        value, sensory, _ = self.remember(carry, first, source, masks)
        every = jnp.ones(first.shrink.shape, bool)
        likeness = similarity(first.key, first.shrink, second.key, second.select)
        weight = share(likeness, every, self.config.nearest)
        read = jnp.einsum("bmn,bond->bomd", weight, value.astype(jnp.float32))
        carry = dataclasses.replace(carry, sensory=sensory, mask=coarse(masks))
        return self.find(carry, second, read)[1]
