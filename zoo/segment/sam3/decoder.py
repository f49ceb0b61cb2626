"""Queries become instances: their boxes, mended block by block, and how sure each is.

Source: Carion et al., "SAM 3: Segment Anything with Concepts" (arXiv 2511.16719); the bias of the
attention by a query's box is that of Lin et al., "DETR Does Not Need Multi-Scale or Locality
Design" (arXiv 2308.01904), the mending of boxes that of Zhang et al., "DINO" (arXiv 2203.03605).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ....layers.positions import waves
from ....layers.transformer import layer_norm
from ..decoder import MlpHead
from .blocks import EPS, QueryBlock
from .config import Sam3Config

Array = jax.Array
SUREST, PRESENT = 12.0, 10.0  # bounds of the logits of a query, and of the concept


def logit(x: Array) -> Array:
    """Of shares, those next to 0 and 1 taken as 1e-3 away from them."""
    x = jnp.clip(x, 0.0, 1.0)
    return jnp.log(jnp.maximum(x, 1e-3) / jnp.maximum(1 - x, 1e-3))


def corners(boxes: Array) -> Array:
    """[..., 4] middle x, y, width, height -> x1, y1, x2, y2."""
    middle, half = boxes[..., :2], boxes[..., 2:] / 2
    return jnp.concatenate([middle - half, middle + half], axis=-1)


class Decoded(NamedTuple):
    """Of M frames."""

    queries: Array  # [M, Q, D], normed
    boxes: Array  # [M, Q, 4] middle x, y, width and height as fractions of the frame
    presence: Array  # [M] logit: the concept is in the frame


class QueryDecoder(nn.Module):
    """All blocks; one token more says whether the concept is there at all."""

    config: Sam3Config

    def setup(self):
        c = self.config
        normal = nn.initializers.normal(1.0)
        self.queries = self.param("queries", normal, (c.queries, c.dim))
        self.starts = self.param("starts", normal, (c.queries, 4))
        self.presence = self.param("presence", normal, (c.dim,))
        self.blocks = [QueryBlock(c) for _ in range(c.decoder_depth)]
        self.norm, self.presence_norm = (layer_norm(EPS, c.dtype) for _ in range(2))
        self.place = MlpHead(c.dim, c.dim, 2, dtype=c.dtype)
        self.mend = MlpHead(c.dim, 4, 3, dtype=c.dtype)
        self.present = MlpHead(c.dim, 1, 3, dtype=c.dtype)
        self.near_x, self.near_y = (MlpHead(c.dim, c.heads, 2, dtype=c.dtype) for _ in range(2))

    def __call__(self, prompt: Array, valid: Array, cells: Array, at: Array) -> Decoded:
        """prompt [M, L, D] of which ``valid`` [M, L] is there, cells [M, h, w, D] at [h * w, D]."""
        c, (batch, *size, _) = self.config, cells.shape
        every = lambda a: jnp.broadcast_to(a[None], (batch, *a.shape))
        x = jnp.concatenate([self.presence[None], self.queries]).astype(c.dtype)
        x, boxes = every(x), every(nn.sigmoid(self.starts.astype(jnp.float32)))
        cells = cells.reshape(batch, -1, c.dim)
        keys = cells + at[None]
        # the token of the presence stands nowhere and is near to everything
        first = lambda a, axis: jnp.pad(a, [(int(i == axis), 0) for i in range(a.ndim)])
        queries = x[:, 1:]
        for block in self.blocks:
            # rows come before columns, as in the positions of cells
            order = (boxes[..., 1], boxes[..., 0], boxes[..., 2], boxes[..., 3])
            waved = jnp.concatenate([waves(a, c.dim // 2) for a in order], axis=-1)
            where = first(self.place(waved.astype(c.dtype)), 1)
            bias = first(self.nearness(boxes, (size[0], size[1])), 2)
            x = block(x, where, prompt, valid, keys, cells, bias)
            queries = self.norm(x[:, 1:])
            boxes = nn.sigmoid(self.mend(queries).astype(jnp.float32) + logit(boxes))
        there = self.present(self.presence_norm(x[:, 0]))[..., 0].astype(jnp.float32)
        return Decoded(queries, boxes, jnp.clip(there, -PRESENT, PRESENT))

    def nearness(self, boxes: Array, size: tuple[int, int]) -> Array:
        """What the logit of a query, by its box [M, Q, 4], and a cell gets: [M, H, Q, h * w]."""
        x1, y1, x2, y2 = jnp.moveaxis(corners(boxes), -1, 0)

        def axis(head: MlpHead, low: Array, high: Array, count: int) -> Array:
            edges = jnp.stack([low, high], axis=-1)[:, :, None]
            far = 8 * ((np.arange(count, dtype=np.float32) / count)[None, None, :, None] - edges)
            far = jnp.sign(far) * jnp.log2(jnp.abs(far) + 1) / math.log2(8)
            return head(far.astype(self.config.dtype)).astype(jnp.float32)

        rows, cols = axis(self.near_y, y1, y2, size[0]), axis(self.near_x, x1, x2, size[1])
        both = rows[:, :, :, None] + cols[:, :, None]
        return both.reshape(*boxes.shape[:2], -1, both.shape[-1]).transpose(0, 3, 1, 2)


class Scores(nn.Module):
    """How much queries [M, Q, D] are what the prompt [M, L, D] says: logits [M, Q]."""

    config: Sam3Config

    def setup(self):
        c = self.config
        self.mlp = MlpHead(c.hidden, c.dim, 2, dtype=c.dtype)
        self.norm = layer_norm(EPS, c.dtype)
        self.prompt, self.query = (nn.Dense(c.dim, dtype=c.dtype) for _ in range(2))

    def __call__(self, queries: Array, prompt: Array, valid: Array) -> Array:
        """``valid`` [M, L]: what of the prompt is there."""
        prompt = self.norm(self.mlp(prompt) + prompt)
        weight = valid[..., None].astype(prompt.dtype)
        mean = (prompt * weight).sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1)
        found = jnp.einsum("mqd,md->mq", self.query(queries), self.prompt(mean))
        return jnp.clip(found.astype(jnp.float32) * self.config.dim**-0.5, -SUREST, SUREST)
