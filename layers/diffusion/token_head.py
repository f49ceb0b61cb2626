"""A head that draws continuous tokens: flow matching by a small MLP on top of a language model.

As Flow-Omni does for speech: an autoregressive model gives a hidden state for every step, and a
flow from noise, told that state, draws the token's vector, so a step can have several answers and
none is their mean. Lipman et al., "Flow Matching for Generative Modeling" (arXiv 2210.02747); the
head of Li et al., "Autoregressive Image Generation without Vector Quantization" (arXiv 2406.11838),
section 3.2, with a flow in place of its diffusion. Signs and times are those of :mod:`.flow`: sigma
goes from 1, noise, to 0.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ..ranks import to_rank
from ..streaming import Array
from .flow import FlowSchedule


class FlowHead(nn.Module):
    """The flow ``noise - clean`` of noisy tokens, told the hidden states.

    Attributes:
      dim: numbers of a token.
      hidden: width of the MLP.
      depth: residual blocks.
    """

    dim: int
    hidden: int = 64
    depth: int = 2

    @nn.compact
    def __call__(self, noisy: Array, sigma: Array, state: Array) -> Array:
        """noisy [..., dim], sigma [...] in 0..1, state [..., D] -> flow [..., dim]."""
        rates = jnp.asarray(2.0 ** np.arange(6) * np.pi, sigma.dtype)
        angles = sigma[..., None] * to_rank(rates, noisy)
        time = jnp.concatenate([jnp.sin(angles), jnp.cos(angles), sigma[..., None]], axis=-1)
        told = nn.Dense(self.hidden)(time) + nn.Dense(self.hidden)(state)
        x = nn.Dense(self.hidden)(noisy)
        for _ in range(self.depth):
            scale, shift = jnp.split(nn.Dense(2 * self.hidden)(nn.silu(told)), 2, axis=-1)
            h = nn.LayerNorm(use_bias=False, use_scale=False)(x) * (1 + scale) + shift
            x = x + nn.Dense(self.hidden)(nn.silu(nn.Dense(self.hidden)(h)))
        return nn.Dense(self.dim, kernel_init=nn.initializers.zeros)(x)

    def loss(self, clean: Array, state: Array, key: Array) -> Array:
        """clean [..., dim], state [..., D] -> squared error of the flow at a drawn sigma, [...]."""
        drawn, noise = jax.random.split(key)
        sigma = jax.random.uniform(drawn, clean.shape[:-1])
        noise = jax.random.normal(noise, clean.shape)
        noisy = (1 - sigma[..., None]) * clean + sigma[..., None] * noise
        return jnp.square(self(noisy, sigma, state) - (noise - clean)).mean(axis=-1)

    def sample(self, state: Array, key: Array, steps: int = 8, shift: float = 1.0) -> Array:
        """A token of each state [..., D], by ``steps`` even steps of Euler; [..., dim].

        Raises:
          ValueError: no step, or a shift below 1.
        """
        sigmas = [*FlowSchedule(steps, shift).sigmas.tolist(), 0.0]
        x = jax.random.normal(key, (*state.shape[:-1], self.dim))
        for now, after in zip(sigmas, sigmas[1:], strict=False):
            x = x + (after - now) * self(x, jnp.full(x.shape[:-1], now), state)
        return x
