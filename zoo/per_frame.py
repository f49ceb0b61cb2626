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


class NoMemory(nn.Module):
    """A stream of frames whose carry is empty."""

    latency = 0
    cross_stream = False
    inputs = ("frames",)

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> tuple[()]:
        """The empty carry of ``batch`` streams."""
        del batch, frame_shape
        return ()

    @nn.nowrap
    def single(self, carry: tuple[()], frames: Array, valid: Array | None) -> Array:
        """Frames [B, T, H, W, 3] as pictures [B * T, H, W, 3], zeros for those that never came.

        Raises ValueError: frames of the wrong shape or type, or a carry that is not empty.
        """
        check_frames(frames, 1, type(self).__name__)
        check_carry(carry, lambda: self.init_carry(frames.shape[0]))
        batch, steps, *shape = frames.shape
        return zero_invalid(frames, valid).reshape(batch * steps, *shape)


class PerFrame(NoMemory, Generic[Out]):
    """A model whose answer depends on one frame alone.

    A model of this kind says its config, its ``task`` and :meth:`find`.
    """

    def find(self, pictures: Array) -> Out:
        """What is in pictures [M, H, W, 3] of the card's range: leaves [M, N, ...]. Slots that are
        not valid may hold anything."""
        raise NotImplementedError

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
        found = self.find(self.single(carry, frames, valid))
        batch, steps = frames.shape[:2]
        out = jax.tree.map(lambda a: zero_invalid(a, found.valid), found)
        out = jax.tree.map(lambda a: a.reshape(batch, steps, *a.shape[1:]), out)
        return carry, jax.tree.map(lambda a: zero_invalid(a, valid), out)
