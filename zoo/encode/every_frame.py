"""An image encoder over a stream, frame by frame, without a memory."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from ...layers.gaps import zero_invalid
from ...layers.streaming import Array
from ..per_frame import NoMemory
from .outputs import EncoderOutput


class EveryFrame(NoMemory):
    """Encodes every frame; its carry is empty and its parameters are the encoder's.

    Attributes:
      encoder: a module ``frames [B, H, W, 3] -> EncoderOutput``.
    """

    encoder: Any
    task = "encode"

    def setup(self):
        nn.share_scope(self, self.encoder)

    def __call__(
        self, carry: tuple[()], frames: Array, valid: Array | None = None
    ) -> tuple[tuple[()], EncoderOutput]:
        """Features of T frames of B streams.

        Args:
          carry: ``()``.
          frames: [B, T, H, W, 3] floats, normalised as the encoder's card says.
          valid: [B, T] bool, False for frames that never came; their features are zero.

        Returns:
          The carry, and an EncoderOutput whose leaves begin with [B, T].

        Raises:
          ValueError: frames of the wrong shape or type, or a carry that is not empty.
        """
        out = self.encoder(self.single(carry, frames, valid))
        batch, steps = frames.shape[:2]
        split = lambda a: zero_invalid(a.reshape(batch, steps, *a.shape[1:]), valid)
        return carry, jax.tree.map(split, out)
