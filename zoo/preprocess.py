"""Pixels to model input: one function, the same in training and in streaming."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .registry import Card

Array = jax.Array


def preprocess(frames: Any, card: Card) -> Array:
    """uint8 RGB [..., H, W, 3] (or floats in [0, 1]) -> floats normalised by the card's mean, std.

    Resizing is the frame source's work (bilinear, in swscale, straight to ``card.input_size``).

    Raises:
      ValueError: the last axis is not 3, the type is neither uint8 nor a float, or concrete float
        values lie outside [0, 1].
    """
    if jnp.ndim(frames) < 3 or jnp.shape(frames)[-1] != 3:
        raise ValueError(f"frames {list(jnp.shape(frames))} should be [..., height, width, 3] RGB")
    dtype = frames.dtype
    if dtype == jnp.uint8:
        x = jnp.asarray(frames).astype(jnp.float32) / 255.0
    elif jnp.issubdtype(dtype, jnp.floating):
        if isinstance(frames, np.ndarray) and frames.size:
            low, high = float(np.nanmin(frames)), float(np.nanmax(frames))
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
