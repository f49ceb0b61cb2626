"""Eviction laws of a rollout: which frames a memory keeps, and in which slot each lies.

The slots of a stream are regions that never change their size: sinks, a ring of recent frames, a
ring of frames that were promoted (slow), anchors of the present and of the prompt before, and
frames of a condition.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from ..streaming import Array

SINK, RECENT, SLOW, ANCHOR, PRIOR, CONDITION, TOP, OWN = range(8)


@dataclass(frozen=True)
class Keep:
    """The regions of a memory, in frames.

    Attributes:
      sinks: the first frames of a stream, which stay.
      recent: latest frames, the ones that read not included.
      slow: frames that stay longer: every ``every``-th block (Context Forcing's slow memory).
      every: blocks from one promoted block to the next.
      anchors: frames after a switch of the prompt, which stay until the next (Anchor Forcing); as
        many slots keep those of the prompt before.
      conditions: frames that are no part of the video, such as a reference picture (Live Avatar).
      refresh: a sink whose mean key and value have a cosine below this to those of a new frame
        gives its slot to it (StreamDiffusionV2); None: sinks never change.
      top: frames' worth of tokens that stay of all that leave, those that a new block attends to;
        chosen whenever memory and block fill the window (Deep Forcing).
      near: of that, the latest frames that stay whole.

    Raises:
      ValueError: a negative number, or a law that has no frames to work on.
    """

    sinks: int = 0
    recent: int = 1
    slow: int = 0
    every: int = 1
    anchors: int = 0
    conditions: int = 0
    refresh: float | None = None
    top: int = 0
    near: int = 1

    def __post_init__(self) -> None:
        counts = self.sinks, self.recent, self.slow, self.anchors, self.conditions, self.top
        if min(counts) < 0 or self.every < 1:
            raise ValueError(f"{self}: counts of frames are not negative")
        if self.refresh is not None and not self.sinks:
            raise ValueError(f"{self}: no sinks to refresh")
        if self.top and not 0 <= self.near <= self.recent - self.top:
            raise ValueError(
                f"{self}: {self.top} of {self.recent} frames, {self.near} whole beside"
            )

    @property
    def counts(self) -> tuple[int, ...]:
        """Slots of each region."""
        anchors = self.anchors, self.anchors
        return self.sinks, self.recent, self.slow, *anchors, self.conditions, self.top

    @property
    def capacity(self) -> int:
        """C: slots of a stream."""
        return sum(self.counts)

    @functools.cached_property
    def region(self) -> np.ndarray:
        """[C]: the region of each slot."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @functools.cached_property
    def index(self) -> np.ndarray:
        """[C]: the place of each slot in its region."""
        return np.concatenate([np.arange(n) for n in self.counts])

    def first(self, region: int) -> int:
        """The first slot of a region."""
        return sum(self.counts[:region])

    def slots(self, ids: Array, end: Array) -> Array:
        """Where new frames go: sinks in the order of a stream, the others round the ring.

        Args:
          ids: [B, F] int32, numbers of frames in their stream, -1 for none.
          end: [B] int32, the number of the frame after the last of them: what the ring would
            overwrite at once is not written.

        Returns:
          [B, F] int32 slots, C for a frame that is not kept.
        """
        room = max(self.recent, 1)
        ring = self.sinks + (ids - self.sinks) % room
        kept = (ids >= self.sinks) & (ids >= (end - self.recent)[:, None])
        slot = jnp.where(kept, ring, self.capacity)
        return jnp.where((ids >= 0) & (ids < self.sinks), ids, slot)

    def promoted(self, ids: Array, block: int) -> Array:
        """As :meth:`slots`: the slow slots of frames whose blocks are promoted."""
        turn = ids // block
        place = (turn // self.every * block + ids % block) % max(self.slow, 1)
        fits = (ids >= 0) & (turn % self.every == 0) & bool(self.slow)
        return jnp.where(fits, self.first(SLOW) + place, self.capacity)

    def anchored(self, ids: Array, since: Array, prompts: Array) -> Array:
        """As :meth:`slots`: the anchors' slots of the first frames of a prompt, but the first."""
        place = ids - since[:, None]
        fits = (ids >= 0) & (place >= 0) & (place < self.anchors) & (prompts > 1)[:, None]
        return jnp.where(fits, self.first(ANCHOR) + place, self.capacity)
