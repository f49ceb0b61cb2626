"""A recurrent unit whose state is a map: gates and candidate are convolutions of frame and state.

Source: Ballas et al., "Delving Deeper into Convolutional Networks for Learning Video
Representations" (arXiv 1511.06432), with 3 x 3 kernels, zeros around the map and all biases.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from .gaps import hold
from .streaming import DType

Array = jax.Array


class ConvGRU(nn.Module):
    """(state [B, H, W, C], x [B, T, H, W, C], valid [B, T]) -> (state, y [B, T, H, W, C]).

    r, z = sigmoid(conv([x, state])); c = tanh(conv([x, r * state])); state = (1 - z) state + z c,
    which is also the answer. A frame that is not valid leaves the state as it is. Latency 0.
    """

    dim: int
    dtype: DType = jnp.float32
    latency = 0

    @nn.nowrap
    def init_carry(self, batch: int, shape: tuple[int, int]) -> Array:
        """Zeros [batch, *shape, C]."""
        return jnp.zeros((batch, *shape, self.dim), jnp.float32)

    def setup(self):
        self.gates = nn.Conv(2 * self.dim, (3, 3), padding=1, dtype=self.dtype)
        self.candidate = nn.Conv(self.dim, (3, 3), padding=1, dtype=self.dtype)

    def __call__(self, state: Array, x: Array, valid: Array) -> tuple[Array, Array]:
        def step(state: Array, frame: tuple[Array, Array]) -> tuple[Array, Array]:
            x, came = frame
            join = lambda h: jnp.concatenate([x, h.astype(x.dtype)], axis=-1)
            reset, update = jnp.split(nn.sigmoid(self.gates(join(state))), 2, axis=-1)
            candidate = nn.tanh(self.candidate(join(reset * state)))
            new = ((1 - update) * state + update * candidate).astype(state.dtype)
            return hold(new, state, came), new.astype(x.dtype)

        if self.is_initializing():  # parameters cannot be made inside of a loop
            step(state, (x[:, 0], valid[:, 0]))
        state, y = jax.lax.scan(step, state, (x.swapaxes(0, 1), valid.swapaxes(0, 1)))
        return state, y.swapaxes(0, 1)
