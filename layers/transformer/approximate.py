"""Attention among the tokens of a frame (or a clip) in linear time, as a choice of a block."""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..linformer import linformer_attention
from ..nystrom import nystrom_attention

Array = jax.Array

KINDS = ("nystrom", "linformer")


@dataclass(frozen=True)
class Approximate:
    """What takes the place of full attention.

    Attributes:
      kind: ``nystrom`` (landmarks: segment means of queries and keys) or ``linformer`` (learned
        mixtures of keys and values).
      rank: landmarks, or mixtures. As many as tokens: Nystrom is full attention, and so is
        Linformer with the identity for its projections.
      taps: ``nystrom`` only, of the convolution of the values over tokens, odd; 0 for none.
      tokens: ``linformer`` only, of a frame: its projections are made for that many.

    Raises:
      ValueError: an unknown kind, or a number that it cannot take.
    """

    kind: str
    rank: int = 64
    taps: int = 0
    tokens: int = 0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"attention {self.kind!r}: choose full or one of {KINDS}")
        if self.rank < 1:
            raise ValueError(f"rank {self.rank} of {self.kind} attention must be at least 1")
        if self.taps and (self.kind != "nystrom" or self.taps < 0 or self.taps % 2 == 0):
            raise ValueError(f"taps {self.taps}: an odd number, and of nystrom attention only")
        if self.kind == "linformer" and self.tokens < 1:
            raise ValueError("linformer attention is made for a number of tokens: give tokens")


class ApproximateAttention(nn.Module):
    """q [M, N, H, D], k and v [M, N, G, D] (G divides H) -> [M, N, H, D].

    Parameters: ``conv`` [taps, H] (Nystrom), or ``shorten_k`` and ``shorten_v`` [rank, tokens]
    (Linformer), which begin as the published code begins them, with gain rank ** -0.5.
    """

    config: Approximate
    heads: int

    def setup(self):
        c, normal = self.config, nn.initializers.normal
        if c.taps:
            self.conv = self.param("conv", normal(0.02), (c.taps, self.heads))
        if c.kind == "linformer":
            shape = (c.rank, c.tokens)
            self.shorten_k = self.param("shorten_k", normal(c.rank**-0.5), shape)
            self.shorten_v = self.param("shorten_v", normal(c.rank**-0.5), shape)

    def __call__(self, q: Array, k: Array, v: Array) -> Array:
        c = self.config
        if k.shape[2] != self.heads:
            k, v = (jnp.repeat(x, self.heads // x.shape[2], axis=2) for x in (k, v))
        if c.kind == "linformer":
            return linformer_attention(q, k, v, self.shorten_k, self.shorten_v)
        # of each matrix, not of all together as published: the streams of a batch stay apart
        conv = self.conv if c.taps else None
        return nystrom_attention(q, k, v, c.rank, conv=conv, per_matrix=True)
