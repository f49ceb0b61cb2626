"""Windows of a reconstruction, each in a world of its own, joined into one as they come.

A window of T frames shares its first O with the window before. The scale between the two comes
from their points (least absolute distances, of pixels that both are sure of), rotation and shift
from the shared cameras; then every layer of depth gets the scale that links it to the window
before.

Source: LASER (github.com/neu-vi/LASER, inference_engine/streaming_window_engine.py).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..streaming import AnyArray
from .depth_layers import label_layers, layer_edges, layer_scales, scale_map
from .pinhole import unproject
from .scales import point_scale
from .sim3 import move_poses, register_poses

Array = jax.Array


class Window(NamedTuple):
    """What a model says of T frames, or what is known of them after they were joined."""

    depth: AnyArray  # [T, h, w] along the optical axis, infinite for the sky
    certainty: AnyArray  # [T, h, w], the larger the surer
    poses: AnyArray  # [T, 4, 4] camera to the window's world


class AlignState(NamedTuple):
    """The shared frames of the last window, as they were answered. Its size is constant."""

    depth: Array  # [O, h, w]
    sure: Array  # [O, h, w] bool
    poses: Array  # [O, 4, 4]
    labels: Array  # [O, h, w] int32
    log_scale: Array  # [] of the last window against its own world
    windows: Array  # [] int32, how many there were, at most 2 ** 30


class Joined(NamedTuple):
    """A window in the world of the first one."""

    depth: Array  # [T, h, w]
    poses: Array  # [T, 4, 4]
    scale: Array  # [] of this window
    agrees: (
        Array  # [] 0 to 1: shared pixels that are sure in both and lie within 10 % of each other
    )


def init_state(overlap: int, height: int, width: int) -> AlignState:
    """The state before the first window."""
    shape = (overlap, height, width)
    eye = jnp.broadcast_to(jnp.eye(4, dtype=jnp.float32), (overlap, 4, 4))
    return AlignState(
        jnp.zeros(shape, jnp.float32),
        jnp.zeros(shape, bool),
        eye,
        jnp.zeros(shape, jnp.int32),
        jnp.zeros((), jnp.float32),
        jnp.zeros((), jnp.int32),
    )


def surest_half(certainty: Array) -> Array:
    """Pixels that are at least as sure as the median of the whole window: bool of its shape."""
    middle = round(0.5 * (certainty.size - 1))  # halves to the even one, as torch's nearest
    return certainty >= jnp.sort(certainty.ravel())[middle]


@functools.partial(jax.jit, static_argnames=("layers",))
def join(
    state: AlignState, window: Window, focal: Array, layers: int = 8
) -> tuple[AlignState, Joined]:
    """Joins one window to those before.

    Args:
      state: of :func:`init_state`, whose O frames this window begins with.
      window: of the model; at least O + 1 frames.
      focal: [2] pixels (x, y), the same for all windows: that of the first.
      layers: labels of depth; 1 leaves layers out.

    Where the two share no sure pixel, or their points say no scale, the window keeps the scale of
    the last one and ``agrees`` is 0.
    """
    shared, first = state.depth.shape[0], state.windows == 0
    raw, certainty, poses = (jnp.asarray(a) for a in window)
    finite = jnp.isfinite(raw) & (raw > 0)
    depth, sure = jnp.where(finite, raw, 0.0), surest_half(certainty) & finite
    both = sure[:shared] & state.sure
    points = lambda d: unproject(d, focal).reshape(-1, 3)
    scale = point_scale(points(depth[:shared]), points(state.depth), both.ravel())
    usable = both.any() & (scale > 1e-5)
    scale = jnp.where(usable, scale, jnp.exp(state.log_scale))
    scale = jnp.where(first, 1.0, scale)
    moved = register_poses(poses[:shared], state.poses, scale)
    poses = jnp.where(first, poses, move_poses(moved, poses))
    depth = scale * depth
    labels = jnp.zeros(depth.shape, jnp.int32)
    if layers > 1:
        labels = label_layers(depth, layer_edges(depth, sure, layers))
        own = layer_scales(state.depth, depth, state.labels, labels, layers)
        depth = depth * jnp.where(first | ~usable, 1.0, scale_map(own, labels))
    off = jnp.abs(depth[:shared] - state.depth) / jnp.maximum(state.depth, 1e-6)
    agrees = (both & (off < 0.1)).mean(dtype=jnp.float32)
    new = AlignState(
        depth[-shared:],
        sure[-shared:],
        poses[-shared:],
        labels[-shared:],
        jnp.log(jnp.maximum(scale, 1e-6)),
        jnp.minimum(state.windows + 1, 1 << 30),
    )
    shown = jnp.where(finite, depth, jnp.inf)
    return new, Joined(shown, poses, scale, jnp.where(usable, agrees, 0.0))
