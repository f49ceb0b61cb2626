"""Latents in, pictures out: what the autoencoders of generated video have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...layers.exportable import exportable
from ...layers.gaps import hold, zero_invalid
from ...layers.streaming import AnyArray, Array, Carry

PER_LATENT = 4  # frames of every latent but the first, which has one


@exportable
class Pictures(NamedTuple):
    """Frames of each latent; the first latent of a stream has one, in the last place.

    Attributes:
      x: [B, T, 4, H, W, 3], zeros where there is none.
      valid: [B, T, 4] bool.
    """

    x: Array
    valid: Array

    def video(self, stream: int = 0) -> np.ndarray:
        """The frames of one stream, [F, H, W, 3]."""
        return np.asarray(self.x[stream])[np.asarray(self.valid[stream])]


def there(begun: Array) -> Array:
    """Which of a latent's frames exist [B, 4]: of a stream that begins, the last one."""
    return begun[:, None] | (jnp.arange(PER_LATENT) == PER_LATENT - 1)[None]


def latent_frames(frames: int) -> int:
    """Latents of a video: 1 + (frames - 1) / 4.

    Raises:
      ValueError: a number of frames that is not 1 + a multiple of 4.
    """
    if frames < 1 or (frames - 1) % PER_LATENT:
        near = 1 + max(0, round((frames - 1) / PER_LATENT)) * PER_LATENT
        raise ValueError(f"{frames} frames are not 1 + a multiple of 4; {near} would do")
    return 1 + (frames - 1) // PER_LATENT


def grouped(frames: AnyArray) -> Array:
    """A video from its start [B, 1 + 4 n, ...] -> [B, 1 + n, 4, ...], three zeros in front.

    Raises:
      ValueError: another number of frames.
    """
    latent_frames(frames.shape[1])
    x = jnp.asarray(frames)
    x = jnp.pad(x, [(0, 0), (PER_LATENT - 1, 0)] + [(0, 0)] * (x.ndim - 2))
    return x.reshape(x.shape[0], -1, PER_LATENT, *x.shape[2:])


def one_by_one(
    step: Callable[[Carry, Array], tuple[Carry, Any]], carry: Carry, x: Array, valid: Array | None
) -> tuple[Carry, Any]:
    """``step(carry, x [B, ...]) -> (carry, y)`` over [B, T, ...]; invalid ones leave no trace."""
    here = jnp.ones(x.shape[:2], bool) if valid is None else valid

    def one(old, at):
        piece, here = at
        new, y = step(old, piece)
        cut = lambda a: zero_invalid(a[None], here[None])[0]
        return hold(new, old, here), jax.tree.map(cut, y)

    swapped = zero_invalid(x, valid).swapaxes(0, 1), here.swapaxes(0, 1)
    carry, y = jax.lax.scan(one, carry, swapped)
    return carry, jax.tree.map(lambda a: a.swapaxes(0, 1), y)
