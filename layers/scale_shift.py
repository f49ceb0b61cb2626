"""Two maps that differ by a scale and a shift: the closed-form least squares between them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array
SMALLEST = 1e-12  # of a variance that still says something, relative to the mean square


def fit_scale_shift(x: Array, y: Array, weight: Array) -> tuple[Array, Array, Array]:
    """argmin over scale, shift of sum weight (scale x + shift - y)^2, in fp32.

    Args:
      x, y: [..., N].
      weight: [..., N], at least 0; bool counts as 0 and 1. Where it is 0, x and y may be anything
        finite.

    Returns:
      (scale [...], shift [...], fits [...] bool). Without weight all are 0 and ``fits`` is False;
      for a constant x the scale is 0 and the shift the mean of y, and ``fits`` is False, too.
      Gradients are finite everywhere.

    Source: Ranftl et al., MiDaS (arXiv 1907.01341), equation 4.
    """
    w = weight.astype(jnp.float32)
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    total = w.sum(axis=-1)
    some = total > 0
    over = jnp.where(some, total, 1.0)
    mean = lambda a: (w * a).sum(axis=-1) / over
    # about the means: the 2 x 2 system of raw moments loses half the digits
    mean_x, mean_y = mean(x), mean(y)
    dx, dy = x - mean_x[..., None], y - mean_y[..., None]
    variance, together = mean(dx * dx), mean(dx * dy)
    fits = some & (variance > SMALLEST * (1e-20 + mean(x * x)))
    scale = jnp.where(fits, together / jnp.where(fits, variance, 1.0), 0.0)
    return scale, jnp.where(some, mean_y - scale * mean_x, 0.0), fits
