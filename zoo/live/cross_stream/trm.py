"""TRM, the Temporal Refinement Module: a stream's memory, refined by the same small network a fixed
number of times per frame.

Not the Tiny Recursive Model of the same acronym (Jolicoeur-Martineau, arXiv 2510.04871).

For each of ``depth`` passes: z <- f(x, c, y, z), then y <- g(y, z), with the same f and g in every
pass and in every frame. x is the frame's fused feature, c what is known of the other streams, z
the working memory and y the answer so far; both go on to the next frame.

Source: the article named in ``hrm.py`` (depth 2, 50-100 M parameters). It leaves open what is
recursed; this is the minimum that its text allows. Both updates are gated, y + gate * (tanh(new) -
y): after any number of frames the memory lies in [-1, 1], and a closed gate keeps what was seen
long ago.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.exportable import exportable
from ....layers.streaming import DType
from ....layers.transformer import Mlp, layer_norm

Array = jax.Array


@exportable
class TRMState(NamedTuple):
    """The memory of B streams, in [-1, 1]."""

    y: Array  # [B, D] float32, the answer so far
    z: Array  # [B, D] float32, working memory


def spread_gates(key: Array, shape: tuple[int, ...], dtype: DType = jnp.float32) -> Array:
    """Biases of gates that at first follow what they see within 2 to 150 updates, in even ratios:
    some of the memory is fast and some slow (after Tallec and Ollivier, arXiv 1804.11188)."""
    return -jax.random.uniform(key, shape, dtype, 0.0, 5.0)


class GatedUpdate(nn.Module):
    """old + gate * (tanh(new) - old), gate and new from ``layers`` residual MLPs on all inputs."""

    dim: int
    hidden: int
    layers: int
    dtype: DType = jnp.float32

    def setup(self):
        self.join = nn.Dense(self.dim, dtype=self.dtype)
        self.norms = [layer_norm(1e-6, self.dtype) for _ in range(self.layers)]
        self.mlps = [
            Mlp(self.dim, self.hidden, "silu", self.dtype, gated=True) for _ in range(self.layers)
        ]
        self.norm = layer_norm(1e-6, self.dtype)
        self.new = nn.Dense(self.dim, dtype=self.dtype)
        self.gate = nn.Dense(self.dim, bias_init=spread_gates, dtype=self.dtype)

    def __call__(self, old: Array, *more: Array) -> Array:
        """old [B, D] float32, more [B, ...] -> [B, D] float32."""
        x = self.join(jnp.concatenate([old, *more], axis=-1).astype(self.dtype))
        for norm, mlp in zip(self.norms, self.mlps, strict=True):
            x = x + mlp(norm(x))
        x = self.norm(x)
        new = jnp.tanh(self.new(x).astype(jnp.float32))
        return old + jax.nn.sigmoid(self.gate(x).astype(jnp.float32)) * (new - old)


class Refine(nn.Module):
    """One frame of every stream; ``depth`` passes of the same weights.

    Attributes:
      dim: D, of y and z.
      hidden: of the MLPs inside.
      layers: MLPs in f; g has one.
      depth: passes per frame.
    """

    dim: int
    hidden: int
    layers: int = 1
    depth: int = 2
    dtype: DType = jnp.float32

    def setup(self):
        self.think = GatedUpdate(self.dim, self.hidden, self.layers, self.dtype)
        self.answer = GatedUpdate(self.dim, self.hidden, 1, self.dtype)

    def __call__(self, state: TRMState, x: Array, context: Array) -> TRMState:
        """x [B, E], context [B, K] -> the new state."""
        y, z = state
        for _ in range(self.depth):
            z = self.think(z, y, x, context)
            y = self.answer(y, z)
        return TRMState(y, z)


def init_state(batch: int, dim: int) -> TRMState:
    """Of ``batch`` streams that have seen nothing."""
    return TRMState(jnp.zeros((batch, dim), jnp.float32), jnp.zeros((batch, dim), jnp.float32))
