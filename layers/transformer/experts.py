"""A feed-forward part made of experts, of which every token takes a few.

Sources: Shazeer et al., "Outrageously Large Neural Networks" (arXiv 1701.06538), section 2; the
two forms of the weights, and the gated expert that all tokens share, are those of the published
implementations of Jamba (arXiv 2403.19887) and Qwen3-Next.
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..ranks import to_rank
from ..streaming import DType
from .activations import ACTIVATIONS
from .mlp import Mlp

Array = jax.Array


@dataclass(frozen=True)
class ExpertsConfig:
    """Sizes of a mixture of experts.

    Attributes:
      count: experts. active: of them, how many a token takes.
      ratio: hidden width of an expert over dim.
      shared: hidden width over dim of an expert that every token takes, by a gate of its own; 0
        for none.
      normalise: the weights of the active experts add up to 1 (Qwen3-Next); without, they are
        their shares of the softmax over all experts (Jamba).

    Raises:
      ValueError: active outside 1 .. count.
    """

    count: int = 8
    active: int = 2
    ratio: float = 1.0
    shared: float = 0.0
    normalise: bool = True

    def __post_init__(self):
        if not 1 <= self.active <= self.count:
            raise ValueError(f"active {self.active} experts: choose 1 to {self.count}")


class Experts(nn.Module):
    """Routed experts, down(act(gate(x)) * up(x)) each: x [..., D] -> [..., D].

    No token is dropped, so what a token gets depends on no other: a clip and a stream agree. Rows
    are sorted by expert and multiplied group by group (``jax.lax.ragged_dot``). Parameters:
    ``router`` [D, E], ``gate`` and ``up`` [E, D, F], ``down`` [E, F, D], and with ``shared`` an MLP
    ``shared`` and ``shared_gate`` [D, 1]. No biases.
    """

    dim: int
    config: ExpertsConfig
    activation: str = "silu"
    dtype: DType = jnp.float32

    def setup(self):
        c, hidden = self.config, round(self.dim * self.config.ratio)
        each = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", batch_axis=0)
        self.router = nn.Dense(c.count, use_bias=False, dtype=self.dtype)
        self.gate = self.param("gate", each, (c.count, self.dim, hidden))
        self.up = self.param("up", each, (c.count, self.dim, hidden))
        self.down = self.param("down", each, (c.count, hidden, self.dim))
        if c.shared:
            wide = round(self.dim * c.shared)
            self.shared = Mlp(self.dim, wide, self.activation, self.dtype, gated=True, bias=False)
            self.shared_gate = nn.Dense(1, use_bias=False, dtype=self.dtype)

    def route(self, x: Array) -> tuple[Array, Array]:
        """Rows x [M, D] -> (experts [M, active] int32, their weights [M, active] fp32)."""
        shares = jax.nn.softmax(self.router(x).astype(jnp.float32), axis=-1)
        weights, experts = jax.lax.top_k(shares, self.config.active)
        if self.config.normalise:
            weights = weights / weights.sum(axis=-1, keepdims=True)
        return experts, weights

    def __call__(self, x: Array) -> Array:
        rows = x.reshape(-1, x.shape[-1])
        experts, weights = self.route(rows)
        active, flat = self.config.active, experts.reshape(-1)
        order = jnp.argsort(flat, stable=True)
        sizes = (flat[:, None] == jnp.arange(self.config.count, dtype=flat.dtype)[None]).sum(
            axis=0, dtype=jnp.int32
        )
        product = lambda a, w: jax.lax.ragged_dot(a, w.astype(a.dtype), sizes)
        sorted_rows = rows[order // active].astype(self.dtype)
        act = ACTIVATIONS[self.activation]
        h = act(product(sorted_rows, self.gate)) * product(sorted_rows, self.up)
        h = product(h, self.down)[jnp.argsort(order)]  # back to the order of the tokens
        h = h.reshape(*experts.shape, -1) * weights[..., None].astype(h.dtype)
        y = h.sum(axis=1)
        if self.config.shared:
            y = y + to_rank(nn.sigmoid(self.shared_gate(rows)), y) * self.shared(rows)
        return y.reshape(x.shape)
