"""Cutie: pixels and objects remembered, the first frame for good.

Source: Cheng et al., "Putting the Object Back into Video Object Segmentation" (arXiv 2310.12982)
and its code, hkchengrex/Cutie.

Axis letters as in ``xmem/stream.py``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.feature_bank import Sums, empty_sums
from ....layers.three_store import StoreSizes
from ...ranges import Count, Whole
from ...resnet import ResNet
from ..deva.model import AddUp, EachAlone
from ..xmem.blocks import Feel, Recur, conv, rows
from ..xmem.carry import MemoryCarry, MemoryConfig, Seen
from ..xmem.model import Keys, others
from ..xmem.stream import coarse
from .blocks import AddFuse, Queries, Summary

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class CutieConfig(MemoryConfig):
    """Sizes; fields as in :class:`~streamzoo.zoo.segment.xmem.carry.MemoryConfig`.

    As published there is no long-term memory; for streams without end ``long=10000, frames=10,
    kept=5`` are the authors' sizes of one.

    Attributes:
      spare: entries that are freed besides where the long-term memory is full.
      blocks: of the image's trunk at strides 4, 8 and 16, a ResNet-50, or (not ``narrow``) a
        ResNet-18; mask_blocks: of the masks', a ResNet-18.
      image: width of the image's map at stride 16.
      decoder: widths of the decoder at strides 8 and 4; at 16 it is ``value``.
      queries, depth, heads, hidden: of the object transformer.
    """

    frames: Count = 5
    kept: Count = 1
    long: Whole = 0
    value: Count = 256
    sensory: Count = 256
    spare: Whole = 2000
    narrow: bool = True
    blocks: tuple[Count, Count, Count] = (3, 4, 6)
    mask_blocks: tuple[Count, Count, Count] = (2, 2, 2)
    image: Count = 256
    decoder: tuple[Count, Count] = (128, 128)
    queries: Count = 16
    depth: Count = 3
    heads: Count = 8
    hidden: Count = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queries % 2 or self.value % (4 * self.heads):
            raise ValueError(
                f"{self.queries} queries of {self.value}, {self.heads} heads: half of the queries"
                " are the object's, and each head has a multiple of 4"
            )

    @property
    def stores(self) -> StoreSizes:
        """Sizes of working and long-term memory."""
        sizes = super().stores
        return dataclasses.replace(sizes, spare=self.spare if self.long else 0, ties=True)


class Cutie(EachAlone):
    """See :class:`~streamzoo.zoo.segment.xmem.stream.MemoryTracker`."""

    config: CutieConfig

    def setup(self):
        c = self.config
        dtype = jnp.dtype(c.dtype)
        d8, d4 = c.decoder
        self.image_encoder = ResNet(c.blocks, c.narrow, c.width, dtype)
        self.image = conv(c.image, 1, dtype)
        self.asked = conv(c.image, 1, dtype)
        self.keys = Keys(c.key, dtype)
        self.mask_encoder = ResNet(c.mask_blocks, False, c.width, dtype)
        self.mask_fuse = AddFuse(c.value, dtype)
        self.deep_feel = Recur(c.sensory, dtype)
        self.summary = Summary(c.queries, c.value, dtype)
        self.sense = conv(c.value, 1, dtype)
        self.fuse = AddFuse(c.value, dtype)
        self.queries = Queries(c.queries, c.depth, c.heads, c.value, c.hidden, dtype)
        self.skip8 = conv(c.value, 1, dtype)
        self.skip4 = conv(d8, 1, dtype)
        self.up8 = AddUp(c.value, d8, dtype)
        self.up4 = AddUp(d8, d4, dtype)
        self.mask = conv(1, 3, dtype)
        self.feel = Feel(c.sensory, c.sensory, dtype)

    @nn.nowrap
    def no_sums(self, lead: tuple[int, ...]) -> Sums:
        """The object memory of nothing."""
        return empty_sums(lead, self.config.queries, self.config.value)

    def find(self, carry: MemoryCarry, seen: Seen, read: Array) -> tuple[Array, Array]:
        """See :class:`~streamzoo.zoo.segment.xmem.stream.MemoryTracker`."""
        c = self.config
        f16, (h, w) = seen.maps[0], c.grid
        state = carry.sensory.reshape(-1, h, w, c.sensory)
        assert carry.mask is not None and carry.sums is not None
        last = jnp.stack([carry.mask, jnp.clip(others(carry.mask), 0, 1)], -1)
        last = jnp.concatenate([state, last.reshape(-1, h, w, 2)], -1).astype(f16.dtype)
        g16 = read.reshape(-1, h, w, c.value).astype(f16.dtype) + self.sense(last)
        g16 = self.fuse(rows(f16, c.objects), g16)
        g16 = self.queries(
            g16.reshape(*carry.active.shape, h, w, c.value), carry.sums, carry.active
        ).reshape(-1, h, w, c.value)
        return self.drawn(carry, seen, state, g16)

    def remember(
        self, carry: MemoryCarry, seen: Seen, frames: Array, prob: Array
    ) -> tuple[Array, Array, Any]:
        """See :class:`~streamzoo.zoo.segment.xmem.stream.MemoryTracker`."""
        c = self.config
        h, w = c.grid
        lead = carry.active.shape
        flat = lambda a: a.reshape(-1, *c.image_size, 1).astype(frames.dtype)
        rest = jnp.clip(others(prob), 0, 1)
        x = jnp.concatenate([rows(frames, c.objects), flat(prob), flat(rest)], -1)
        value = self.mask_fuse(rows(seen.maps[0], c.objects), self.mask_encoder(x)[2])
        state = self.deep_feel(value, carry.sensory.reshape(-1, h, w, c.sensory))
        gain = self.summary(coarse(prob).reshape(-1, h, w), value)
        gain = jax.tree.map(lambda a: a.reshape(*lead, *a.shape[1:]), gain)
        return value.reshape(*lead, h * w, c.value), state.reshape(carry.sensory.shape), gain
