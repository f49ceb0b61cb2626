"""Noise by motion: the faster a video, the less noise its redrawing starts from.

StreamDiffusionV2 (chenfengxu714/StreamDiffusionV2, streamv2v/inference.py,
``compute_noise_scale_and_step``, at commit c5a0f20): per chunk, the largest root mean square
difference of neighbouring frames, over 0.2 and at most 1, lowers the noise by a tenth.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..exportable import exportable
from ..gaps import hold, zero_invalid
from ..streaming import Array


@exportable
class MotionState(NamedTuple):
    """Per stream: the last frame, the running chunk and the noise so far."""

    last: Array  # [B, H, W, C] float32
    begun: Array  # [B] bool, a frame was seen
    seen: Array  # [B] int32, frames of the running chunk
    fastest: Array  # [B] float32, its largest difference so far
    scale: Array  # [B] float32


@exportable
class Noise(NamedTuple):
    """After each frame: the noise to start from, 0..1, and the time of its pass."""

    scale: Array  # [B, T] float32
    time: Array  # [B, T] int32


class MotionNoise(nn.Module):
    """Frames [B, T, H, W, C] in -1..1 -> :class:`Noise`, new after every ``chunk`` frames.

    Attributes:
      shape: (H, W, C).
      chunk: frames between two changes.
      initial: the noise of a video that stands still, and the first.
    """

    shape: tuple[int, int, int]
    chunk: int = 4
    initial: float = 0.8
    latency = 0

    @nn.nowrap
    def init_carry(self, batch: int) -> MotionState:
        return MotionState(
            jnp.zeros((batch, *self.shape), jnp.float32),
            jnp.zeros((batch,), bool),
            jnp.zeros((batch,), jnp.int32),
            jnp.zeros((batch,), jnp.float32),
            jnp.full((batch,), self.initial, jnp.float32),
        )

    def __call__(
        self, carry: MotionState, frames: Array, valid: Array | None = None
    ) -> tuple[MotionState, Noise]:
        here = jnp.ones(frames.shape[:2], bool) if valid is None else valid
        frames = zero_invalid(frames, valid).astype(jnp.float32)

        def one(old, at):
            frame, here = at
            apart = _root(jnp.square(frame - old.last).mean(axis=(1, 2, 3)))
            fastest = jnp.maximum(old.fastest, jnp.where(old.begun, apart, 0))
            seen = (old.seen + 1) % self.chunk
            full = seen == 0
            motion = jnp.clip(fastest / 0.2, 0, 1)
            scale = jnp.where(
                full, (self.initial - 0.1 * motion) * 0.9 + old.scale * 0.1, old.scale
            )
            new = MotionState(
                frame,
                jnp.ones_like(old.begun),
                seen,
                jnp.where(full, jnp.zeros_like(fastest), fastest),
                scale,
            )
            new = hold(new, old, here)
            return new, jnp.where(here, new.scale, 0)

        swapped = frames.swapaxes(0, 1), here.swapaxes(0, 1)
        carry, scale = jax.lax.scan(one, carry, swapped)
        scale = scale.swapaxes(0, 1)
        return carry, Noise(scale, jnp.where(here, _time(scale), 0))


def _root(square: Array) -> Array:
    """Its square root, whose gradient at 0 is 0."""
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _time(scale: Array) -> Array:
    # fp32 rounds 0.8 up and 0.7 down: a hair more, so that a whole number stays one
    return jnp.floor(1000 * scale + 1e-3).astype(jnp.int32) - 100
