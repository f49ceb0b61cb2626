"""A constant-velocity Kalman filter of boxes, many at once.

The state of a box is its centre x, y, width and height with a velocity each. As in BoT-SORT
(Aharon et al., arXiv 2206.14651, section 3.1) the noise is a share of the box's own width and
height, so any unit will do, fractions of the image too, and it may differ between the axes. All
noise is diagonal: the 8 x 8 filter falls into four of 2 x 2, of which three numbers are kept.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

POSITION = 1 / 20  # standard deviation of a coordinate, of motion and of measurement
VELOCITY = 1 / 160  # of a velocity per frame


class BoxState(NamedTuple):
    """Leading axes M are free."""

    mean: Array  # [M, 4, 2] x, y, w, h; each with its velocity per frame
    cov: Array  # [M, 4, 3] variance, covariance with the velocity, variance of the velocity


def _size(mean: Array) -> Array:
    """[M, 4]: the width and height to which the noise of x, y, w, h is relative."""
    w, h = mean[..., 2, 0], mean[..., 3, 0]
    return jnp.stack([w, h, w, h], axis=-1)


def _positive(mean: Array) -> Array:
    """Width and height stay above zero, whatever a velocity does to them."""
    return mean.at[..., 2:, 0].max(1e-6)


def start(boxes: Array) -> BoxState:
    """States of boxes seen for the first time: [M, 4] x1, y1, x2, y2."""
    measured = to_centre(boxes)
    mean = _positive(jnp.stack([measured, jnp.zeros_like(measured)], axis=-1))
    size = _size(mean)
    first, speed = (2 * POSITION * size) ** 2, (10 * VELOCITY * size) ** 2
    return BoxState(mean, jnp.stack([first, jnp.zeros_like(first), speed], axis=-1))


def predict(state: BoxState, frames: Array | None = None) -> BoxState:
    """So many frames later: as one frame after the other, of boxes that keep their size.

    Args:
      frames: a number, at least 1; None is 1.
    """
    size = _size(state.mean)
    position, velocity = state.mean[..., 0], state.mean[..., 1]
    pp, pv, vv = jnp.moveaxis(state.cov, -1, 0)
    shaken, pushed = (POSITION * size) ** 2, (VELOCITY * size) ** 2  # in every frame
    if frames is None:
        mean = jnp.stack([position + velocity, velocity], axis=-1)
        cov = jnp.stack([pp + 2 * pv + vv + shaken, pv + vv, vv + pushed], axis=-1)
    else:
        n = jnp.asarray(frames, jnp.float32)
        mean = jnp.stack([position + n * velocity, velocity], axis=-1)
        # What pushes the velocity in frame k moves the box for n - k frames: sums of k and of k^2.
        once, squared = n * (n - 1) / 2, n * (n - 1) * (2 * n - 1) / 6
        pp = pp + 2 * n * pv + n * n * vv + n * shaken + squared * pushed
        cov = jnp.stack([pp, pv + n * vv + once * pushed, vv + n * pushed], axis=-1)
    return BoxState(_positive(mean), cov)


def update(state: BoxState, boxes: Array) -> BoxState:
    """What is known after the boxes [M, 4] x1, y1, x2, y2 were seen."""
    pp, pv, vv = jnp.moveaxis(state.cov, -1, 0)
    noise = (POSITION * _size(state.mean)) ** 2
    total = pp + noise
    innovation = to_centre(boxes) - state.mean[..., 0]
    gain = jnp.stack([pp, pv], axis=-1) / total[..., None]
    mean = state.mean + gain * innovation[..., None]
    cov = jnp.stack([pp * noise / total, pv * noise / total, vv - pv * pv / total], axis=-1)
    return BoxState(_positive(mean), cov)


def to_centre(boxes: Array) -> Array:
    """[..., 4] x1, y1, x2, y2 -> centre x, y, width, height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([(low + high) / 2, high - low], axis=-1)


def to_corners(state: BoxState) -> Array:
    """The boxes [M, 4] x1, y1, x2, y2 of states."""
    centre, half = state.mean[..., :2, 0], state.mean[..., 2:, 0] / 2
    return jnp.concatenate([centre - half, centre + half], axis=-1)
