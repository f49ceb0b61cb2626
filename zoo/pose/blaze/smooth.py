"""Points that do not tremble: the one-euro filter, whose strength falls with speed.

Source: Casiez, Roussel and Vogel, "1 Euro Filter" (CHI 2012); the constants are those of
MediaPipe's graph ``pose_landmark_filtering``, which divides speeds by the body's size.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ....layers.exportable import exportable
from ....layers.ranks import to_rank

Array = jax.Array
SPEED_CUTOFF = 1.0  # hertz, of the speed's own filter
LEAST = 1e-6  # pixels of a body; below it nothing is filtered


@exportable
@struct.dataclass
class Smoothed:
    """State of the filter of P points; ``seen`` is False before the first."""

    seen: Array  # [B] bool
    last: Array  # [B, P, 2] as they were measured, pixels
    speed: Array  # [B, P, 2] body sizes per second, filtered
    points: Array  # [B, P, 2] filtered, pixels


def nothing(batch: int, points: int) -> Smoothed:
    """The state before the first point."""
    zeros = jnp.zeros((batch, points, 2), jnp.float32)
    return Smoothed(jnp.zeros(batch, bool), zeros, zeros, zeros)


def share(cutoff: Array, rate: float) -> Array:
    """How much a new value counts in a low-pass filter of ``cutoff`` hertz at ``rate`` hertz."""
    return 1 / (1 + rate / (2 * np.pi * cutoff))


def smooth(
    state: Smoothed, points: Array, size: Array, rate: float, least: np.ndarray, rise: np.ndarray
) -> Smoothed:
    """Measured ``points`` [B, P, 2] of bodies of ``size`` [B], in pixels, join the state.

    Args:
      rate: frames per second.
      least: [P] hertz, the cutoff of points at rest.
      rise: [P] hertz more per body size per second.
    """
    seen = to_rank(state.seen.reshape(-1, 1, 1), points)
    size = size.reshape(-1, 1, 1)
    moved = (points - state.last) / jnp.maximum(size, LEAST) * rate
    alpha = float(1 / (1 + rate / (2 * np.pi * SPEED_CUTOFF)))
    speed = jnp.where(seen, alpha * moved + (1 - alpha) * state.speed, 0.0)
    column = lambda a: jnp.asarray(a)[None, :, None]
    cutoff = column(least) + column(rise) * jnp.abs(speed)
    alpha = share(cutoff, rate)
    found = jnp.where(seen, alpha * points + (1 - alpha) * state.points, points)
    found = jnp.where(size < LEAST, points, found)
    return Smoothed(jnp.ones_like(state.seen), points, speed, found)
