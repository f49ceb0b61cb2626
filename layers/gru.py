"""GRU over time, one state per token position.

Source: Cho et al. (arXiv 1406.1078) in the form of ``torch.nn.GRU`` (gates r, z, n; the reset gate
weighs the recurrent product after its bias).
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from .gaps import hold, zero_invalid
from .ranks import to_rank

Array = jax.Array


class GRU(nn.Module):
    """One GRU layer with weights shared by all token positions. Latency 0. The state is fp32."""

    hidden: int
    latency = 0

    def setup(self):
        self.input = nn.Dense(3 * self.hidden)
        init, zeros = nn.initializers.orthogonal(), nn.initializers.zeros
        self.recurrent = self.param("recurrent", init, (self.hidden, 3 * self.hidden))
        self.recurrent_bias = self.param("recurrent_bias", zeros, (3 * self.hidden,))

    @nn.nowrap
    def init_carry(self, batch: int, tokens: int) -> Array:
        """Zeros [B, N, hidden]."""
        return jnp.zeros((batch, tokens, self.hidden), jnp.float32)

    def __call__(
        self, carry: Array, x: Array, valid: Array | None = None, reverse: bool = False
    ) -> tuple[Array, Array]:
        """x [B, T, N, D], valid [B, T] -> (carry, y [B, T, N, hidden]); ``reverse`` begins with the
        last frame (an axis that is no time)."""
        gates = self.input(zero_invalid(x, valid)).swapaxes(0, 1)

        def step(h, frame):
            gate, keep = frame
            r, z, n = jnp.split(gate, 3, axis=-1)
            hr, hz, hn = jnp.split(h @ self.recurrent + to_rank(self.recurrent_bias, h), 3, axis=-1)
            r, z = jax.nn.sigmoid(r + hr), jax.nn.sigmoid(z + hz)
            new = (1 - z) * jnp.tanh(n + r * hn) + z * h
            new = new if keep is None else hold(new, h, keep)
            return new, new

        keep = None if valid is None else valid.swapaxes(0, 1)
        carry, y = jax.lax.scan(step, carry, (gates, keep), reverse=reverse)
        return carry, zero_invalid(y.swapaxes(0, 1), valid)
