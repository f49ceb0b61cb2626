"""Leaky integrate-and-fire neurons over time, one membrane per token position and channel.

Sources: Eshraghian et al., "Training Spiking Neural Networks Using Lessons From Deep Learning"
(arXiv 2109.12894), equations 3 to 6; the order of reset and spike, and the surrogate gradient
``alpha / 2 / (1 + (pi / 2 * alpha * u) ** 2)``, are those of snntorch's ``Leaky``.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from .gaps import zero_invalid
from .ranks import to_rank
from .streaming import DType

Array = jax.Array

ALPHA = 2.0  # sharpness of the surrogate


@jax.custom_jvp
def spike(u: Array) -> Array:
    """1 where u is above 0, else 0; its derivative is that of an arc tangent."""
    return (u > 0).astype(u.dtype)


@spike.defjvp
def _spike_jvp(primals, tangents):
    (u,), (du,) = primals, tangents
    slope = ALPHA / 2 / (1 + (np.pi / 2 * ALPHA * u) ** 2)
    return spike(u), slope.astype(u.dtype) * du


def leaky(v: Array, current: Array, decay: Array, threshold: float) -> tuple[Array, Array]:
    """One step: what fired before loses a threshold now; then it leaks, takes and fires.

    v, current [..., D] fp32, decay [D] -> (v, spikes, both [..., D]).
    """
    reset = jax.lax.stop_gradient((v > threshold).astype(v.dtype))
    v = to_rank(decay, v) * v + current - threshold * reset
    return v, spike(v - threshold)


class LIF(nn.Module):
    """out(spikes of in(x)). Latency 0. Carry: the membranes v [B, N, hidden], fp32.

    Attributes:
      hidden: neurons per token; None takes ``dim``.
      threshold: membrane above which a neuron fires.
      decay: share of the membrane that is left after a frame, at the start; it is learned.
    """

    dim: int
    hidden: int | None = None
    threshold: float = 1.0
    decay: float = 0.9
    dtype: DType = jnp.float32
    latency = 0

    def setup(self):
        if not 0 < self.decay < 1:
            raise ValueError(f"decay {self.decay} of LIF is not between 0 and 1")
        start = float(np.log(self.decay / (1 - self.decay)))
        self.input = nn.Dense(self.width, dtype=self.dtype)
        self.leak = self.param("leak", nn.initializers.constant(start), (self.width,))
        self.out = nn.Dense(self.dim, dtype=self.dtype)

    @property
    def width(self) -> int:
        """Neurons per token."""
        return self.hidden or self.dim

    @nn.nowrap
    def init_carry(self, batch: int, tokens: int) -> Array:
        """Membranes at rest."""
        return jnp.zeros((batch, tokens, self.width), jnp.float32)

    def __call__(self, carry: Array, x: Array, valid: Array | None = None) -> tuple[Array, Array]:
        """x [B, T, N, D], valid [B, T] -> (carry, y [B, T, N, D])."""
        current = self.input(zero_invalid(x, valid)).astype(jnp.float32)
        step = functools.partial(
            leaky, decay=jax.nn.sigmoid(self.leak.astype(jnp.float32)), threshold=self.threshold
        )

        def frame(v: Array, now):
            current, alive = now
            new, fired = step(v, current)
            return jnp.where(alive[:, None, None], new, v), fired

        alive = jnp.ones(x.shape[:2], bool) if valid is None else valid
        if x.shape[1] == 1:
            carry, fired = frame(carry, (current[:, 0], alive[:, 0]))
            fired = fired[:, None]
        else:
            carry, fired = jax.lax.scan(
                frame, carry, (current.swapaxes(0, 1), alive.swapaxes(0, 1))
            )
            fired = fired.swapaxes(0, 1)
        return carry, zero_invalid(self.out(fired.astype(self.dtype)), valid)
