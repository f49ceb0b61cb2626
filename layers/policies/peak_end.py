"""LiveStar's peak-end memory: of the frames behind each caption, the half that it suits best.

Source: Yang et al., "LiveStar: Live Streaming Assistant for Real-World Online Video Understanding"
(arXiv 2511.05299), and its code, yzy-bupt/LiveStar. Their loop deletes rows by their number in a
list that is shorter after every deletion, so that from the second one on other rows leave than
those that were chosen; here rows are known by the frame that they are of.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from ..memory import Slots
from ..streaming import Array
from .contiguous import Contiguous, drop

WORDS = 0  # the note ``turn`` of a row that is of no frame; frames count from 1


@dataclass(frozen=True)
class PeakEnd(Contiguous):
    """Rows of frames leave once there are more than ``window`` frames.

    A row's note ``turn`` is the number of its frame, from 1, and :data:`WORDS` for words.

    Attributes:
      window: frames that are kept before half of each caption's leave.
    """

    window: int = 24

    @staticmethod
    def choose(group: Array, perplexity: Array) -> Array:
        """Which frames stay: of every caption's n frames the ceil(n / 2) of lowest perplexity.

        Args:
          group: [B, F] int32, the caption that a frame is behind; negative for no frame.
          perplexity: [B, F], of that caption, given the frame.

        Returns:
          [B, F] bool.
        """
        there = group >= 0
        same = (group[:, :, None] == group[:, None]) & there[:, :, None] & there[:, None]
        mine, other = perplexity[:, :, None], perplexity[:, None]
        earlier = jnp.arange(group.shape[1])[None] < jnp.arange(group.shape[1])[:, None]
        before = same & ((other < mine) | ((other == mine) & earlier[None]))
        count = same.sum(axis=2, dtype=jnp.int32)
        return there & (before.sum(axis=2, dtype=jnp.int32) < (count + 1) // 2)

    def compress(self, slots: Slots, frame: Array, stay: Array) -> Slots:
        """The memory without the rows of frames that do not stay.

        Args:
          slots: of the policy.
          frame: [B, F] int32, numbers of frames, from 1.
          stay: [B, F] bool, of :meth:`choose`.
        """
        turn = slots.notes["turn"]
        gone = (turn[:, :, None] == frame[:, None]) & ~stay[:, None] & (frame > WORDS)[:, None]
        return drop(slots, gone.any(axis=2))

    def full(self, frames: Array) -> Array:
        """Whether so many frames [B] are more than the window."""
        return frames > self.window
