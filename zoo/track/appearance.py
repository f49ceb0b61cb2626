"""What an object looks like: features of an encoder in its box."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ...layers.roi_align import roi_align

Array = jax.Array


def box_features(features: Array, boxes: Array, valid: Array) -> Array:
    """The mean of a feature map in every box, of length 1.

    Args:
      features: [M, h, w, D], e.g. the grid of an image encoder.
      boxes: [M, K, 4] x1, y1, x2, y2 as fractions.
      valid: [M, K] bool; False gives zeros.

    Returns:
      [M, K, D] float32.
    """
    pooled = roi_align(features, boxes, size=1, sampling_ratio=8, mask=valid)[:, :, 0, 0]
    return unit(pooled.astype(jnp.float32))


def unit(x: Array) -> Array:
    """x [..., D] divided by its length; zeros stay zeros."""
    length = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return jnp.where(length > 0, x / jnp.where(length > 0, length, 1.0), 0.0)
