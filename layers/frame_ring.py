"""The last frames of a stream: what turns an offline model into a sliding-window one."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .exportable import exportable
from .gaps import compact, window_at
from .streaming import DType

Array = jax.Array


@exportable
class RingState(NamedTuple):
    frames: Array  # [B, span - 1, ...] the past, oldest first
    seen: Array  # [B] int32 frames


@dataclasses.dataclass(frozen=True)
class FrameRing:
    """Windows of ``size`` frames, ``stride`` apart, that end at the current frame.

    Before the stream is long enough its first frame stands in for the missing ones. No parameters.
    """

    size: int
    stride: int = 1

    def __post_init__(self):
        if self.size < 1 or self.stride < 1:
            raise ValueError(f"window of {self.size} frames, stride {self.stride}: both >= 1")

    @property
    def span(self) -> int:
        """Frames from the first to the last of a window."""
        return (self.size - 1) * self.stride + 1

    def init_carry(self, batch: int, shape: tuple[int, ...], dtype: DType) -> RingState:
        """shape: of one frame."""
        frames = jnp.zeros((batch, self.span - 1, *shape), dtype)
        return RingState(frames, jnp.zeros((batch,), jnp.int32))

    def push(self, carry: RingState, x: Array, valid: Array | None = None):
        """x [B, T, ...] -> (carry, history [B, span - 1 + T, ...], order [B, T]).

        ``window(history, carry before, t)`` reads the windows of the valid frames, which come
        first; ``order`` says which input each of them was.
        """
        dense = compact(x, valid)
        history = jnp.concatenate([carry.frames, dense.x.astype(carry.frames.dtype)], axis=1)
        past = self.span - 1
        frames = (
            history[:, x.shape[1] :] if valid is None else window_at(history, dense.fresh, past)
        )
        return RingState(frames, carry.seen + dense.fresh), history, dense

    def window(self, history: Array, before: RingState, step: Array | int) -> Array:
        """The window of dense frame ``step`` (one for all, or [B]): [B, size, ...]."""
        index = jnp.reshape(step, (-1, 1)) + self.stride * jnp.arange(self.size)[None]
        first = self.span - 1 - jnp.minimum(before.seen, self.span - 1)
        index = jnp.maximum(index, first[:, None])
        index = index.reshape(index.shape + (1,) * (history.ndim - 2))
        return jnp.take_along_axis(history, index, axis=1)
