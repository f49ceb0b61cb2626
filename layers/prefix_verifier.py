"""Whether the first words of a fast model may stand, by what it knew as it said them.

Source: RelayS2S (code: mailong25/relays2s, relays2s/prefix_verifier): hidden states of up to 15
tokens, each weighted by its entropy, log-probability and margin; no attention between tokens.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from .streaming import Array, DType
from .transformer import ACTIVATIONS
from .transformer.norms import layer_norm


class PrefixVerifier(nn.Module):
    """(hidden [B, S, C], scalars [B, S, 3], there [B, S] bool) -> (logits [B], weights [B, S]).

    A logit above that of the threshold (0.5: 0) keeps the prefix. A prefix of no tokens has weights
    of 0.

    Attributes:
      dim: width within.
      longest: S at most.
      dtype: compute type.
    """

    dim: int = 128
    longest: int = 15
    dtype: DType = jnp.float32

    def setup(self):
        dense = lambda bias=True: nn.Dense(self.dim, use_bias=bias, dtype=self.dtype)
        small = nn.initializers.normal(0.02)
        self.project, self.project_norm = dense(), layer_norm(1e-5, self.dtype)
        self.gate, self.shift, self.mix = dense(), dense(), dense()
        self.key, self.value = dense(False), dense(False)
        self.norm = layer_norm(1e-5, self.dtype)
        self.places = self.param("places", small, (self.longest, self.dim))
        self.query = self.param("query", small, (self.dim,))
        self.head = nn.Dense(1, dtype=self.dtype)

    def __call__(self, hidden: Array, scalars: Array, there: Array) -> tuple[Array, Array]:
        act = ACTIVATIONS["gelu"]
        h = act(self.project_norm(self.project(hidden)))
        h = h * nn.sigmoid(self.gate(scalars)) + self.shift(scalars)
        h = h + self.places[None, : h.shape[1]].astype(h.dtype)
        h = h + act(self.mix(h))
        scores = jnp.einsum("d,bsd->bs", self.query.astype(h.dtype), self.key(h))
        scores = scores.astype(jnp.float32) * self.dim**-0.5
        # one prefix may have no tokens: its weights are 0, and so is their gradient
        weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True)) * there
        total = weights.sum(axis=-1, keepdims=True)
        weights = weights / jnp.where(total > 0, total, 1.0)
        pooled = jnp.einsum("bs,bsd->bd", weights.astype(h.dtype), self.value(h))
        return self.head(self.norm(pooled))[:, 0].astype(jnp.float32), weights


def scalars_of(logits: Array, tokens: Array) -> Array:
    """What a model knew as it said its tokens: entropy, log-probability, and the margin between its
    two best logits. logits [B, S, V], tokens [B, S] -> [B, S, 3]."""
    logits = logits.astype(jnp.float32)
    logp = nn.log_softmax(logits, axis=-1)
    entropy = -(jnp.exp(logp) * logp).sum(axis=-1)
    own = jnp.take_along_axis(logp, tokens[..., None], axis=-1)[..., 0]
    ordered = jnp.sort(logits, axis=-1)
    return jnp.stack([entropy, own, ordered[..., -1] - ordered[..., -2]], axis=-1)
