"""What models share that look at single frames and remember nothing."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

import flax.linen as nn
import jax

from ..layers.gaps import zero_invalid
from ..layers.streaming import Array
from .checks import check_carry, check_frames


class Slots(Protocol):
    """An output with a fixed number of slots; those that are not valid are empty."""

    @property
    def valid(self) -> Array: ...


Out = TypeVar("Out", bound=Slots)


class PerFrame(nn.Module, Generic[Out]):
    """A model whose answer depends on one frame alone: its carry is empty.

    A model of this kind says its config, its ``task`` and :meth:`find`.
    """

    latency = 0
    cross_stream = False
    inputs = ("frames",)

    def find(self, pictures: Array) -> Out:
        """What is in pictures [M, H, W, 3] of the card's range: leaves [M, N, ...]. Slots that are
        not valid may hold anything."""
        raise NotImplementedError

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> tuple[()]:
        """The empty carry of ``batch`` streams."""
        del batch, frame_shape
        return ()

    def __call__(
        self, carry: tuple[()], frames: Array, valid: Array | None = None
    ) -> tuple[tuple[()], Out]:
        """What is in T frames of B streams.

        Args:
          carry: ``()``.
          frames: [B, T, H, W, 3] RGB floats as the card says, of any size.
          valid: [B, T] bool, False for frames that never came.

        Returns:
          The carry, and leaves [B, T, N, ...] with zeros in every empty slot and in all slots of
          a frame that never came.

        Raises:
          ValueError: frames of the wrong shape or type, or a carry that is not empty.
        """
        check_frames(frames, 1, type(self).__name__)
        check_carry(carry, lambda: self.init_carry(frames.shape[0]))
        batch, steps, *shape = frames.shape
        found = self.find(zero_invalid(frames, valid).reshape(batch * steps, *shape))
        out = jax.tree.map(lambda a: zero_invalid(a, found.valid), found)
        out = jax.tree.map(lambda a: a.reshape(batch, steps, *a.shape[1:]), out)
        return carry, jax.tree.map(lambda a: zero_invalid(a, valid), out)
