"""A person head that reads the pretrained stem itself, at twice the resolution of the tokens."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from ...layers.streaming import DType
from .heads import PersonHead, Persons

Array = jax.Array
ROUNDS = 2  # of 3 x 3 convolutions


class StemPersonHead(nn.Module):
    """Persons of a frame from a frozen encoder's maps of two resolutions.

    Tokens that learn what is done forget where somebody is, and there are few of them. Here the
    finer map and the coarser one, doubled, are joined, convolutions look around each cell, and
    :class:`~.heads.PersonHead` tells for ``cells`` x ``cells`` places in each whether a person's
    middle is there. The maps are normalised cell by cell: as they come their values are so large
    that the first boxes are many frames wide, and learning makes them nothing for good.

    fine [M, 2h, 2w, F], coarse [M, h, w, C] -> :class:`~.heads.Persons` of 2h * cells rows.
    """

    width: int = 30
    boxes: int = 16
    threshold: float = 0.3
    cells: int = 2
    dtype: DType = jnp.float32

    def setup(self):
        self.fine = nn.Dense(self.width, dtype=self.dtype)
        self.coarse = nn.Dense(self.width, dtype=self.dtype)
        norm = lambda: nn.LayerNorm(dtype=self.dtype)
        self.fine_norm, self.coarse_norm, self.norm = norm(), norm(), norm()
        self.norms = [norm() for _ in range(ROUNDS)]
        self.around = [
            nn.Conv(self.width, (3, 3), padding="SAME", dtype=self.dtype) for _ in range(ROUNDS)
        ]
        self.head = PersonHead(self.boxes, self.width, self.threshold, self.cells, dtype=self.dtype)

    def __call__(self, fine: Array, coarse: Array) -> Persons:
        y = self.coarse(self.coarse_norm(coarse))
        y = jnp.repeat(jnp.repeat(y, 2, axis=1), 2, axis=2)
        x = self.fine(self.fine_norm(fine)) + y
        for conv, norm in zip(self.around, self.norms, strict=True):
            x = x + conv(nn.gelu(norm(x)))
        return self.head(self.norm(x))
