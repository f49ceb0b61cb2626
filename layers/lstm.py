"""LSTM over time, one state per token position: the temporal half of DSTA.

Source: Hochreiter and Schmidhuber (1997) in the form of ``torch.nn.LSTM`` (gates i, f, g, o).
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from .exportable import exportable
from .gaps import hold, zero_invalid
from .streaming import DType

Array = jax.Array


@exportable
class LSTMState(NamedTuple):
    h: Array  # [B, N, hidden] fp32
    c: Array  # [B, N, hidden] fp32


class LSTM(nn.Module):
    """One LSTM layer with weights shared by all token positions. Latency 0.

    ``hidden`` defaults to ``dim``; any other width adds an output projection. The state is fp32;
    the input products of a whole clip are one matrix product, only the recurrence is a scan.
    """

    dim: int
    hidden: int | None = None
    forget_bias: float = 1.0
    dtype: DType = jnp.float32
    latency = 0

    @property
    def width(self) -> int:
        return self.hidden or self.dim

    def setup(self):
        def bias(key, shape, dtype=jnp.float32):
            del key
            gates = jnp.zeros((4, shape[0] // 4), dtype).at[1].set(self.forget_bias)
            return gates.reshape(shape)

        self.input = nn.Dense(4 * self.width, dtype=self.dtype, bias_init=bias)
        self.recurrent = self.param(
            "recurrent", nn.initializers.orthogonal(), (self.width, 4 * self.width)
        )
        if self.width != self.dim:
            self.out = nn.Dense(self.dim, dtype=self.dtype)

    @nn.nowrap
    def init_carry(self, batch: int, tokens: int) -> LSTMState:
        shape = (batch, tokens, self.width)
        # a buffer each: one that stands twice in a carry cannot be donated
        return LSTMState(jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))

    def __call__(self, carry: LSTMState, x: Array, valid: Array | None = None):
        """x [B, T, N, D], valid [B, T] -> (carry, y [B, T, N, D])."""
        gates = self.input(zero_invalid(x, valid))
        w = self.recurrent.astype(self.dtype)

        def step(state: LSTMState, frame):
            gate, keep = frame
            z = gate.astype(jnp.float32) + (state.h.astype(self.dtype) @ w).astype(jnp.float32)
            i, f, g, o = jnp.split(z, 4, axis=-1)
            c = jax.nn.sigmoid(f) * state.c + jax.nn.sigmoid(i) * jnp.tanh(g)
            new = LSTMState(jax.nn.sigmoid(o) * jnp.tanh(c), c)
            if keep is not None:
                new = hold(new, state, keep)
            return new, new.h.astype(self.dtype)

        if x.shape[1] == 1:
            carry, y = step(carry, (gates[:, 0], None if valid is None else valid[:, 0]))
            y = y[:, None]
        else:
            keep = None if valid is None else valid.swapaxes(0, 1)
            carry, y = jax.lax.scan(step, carry, (gates.swapaxes(0, 1), keep))
            y = y.swapaxes(0, 1)
        if self.width != self.dim:
            y = self.out(y)
        return carry, zero_invalid(y, valid)


def from_torch_lstm(tensors: dict[str, np.ndarray]) -> dict:
    """Parameters of :class:`LSTM` from the arrays of a one-layer ``torch.nn.LSTM``.

    Takes ``weight_ih_l0`` [4H, D], ``weight_hh_l0`` [4H, H], ``bias_ih_l0``, ``bias_hh_l0`` [4H]
    (torch keeps two biases that are only ever added).

    Raises:
      KeyError: a tensor is missing.
    """
    bias = tensors["bias_ih_l0"] + tensors["bias_hh_l0"]
    return {
        "input": {"kernel": np.asarray(tensors["weight_ih_l0"]).T, "bias": np.asarray(bias)},
        "recurrent": np.asarray(tensors["weight_hh_l0"]).T,
    }
