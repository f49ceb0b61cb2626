"""Clips of balls that bounce, drawn by number: what the chain learns from."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ...layers.streaming import Array
from ...zoo.generate.balls.picture import CLASSES, HIGH, LOW, SCALE, SHIFT, SIDE, WIDTHS

FRAMES = 12  # of a clip: the training horizon
SINKS = 3
LONGEST_GAP = 100.0  # frames


def frame_times(key: Array, batch: int) -> Array:
    """When the frames of clips are, [B, 12]: one after the other, and in half of the clips with a
    gap behind the first three. That is what a memory with sinks holds: how the video began, and
    what was last."""
    how_long, whether = jax.random.split(key)
    gap = jax.random.uniform(how_long, (batch,), jnp.float32, 0, LONGEST_GAP)
    gap = jnp.where(jax.random.bernoulli(whether, 0.5, (batch,)), gap, 0)
    at = jnp.arange(FRAMES, dtype=jnp.float32)
    return at[None] + jnp.where(jnp.arange(FRAMES)[None] >= SINKS, gap[:, None], 0)


def clips(key: Array, times: Array) -> tuple[Array, Array]:
    """One ball per clip at ``times`` [B, F] -> (latents [B, F, 1, 1, 32], classes [B] int32).

    A ball moves 0.6 to 1.2 cells a frame along each axis and turns at the walls.
    """
    batch = times.shape[0]
    which, where, fast, way = jax.random.split(key, 4)
    classes = jax.random.randint(which, (batch,), 0, len(CLASSES), jnp.int32)
    room = HIGH - LOW
    start = jax.random.uniform(where, (batch, 1, 2), jnp.float32, 0, 2 * room)
    speed = jax.random.uniform(fast, (batch, 1, 2), jnp.float32, 0.6, 1.2)
    speed = jnp.where(jax.random.bernoulli(way, 0.5, (batch, 1, 2)), speed, -speed)
    path = jnp.mod(start + speed * times[..., None], 2 * room)
    middle = LOW + jnp.minimum(path, 2 * room - path)  # [B, F, 2]
    width = jnp.asarray(WIDTHS, jnp.float32)[classes][:, None, None, None]
    cells = jnp.arange(SIDE, dtype=jnp.float32)
    light = jnp.exp(-0.5 * jnp.square((cells - middle[..., None]) / width))
    latents = SCALE * light + SHIFT
    return latents.reshape(batch, -1, 1, 1, 2 * SIDE), classes


def told(key: Array, classes: Array, width: int, nothing: float = 0.5) -> Array:
    """Conditions [B, 1, width] of classes; with a probability of ``nothing`` a clip has none."""
    ones = jax.nn.one_hot(classes, width, dtype=jnp.float32)
    silent = jax.random.bernoulli(key, nothing, (classes.shape[0], 1))
    return jnp.where(silent, 0, ones)[:, None]
