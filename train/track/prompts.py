"""The prompts of training and evaluation: the first frame's mask, its box or a point on it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ...zoo.segment.prompt import ABSENT, BOTTOM_RIGHT, TOP_LEFT
from ...zoo.segment.stream import Prompts, no_prompts
from ..micro import lane_keys

Array = jax.Array


def first_prompt(key: Array, masks: Array, points: int, parts: tuple[float, ...]) -> Prompts:
    """Prompts with leaves [B, T, 1, ...] of clips with masks [B, T, H, W] bool: on the first frame
    its mask, its box or a random point on it, each as often as ``parts`` say.

    A tracker with one point slot gets no boxes.
    """
    batch, steps, height, width = masks.shape
    share = jnp.asarray(parts, jnp.float32) * jnp.asarray([1, points > 1, 1])

    def draw(key: Array) -> tuple[Array, Array]:
        kind_key, point_key = jax.random.split(key)
        kind = jax.random.choice(kind_key, 3, p=share / share.sum())
        return kind, jax.random.uniform(point_key, (height, width))

    kind, noise = jax.vmap(draw)(lane_keys(key, batch))
    first = masks[:, 0]
    noise = jnp.where(first, noise, -1.0)
    at = noise.reshape(batch, -1).argmax(1)
    point = jnp.stack([at % width, at // width], -1) + 0.5
    cols, rows = first.any(1), first.any(2)
    low = jnp.stack([cols.argmax(1), rows.argmax(1)], -1)
    high = jnp.stack([width - cols[:, ::-1].argmax(1), height - rows[:, ::-1].argmax(1)], -1)
    box = (kind == 1)[:, None, None]
    xy = jnp.where(box, jnp.stack([low, high], 1), jnp.stack([point, point], 1))[:, :points]
    corners, click = jnp.asarray([TOP_LEFT, BOTTOM_RIGHT]), jnp.asarray([1, ABSENT])
    labels = jnp.where(box[..., 0], corners, click)[:, :points]
    now = (jnp.arange(steps) == 0)[None, :, None]
    none = no_prompts(batch, steps, 1, points, (height, width))
    n = xy.shape[1]
    assert none.masks is not None
    return dataclasses.replace(
        none,
        points=jnp.asarray(none.points).at[:, 0, 0, :n].set(xy.astype(jnp.float32)),
        labels=jnp.asarray(none.labels).at[:, 0, 0, :n].set(labels),
        pointed=now & (kind != 0)[:, None, None],
        masks=jnp.asarray(none.masks).at[:, 0, 0].set(first),
        masked=now & (kind == 0)[:, None, None],
    )


def inner_point(mask: np.ndarray) -> tuple[float, float]:
    """(x, y) of a pixel deepest inside a mask [H, W]: the last one left of peeling its border.

    Raises ValueError for an empty mask.
    """
    left = np.asarray(mask, bool)
    if not left.any():
        raise ValueError("an empty mask has no point inside")
    while True:
        wide = np.pad(left, 1)
        inner = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:] & left
        if not inner.any():
            y, x = np.argwhere(left)[left.sum() // 2]
            return float(x) + 0.5, float(y) + 0.5
        left = inner
