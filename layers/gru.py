"""GRU over time, one state per token position.

Source: Cho et al. (arXiv 1406.1078) in the form of ``torch.nn.GRU`` (gates r, z, n; the reset gate
weighs the recurrent product after its bias).
"""

from __future__ import annotations

from collections.abc import Sequence

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

    def __call__(self, carry: Array, x: Array, valid: Array | None = None) -> tuple[Array, Array]:
        """x [B, T, N, D], valid [B, T] -> (carry, y [B, T, N, hidden])."""
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
        carry, y = jax.lax.scan(step, carry, (gates, keep))
        return carry, zero_invalid(y.swapaxes(0, 1), valid)


def side_by_side(
    grus: Sequence[GRU], parts: Sequence[Array], reverse: Sequence[bool]
) -> list[Array]:
    """Several GRUs that begin with zeros, in one loop over T instead of one each: what a loop costs
    for its steps is more than what a small GRU costs for its numbers.

    Args:
      grus: of one width.
      parts: x [B, T, N, D] of each.
      reverse: which of them begin with the last frame.

    Returns:
      y [B, T, N, hidden] of each.
    """
    hidden, count = grus[0].hidden, len(grus)
    turn = lambda x, back: x[:, ::-1] if back else x
    gates = [turn(gru.input(x), back) for gru, x, back in zip(grus, parts, reverse, strict=True)]
    shape = gates[0].shape
    # [B, T, N, 3, G, hidden]: the gates of all side by side, as of one wide GRU
    wide = jnp.stack([g.reshape(*shape[:-1], 3, hidden) for g in gates], axis=-2)
    each = jnp.stack([gru.recurrent.reshape(hidden, 3, hidden) for gru in grus])
    # its recurrent matrix has theirs on the diagonal
    apart = jnp.eye(count, dtype=each.dtype)
    recurrent = jnp.einsum("ghkj,gf->ghkfj", each, apart).reshape(count * hidden, -1)
    bias = jnp.stack([gru.recurrent_bias.reshape(3, hidden) for gru in grus], axis=1).reshape(-1)

    def step(h: Array, gate: Array) -> tuple[Array, Array]:
        r, z, n = jnp.split(gate, 3, axis=-1)
        hr, hz, hn = jnp.split(h @ recurrent + to_rank(bias, h), 3, axis=-1)
        r, z = jax.nn.sigmoid(r + hr), jax.nn.sigmoid(z + hz)
        new = (1 - z) * jnp.tanh(n + r * hn) + z * h
        return new, new

    flat = wide.reshape(*shape[:-1], -1).swapaxes(0, 1)
    none = jnp.zeros((shape[0], shape[2], count * hidden), flat.dtype)
    y = jax.lax.scan(step, none, flat)[1].swapaxes(0, 1)
    return [turn(part, back) for part, back in zip(jnp.split(y, count, axis=-1), reverse,
                                                   strict=True)]  # fmt: skip
