"""Blocks that the exemplars, the cells and the queries go through."""

from __future__ import annotations

import flax.linen as nn
import jax

from ....layers.transformer import Mlp, layer_norm
from ..decoder import CrossAttention
from .config import Sam3Config

Array = jax.Array
EPS = 1e-5  # of all norms behind the trunks, whatever a config.json says of them


class ReadBlock(nn.Module):
    """Attention of a set to itself and to another, and an MLP, each behind a norm."""

    config: Sam3Config

    def setup(self):
        c = self.config
        self.norm1, self.norm2, self.norm3 = (layer_norm(EPS, c.dtype) for _ in range(3))
        self.own = CrossAttention(c.dim, c.heads, c.dim, c.dtype)
        self.other = CrossAttention(c.dim, c.heads, c.dim, c.dtype)
        self.mlp = Mlp(c.dim, c.hidden, c.activation, c.dtype)

    def __call__(
        self,
        x: Array,
        read: Array,
        *,
        at: Array | None = None,
        read_at: Array | None = None,
        valid: Array | None = None,
        read_valid: Array | None = None,
    ) -> Array:
        """x and its positions ``at`` [M, N, D], what it reads and its [M, R, D], and which of each
        is there [M, N], [M, R] -> [M, N, D]."""
        h = self.norm1(x)
        placed = h if at is None else h + at
        x = x + self.own(placed, placed, h, valid)
        keys = read if read_at is None else read + read_at
        x = x + self.other(self.norm2(x), keys, read, read_valid)
        return x + self.mlp(self.norm3(x))


class QueryBlock(nn.Module):
    """Queries among themselves, to the prompt, to the cells, an MLP; norms behind the sums."""

    config: Sam3Config

    def setup(self):
        c = self.config
        self.own, self.prompt, self.cells = (
            CrossAttention(c.dim, c.heads, c.dim, c.dtype) for _ in range(3)
        )
        self.mlp = Mlp(c.dim, c.hidden, c.activation, c.dtype)
        self.norm1, self.norm2, self.norm3, self.norm4 = (
            layer_norm(EPS, c.dtype) for _ in range(4)
        )

    def __call__(
        self, x: Array, at: Array, prompt: Array, valid: Array, keys: Array, cells: Array,
        bias: Array,
    ) -> Array:  # fmt: skip
        """x and its positions ``at`` [M, Q, D], prompt [M, L, D] of which ``valid`` [M, L] is
        there, cells [M, S, D] and their ``keys``, ``bias`` [M, H, Q, S] -> [M, Q, D]."""
        x = self.norm1(x + self.own(x + at, x + at, x))
        x = self.norm2(x + self.prompt(x + at, prompt, prompt, valid))
        x = self.norm3(x + self.cells(x + at, keys, cells, bias=bias))
        return self.norm4(x + self.mlp(x))
