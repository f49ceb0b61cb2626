"""Random views of clips, on the device; boxes and feature maps follow the pixels.

A view is one crop, flip and colour change per clip, the same in all its frames. Cropping is
RoIAlign with the crop as the box: one op for pixels and for a teacher's feature maps.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..layers.roi_align import roi_align

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Augment:
    """How wild the views are.

    Attributes:
      area: smallest and largest share of the frame that is kept.
      aspect: narrowest and widest crop, width over height in pixels. Every crop is then stretched
        to the model's input, as wide-screen video will be.
      light: largest change of brightness and contrast, in stops (powers of 2).
      tint: largest change of each colour channel and of the saturation, in stops.
      dark: how many stops darker a clip may be beyond that.
      jitter: standard deviation of the box edges the RoI head is given, in box sides.
    """

    area: tuple[float, float] = (0.35, 1.0)
    aspect: tuple[float, float] = (1.0, 2.4)
    light: float = 0.5
    tint: float = 0.2
    dark: float = 1.0
    jitter: float = 0.05


class View(NamedTuple):
    """B clips, T frames, K boxes."""

    frames: Array  # [B, T, h, w, 3] in [0, 1]
    boxes: Array  # [B, T, K, 4] in [0, 1]
    scores: Array  # [B, T, K], 0 where no box is left
    features: Array | None  # [B, T, rows, cols, F]


def look(
    frames: Array,
    boxes: Array,
    scores: Array,
    features: Array | None,
    crops: Array,
    flip: Array,
    *,
    size: tuple[int, int],
    grid: tuple[int, int],
) -> View:
    """The view of each clip through ``crops`` [B, 4] (in [0, 1]), mirrored where ``flip`` [B].

    frames [B, T, H, W, 3] uint8, boxes [B, T, K, 4], scores [B, T, K]; features [B, T, h, w, F]
    come out on ``grid``, frames at ``size``.
    """
    frames = _crop(frames.astype(jnp.float32) / 255.0, crops, flip, size)
    if features is not None:
        features = _crop(features.astype(jnp.float32), crops, flip, grid)
    boxes, scores = follow(boxes, scores, crops, flip)
    return View(frames, boxes, scores, features)


def whole(batch: int) -> tuple[Array, Array]:
    """Crops and flips of :func:`look` that change nothing."""
    return jnp.tile(jnp.asarray([0.0, 0.0, 1.0, 1.0]), (batch, 1)), jnp.zeros(batch, bool)


def _crop(maps: Array, crops: Array, flip: Array, size: tuple[int, int]) -> Array:
    batch, steps = maps.shape[:2]
    each = jnp.repeat(crops, steps, axis=0)[:, None]
    out = roi_align(maps.reshape(-1, *maps.shape[2:]), each, size=size)[:, 0]
    out = out.reshape(batch, steps, *out.shape[1:])
    return jnp.where(flip[:, None, None, None, None], out[:, :, :, ::-1], out)


def follow(boxes: Array, scores: Array, crops: Array, flip: Array) -> tuple[Array, Array]:
    """Boxes [B, T, K, 4] in the coordinates of the crop; one of which less than 40 % is left loses
    its score."""
    low, high = crops[:, None, None, :2], crops[:, None, None, 2:]
    corners = jnp.stack([boxes[..., :2], boxes[..., 2:]], axis=-2)  # [B, T, K, 2, 2]
    moved = (corners - low[..., None, :]) / (high - low)[..., None, :]
    mirrored = moved[..., ::-1, :].at[..., 0].multiply(-1.0).at[..., 0].add(1.0)
    # mirrored swaps the corners; only x is mirrored, so y is put back
    mirrored = mirrored.at[..., 1].set(moved[..., 1])
    moved = jnp.where(flip[:, None, None, None, None], mirrored, moved)
    inside = jnp.clip(moved, 0.0, 1.0)
    area = lambda c: jnp.prod(jnp.maximum(c[..., 1, :] - c[..., 0, :], 0.0), axis=-1)  # noqa: E731
    left = area(inside) / jnp.maximum(area(moved), 1e-9)
    return inside.reshape(boxes.shape), jnp.where(left >= 0.4, scores, 0.0)


def random_view(
    key: Array,
    frames: Array,
    boxes: Array,
    scores: Array,
    features: Array | None,
    config: Augment,
    *,
    size: tuple[int, int],
    grid: tuple[int, int],
) -> View:
    """A random view; arguments as in :func:`look`."""
    batch, _, height, width, _ = frames.shape
    keys = jax.random.split(key, 6)
    uniform = lambda k, shape, low, high: jax.random.uniform(  # noqa: E731
        k, shape, minval=low, maxval=high
    )
    area = uniform(keys[0], (batch,), *config.area)
    narrow, wide = (jnp.log(a * height / width) for a in config.aspect)
    aspect = jnp.exp(uniform(keys[1], (batch,), narrow, wide))
    side = jnp.minimum(jnp.sqrt(jnp.stack([area * aspect, area / aspect], axis=-1)), 1.0)
    low = uniform(keys[2], (batch, 2), 0.0, 1.0) * (1.0 - side)
    crops = jnp.concatenate([low, low + side], axis=-1)
    flip = jax.random.bernoulli(keys[3], 0.5, (batch,))
    view = look(frames, boxes, scores, features, crops, flip, size=size, grid=grid)
    light = uniform(keys[4], (batch, 3), -1.0, 1.0)
    tint = uniform(keys[5], (batch, 4), -config.tint, config.tint)
    return view._replace(frames=_recolour(view.frames, light, tint, config))


def _recolour(frames: Array, light: Array, tint: Array, config: Augment) -> Array:
    wide = lambda a: a[:, None, None, None, :]  # noqa: E731
    stops = config.light * light[:, :1] - config.dark * jnp.maximum(light[:, 2:] - 0.5, 0.0) * 2
    x = frames * wide(jnp.exp2(stops + tint[:, :3]))
    mean = x.mean(axis=(1, 2, 3, 4), keepdims=True)
    x = mean + (x - mean) * wide(jnp.exp2(config.light * light[:, 1:2]))
    grey = x.mean(axis=-1, keepdims=True)
    return jnp.clip(grey + (x - grey) * wide(jnp.exp2(4 * tint[:, 3:])), 0.0, 1.0)


def jitter_boxes(key: Array, boxes: Array, amount: float) -> Array:
    """Boxes [..., 4] with every edge moved by ``amount`` box sides (standard deviation)."""
    side = jnp.tile(boxes[..., 2:] - boxes[..., :2], 2)
    return jnp.clip(boxes + amount * side * jax.random.normal(key, boxes.shape), 0.0, 1.0)
