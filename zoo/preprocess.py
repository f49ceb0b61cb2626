"""Pixels to model input: one function, the same in training and in streaming."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ..layers.streaming import AnyArray
from .registry import Card

Array = jax.Array


def preprocess(frames: AnyArray, card: Card) -> Array:
    """uint8 RGB [..., H, W, 3] (or floats in [0, 1]) -> floats normalised by the card's mean, std.

    Resizing is the frame source's work (bilinear, in swscale, straight to ``card.input_size``), or
    ``picture``'s, for frames as a published checkpoint's own pipeline makes them.

    Raises:
      ValueError: the last axis is not 3, the type is neither uint8 nor a float, or concrete float
        values lie outside [0, 1].
    """
    if not isinstance(frames, jax.Array):
        frames = np.asarray(frames)
    if jnp.ndim(frames) < 3 or jnp.shape(frames)[-1] != 3:
        raise ValueError(f"frames {list(jnp.shape(frames))} should be [..., height, width, 3] RGB")
    dtype = frames.dtype
    if dtype == jnp.uint8:
        x = jnp.asarray(frames).astype(jnp.float32) / 255.0
    elif jnp.issubdtype(dtype, jnp.floating):
        # inside jit nobody knows the values yet
        if not isinstance(frames, Tracer) and frames.size:
            low, high = float(jnp.nanmin(frames)), float(jnp.nanmax(frames))
            if low < -1e-3 or high > 1 + 1e-3:
                raise ValueError(
                    f"float frames should lie in [0, 1] and these lie in [{low:g}, {high:g}]; "
                    "divide by 255 or pass uint8"
                )
        x = jnp.asarray(frames)
    else:
        raise ValueError(f"frames are {dtype}; pass uint8 RGB, or floats in [0, 1]")
    mean = np.asarray(card.mean, np.float32)
    std = np.asarray(card.std, np.float32)
    return (x - mean) / std


def frame_shape(card: Card, original: tuple[int, int]) -> tuple[int, int]:
    """(height, width) at which a model wants the frames of a source of ``original`` size.

    That is the card's input size, and for a card whose ``fit`` is "letterbox" as much of it as
    the picture fills: the model pads the rest itself. Of a card with a rule of its own
    (``Card.own_rule``) it is the source's own size: ``picture`` makes its frames.
    """
    if card.own_rule and min(original) > 0:
        return original
    whole = card.input_size
    return fitted(original, whole) if card.fit == "letterbox" and min(original) > 0 else whole


def fitted(size: tuple[int, int], side: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a frame of ``size`` scaled into ``side`` with its aspect ratio kept,
    rounded down."""
    (height, width), (rows, cols) = size, side
    if rows * width <= cols * height:
        return rows, max(1, rows * width // height)
    return max(1, cols * height // width), cols
