"""Queries read the text and the picture and mend their boxes, block by block.

Source: Liu et al., "Grounding DINO" (arXiv 2303.05499), section 3.3; the mending of boxes is
that of Zhang et al., "DINO" (arXiv 2203.03605), section 3.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.deformable import Deformable, Sizes
from ....layers.positions import waves
from ....layers.transformer import Mlp, layer_norm
from ...segment.decoder import CrossAttention
from .config import GroundingConfig

Array = jax.Array


def logit(x: Array) -> Array:
    """Of shares, those at 0 and 1 moved in by 1e-5."""
    x = jnp.clip(x, 1e-5, 1 - 1e-5)
    return jnp.log(x / (1 - x))


class Head(nn.Module):
    """``depth`` dense layers with rectifiers between. x [..., D] -> [..., out]."""

    dim: int
    out: int
    depth: int

    def setup(self):
        widths = [*[self.dim] * (self.depth - 1), self.out]
        self.layers = [nn.Dense(width) for width in widths]

    def __call__(self, x: Array) -> Array:
        for layer in self.layers[:-1]:
            x = nn.relu(layer(x))
        return self.layers[-1](x)


class DecoderBlock(nn.Module):
    """Queries among themselves, to the text, to the picture, an MLP; norms behind the sums."""

    config: GroundingConfig

    def setup(self):
        c = self.config
        self.own = CrossAttention(c.dim, c.decoder_heads, c.dim, c.dtype)
        self.text = CrossAttention(c.dim, c.decoder_heads, c.dim, c.dtype)
        self.cells = Deformable(c.dim, c.decoder_heads, c.levels, c.decoder_points, c.dtype)
        self.mlp = Mlp(c.dim, c.decoder_hidden, c.activation, c.dtype)
        self.norm1, self.norm2, self.norm3, self.norm4 = (
            layer_norm(c.eps, c.dtype) for _ in range(4)
        )

    def __call__(
        self, x: Array, at: Array, boxes: Array, text: Array, valid: Array, cells: Array,
        sizes: Sizes,
    ) -> Array:  # fmt: skip
        """x and its positions ``at`` [M, Q, D], boxes [M, Q, 4] -> [M, Q, D]."""
        x = self.norm1(x + self.own(x + at, x + at, x))
        x = self.norm2(x + self.text(x + at, text, text, valid))
        x = self.norm3(x + self.cells(x + at, boxes, cells, sizes))
        return self.norm4(x + self.mlp(x))


class Decoded(NamedTuple):
    """Of M frames."""

    queries: Array  # [M, Q, D], normed
    boxes: Array  # [M, Q, 4] middle x, y, width and height as fractions of the frame


class Decoder(nn.Module):
    """All blocks, with one head of boxes for all of them."""

    config: GroundingConfig

    def setup(self):
        c = self.config
        self.blocks = [DecoderBlock(c) for _ in range(c.decoder_depth)]
        self.norm = layer_norm(c.eps, c.dtype)
        self.place = Head(c.dim, c.dim, 2)
        self.mend = Head(c.dim, 4, 3)

    def __call__(
        self, x: Array, boxes: Array, text: Array, valid: Array, cells: Array, sizes: Sizes
    ) -> Decoded:
        """From queries x [M, Q, D] at ``boxes`` [M, Q, 4], text [M, N, D], cells [M, S, D]."""
        half = self.config.dim // 2
        for number, block in enumerate(self.blocks):
            # rows come before columns, as in the positions of cells
            order = (boxes[..., 1], boxes[..., 0], boxes[..., 2], boxes[..., 3])
            at = jnp.concatenate([waves(a, half) for a in order], axis=-1)
            x = block(x, self.place(at).astype(x.dtype), boxes, text, valid, cells, sizes)
            if number + 1 < len(self.blocks):
                boxes = nn.sigmoid(self.mend(x) + logit(boxes))
        x = self.norm(x)
        # the answer is made of the normed queries, unlike what the blocks hand on
        return Decoded(x, nn.sigmoid(self.mend(x) + logit(boxes)))
