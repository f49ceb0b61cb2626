"""Causal temporal shift: a slice of channels comes from the previous frame.

Source: Lin et al., "TSM" (arXiv 1811.08383), the online form; the students of "Distilling Offline
Action Detection Models into Real-Time Streaming Models" (WACV 2026) shift before attention.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from .gaps import compact, scatter, window_at
from .streaming import DType

Array = jax.Array


class Shift(nn.Module):
    """y_t = [x_{t-1}[:fD], x_t[fD:]], with x_{-1} = 0. No parameters, latency 0.

    The first ``fraction`` of the channels, as in TSM's online demo (1/8). Carry: that slice of the
    last valid frame, [B, N, fD].
    """

    dim: int
    fraction: float = 1 / 8
    dtype: DType = jnp.float32
    latency = 0

    @property
    def width(self) -> int:
        """Channels that are shifted.

        Raises:
          ValueError: fraction outside [0, 1].
        """
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"shift fraction {self.fraction} is outside [0, 1]")
        return int(self.dim * self.fraction)

    @nn.nowrap
    def init_carry(self, batch: int, tokens: int) -> Array:
        return jnp.zeros((batch, tokens, self.width), self.dtype)

    def __call__(self, carry: Array, x: Array, valid: Array | None = None) -> tuple[Array, Array]:
        """x [B, T, N, D], valid [B, T] -> (carry, y [B, T, N, D])."""
        dense = compact(x, valid)
        head = dense.x[..., : self.width].astype(carry.dtype)
        history = jnp.concatenate([carry[:, None], head], axis=1)
        y = jnp.concatenate([history[:, :-1].astype(x.dtype), dense.x[..., self.width :]], axis=-1)
        last = history[:, -1] if valid is None else window_at(history, dense.fresh, 1)[:, 0]
        return last, scatter(y, dense, valid)
