"""What DUSt3R and MASt3R read out of a view's tokens: points, descriptors, and how sure they are.

Sources: Wang et al., DUSt3R (arXiv 2312.14132), section 3; Leroy et al., MASt3R (arXiv 2406.09756),
section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.transformer import gelu
from ..decoder import Neck
from ..model import DepthHead
from ..pi3.model import PixelHead
from .config import DUSt3RConfig

Array = jax.Array


class Maps(NamedTuple):
    """What is said of a view's pixels. Descriptors are those of MASt3R, None of DUSt3R."""

    points: Array  # [M, H, W, 3]
    sure: Array  # [M, H, W] above 1
    descriptors: Array | None  # [M, H, W, K] of length 1
    descriptors_sure: Array | None  # [M, H, W] above the config's floor


class ViewHead(nn.Module):
    """Tokens of the encoder and of three layers of a decoder -> :class:`Maps`."""

    config: DUSt3RConfig

    def setup(self):
        c = self.config
        if c.head == "dpt":
            self.neck = Neck(c.widths, c.fused, doubles=True, crops=True)
            self.head = DepthHead(c.fused, c.hidden, outputs=4)
        else:
            self.pixels = PixelHead(c.patch, 4)
        if c.descriptors:
            self.local_up = nn.Dense(4 * (c.dim + c.decoder_dim))
            self.local = PixelHead(c.patch, c.descriptors + 1)

    def __call__(self, tokens: Sequence[Array], size: tuple[int, int]) -> Maps:
        """tokens: four of [M, h * w, D], the encoder's first, the decoder's last one normed."""
        c = self.config
        tokens = [x.astype(jnp.float32) for x in tokens]  # as the published heads
        rows, cols = (side // c.patch for side in size)
        if c.head == "dpt":
            fused = self.neck([x.reshape(-1, rows, cols, x.shape[-1]) for x in tokens])
            raw = self.head(fused, size)
        else:
            raw = self.pixels(tokens[-1][None], size)[0]
        points, sure = away(raw[..., :3]), 1 + jnp.exp(raw[..., 3])
        if not c.descriptors:
            return Maps(points, sure, None, None)
        both = jnp.concatenate([tokens[0], tokens[-1]], axis=-1)
        found = self.local(gelu(self.local_up(both))[None], size)[0]
        said, certain = found[..., :-1], found[..., -1]
        said = said / jnp.maximum(jnp.linalg.norm(said, axis=-1, keepdims=True), 1e-12)
        return Maps(points, sure, said, c.floor + jnp.exp(certain))


def away(x: Array) -> Array:
    """Vectors [..., 3] -> those of the same direction whose length is expm1 of it."""
    length = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.maximum(length, 1e-8) * jnp.expm1(length)
