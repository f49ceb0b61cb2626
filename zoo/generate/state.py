"""What a stream that makes video remembers between two steps."""

from __future__ import annotations

from typing import NamedTuple

import flax.struct

from ...layers.exportable import exportable
from ...layers.memory import Slots
from ...layers.rollout import Marks
from ...layers.streaming import Array


@exportable
@flax.struct.dataclass
class GeneratorState:
    """The carry of B streams; no leaf grows with time.

    Attributes:
      memory: un-rotated keys and values of frames, [B, L, C, N * heads, Dh]; [B, P, L, ...] where
        each of P levels has a memory. ``serial`` is a slot's frame, ``memory.seen`` [B] the frames
        that are finished.
      since, prompts, cut: as of ``Marks``, each [B].
      latents: [B, R, h, w, C], the latest finished frames, newest last, for a recache.
      noisy: [B, W, h, w, C], frames under way, oldest first.
      begun: [B] int32, blocks that were begun.
      steps: [B] int32, steps so far.
      key: [B, 2] uint32, of each stream's noise.
    """

    memory: Slots
    since: Array
    prompts: Array
    cut: Array
    latents: Array
    noisy: Array
    begun: Array
    steps: Array
    key: Array

    @property
    def marks(self) -> Marks:
        """What the streams know of their prompts."""
        return Marks(self.since, self.prompts, self.cut)


@exportable
class Made(NamedTuple):
    """What a step made.

    Attributes:
      latents: [B, F, h, w, C], one block of frames.
      valid: [B] bool: it is finished; before the latency has passed it is not, and never shown.
      start: [B] int32, number of its first frame.
    """

    latents: Array
    valid: Array
    start: Array
