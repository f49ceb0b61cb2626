"""Features of a picture -> tokens that a language model reads in the place of words.

Source of the idea: Liu et al., "Visual Instruction Tuning" (arXiv 2304.08485), whose projector is
two layers between a frozen encoder and a language model. Ours shares one pair of layers between
tokens of the whole picture and of its parts, told apart by a learned shift, so that it is small.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from ....layers.ranks import to_rank
from ....layers.streaming import Array, DType
from ....layers.transformer import ACTIVATIONS, layer_norm
from ...ranges import Checked, Count


@dataclasses.dataclass(frozen=True)
class ConnectorConfig(Checked):
    """Shapes.

    Attributes:
      width: channels of the encoder's map.
      grid: its cells, a side.
      whole: tokens of the whole picture.
      cells: tokens of its parts, a side.
      hidden: width between the two layers.
      dim: of the language model's tokens.
      dtype: compute type.
    """

    width: Count = 1280
    grid: Count = 7
    whole: Count = 4
    cells: Count = 2
    hidden: Count = 128
    dim: Count = 576
    dtype: DType = "float32"

    @property
    def tokens(self) -> int:
        """Of a picture."""
        return self.whole + self.cells**2


class Connector(nn.Module):
    """features [B, h, w, W] -> tokens [B, N, D], the whole picture's first."""

    config: ConnectorConfig
    task = "encode"

    def setup(self):
        c = self.config
        self.norm = layer_norm(1e-6, c.dtype)
        self.up = nn.Dense(c.hidden, dtype=c.dtype)
        self.shift = self.param("shift", nn.initializers.normal(0.5), (c.tokens, c.hidden))
        self.down = nn.Dense(c.dim, dtype=c.dtype)

    def __call__(self, features: Array) -> Array:
        """Raises ValueError: a map with fewer cells than parts."""
        c = self.config
        _, high, wide, _ = features.shape
        if min(high, wide) < c.cells:
            raise ValueError(f"a map of {high} x {wide} cells has no {c.cells} x {c.cells} parts")
        x = features.astype(c.dtype)
        mean = lambda a: a.mean(axis=(1, 2))
        edges = lambda side: [round(side * i / c.cells) for i in range(c.cells + 1)]
        rows, cols = edges(high), edges(wide)
        parts = [
            mean(x[:, rows[i] : rows[i + 1], cols[j] : cols[j + 1]])
            for i in range(c.cells)
            for j in range(c.cells)
        ]
        pooled = jnp.stack([*[mean(x)] * c.whole, *parts], axis=1)
        y = self.up(self.norm(pooled))
        return self.down(ACTIVATIONS["gelu"](y + to_rank(self.shift.astype(y.dtype), y)))
