"""Blocks of Cutie: an object's map is put in order by queries that sum up what is known of it.

Source: hkchengrex/Cutie, ``model/transformer`` and ``model/channel_attn.py``; the channel gate is
that of Wang et al., ECA-Net (arXiv 1910.03151), the masked attention that of Cheng et al.,
Mask2Former (arXiv 2112.01527).

Axis letters: B streams, O objects, M = B * O rows, h x w cells, L = h * w, Q queries, C width.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.feature_bank import Sums
from ....layers.kernels.attention import attention
from ....layers.streaming import DType
from ..xmem.blocks import aggregate, conv

Array = jax.Array
SCALE, TEMPERATURE = 32.0, 128.0  # of positions
LEAST = 1e-4  # cells of a query's area, as in the authors' code


def positions(h: int, w: int, dim: int) -> Array:
    """Sines of a cell's place: [h, w, dim], columns in the first half, rows in the second."""
    half = dim // 2
    rate = TEMPERATURE ** (-jnp.arange(0, half, 2, dtype=jnp.float32) / half)

    def along(n: int) -> Array:
        at = jnp.arange(n, dtype=jnp.float32) / (n - 1 + 1e-6) * SCALE
        turn = at[:, None] * rate[None]
        return jnp.stack([jnp.sin(turn), jnp.cos(turn)], -1).reshape(n, half)

    x = jnp.broadcast_to(along(w)[None], (h, w, half))
    y = jnp.broadcast_to(along(h)[:, None], (h, w, half))
    return jnp.concatenate([x, y], -1)


class GatedBlock(nn.Module):
    """Two 3 x 3 convolutions whose channels are weighed by their neighbours' means, and the
    input: [M, h, w, C] -> the same."""

    width: int
    dtype: DType = jnp.float32

    def setup(self):
        self.conv1 = conv(self.width, 3, self.dtype)
        self.conv2 = conv(self.width, 3, self.dtype)
        reach = int((math.log2(self.width) + 1) // 2)
        reach += 1 - reach % 2
        self.near = nn.Conv(1, (reach,), padding=reach // 2, use_bias=False, dtype=self.dtype)

    def __call__(self, x: Array) -> Array:
        y = self.conv2(nn.relu(self.conv1(nn.relu(x))))
        gate = nn.sigmoid(self.near(y.mean((1, 2))[..., None]))[..., 0]
        return y * gate[:, None, None] + x


class AddFuse(nn.Module):
    """Maps of the image and of an object, added, as one: x [M, h, w, C], g [M, h, w, D] ->
    [M, h, w, width]."""

    width: int
    dtype: DType = jnp.float32

    def setup(self):
        self.image = conv(self.width, 1, self.dtype)
        self.object = conv(self.width, 1, self.dtype)
        self.block1 = GatedBlock(self.width, self.dtype)
        self.block2 = GatedBlock(self.width, self.dtype)

    def __call__(self, x: Array, g: Array) -> Array:
        return self.block2(self.block1(self.image(x) + self.object(g.astype(x.dtype))))


class Attend(nn.Module):
    """Attention with heads: query [M, N, C], key, value [M, K, C], seen [M, N, K] bool or None."""

    heads: int
    width: int
    dtype: DType = jnp.float32

    def setup(self):
        self.query = nn.Dense(self.width, dtype=self.dtype)
        self.key = nn.Dense(self.width, dtype=self.dtype)
        self.value = nn.Dense(self.width, dtype=self.dtype)
        self.out = nn.Dense(self.width, dtype=self.dtype)

    def __call__(self, query: Array, key: Array, value: Array, seen: Array | None = None) -> Array:
        heads = lambda a: a.reshape(*a.shape[:2], self.heads, self.width // self.heads)
        q, k, v = heads(self.query(query)), heads(self.key(key)), heads(self.value(value))
        y = attention(q, k, v, mask=None if seen is None else seen[:, None])
        return self.out(y.reshape(*y.shape[:2], self.width))


class QueryBlock(nn.Module):
    """Queries read the cells that they may see, each other, and are read by all cells.

    What is added to an attention is its normed input, as the authors have it.
    """

    heads: int
    width: int
    hidden: int
    dtype: DType = jnp.float32

    def setup(self):
        kind = (self.heads, self.width, self.dtype)
        norm = lambda: nn.LayerNorm(epsilon=1e-5, dtype=self.dtype)
        self.norm1, self.norm2, self.norm3 = norm(), norm(), norm()
        self.from_pixel, self.among, self.from_query = (Attend(*kind) for _ in range(3))
        self.up = nn.Dense(self.hidden, dtype=self.dtype)
        self.down = nn.Dense(self.width, dtype=self.dtype)
        self.block = GatedBlock(self.width, self.dtype)

    def __call__(
        self, x: Array, pixel: Array, place: Array, where: Array, seen: Array
    ) -> tuple[Array, Array]:
        m, h, w, c = pixel.shape
        flat = pixel.reshape(m, h * w, c)
        x = self.norm1(x)
        x = x + self.from_pixel(x + place, flat + where, flat, seen)
        x = self.norm2(x)
        x = x + self.among(x + place, x + place, x)
        x = x + self.down(nn.relu(self.up(self.norm3(x))))
        flat = flat + self.from_query(flat + where, x + place, x)
        return x, self.block(flat.reshape(m, h, w, c))


class Queries(nn.Module):
    """The object transformer: pixel [B, O, h, w, C], what is known of each object, active [B, O] ->
    [B, O, h, w, C].

    The first half of the queries see the cells that are the object's by an early guess, the second
    half the others; one that would see none sees all.
    """

    count: int
    depth: int
    heads: int
    width: int
    hidden: int
    dtype: DType = jnp.float32

    def setup(self):
        init = nn.initializers.normal(1.0)
        self.start = self.param("start", init, (self.count, self.width))
        self.place = self.param("place", init, (self.count, self.width))
        dense = lambda: nn.Dense(self.width, dtype=self.dtype)
        self.known_start, self.known_place = dense(), dense()
        self.pixel_start = conv(self.width, 1, self.dtype)
        self.pixel_place = conv(self.width, 1, self.dtype)
        self.blocks = [
            QueryBlock(self.heads, self.width, self.hidden, self.dtype) for _ in range(self.depth)
        ]
        self.guess = [conv(1, 1, self.dtype) for _ in range(self.depth)]

    def _seen(self, pixel: Array, layer: int, active: Array) -> Array:
        """[M, Q, L] bool."""
        b, o = active.shape
        logits = self.guess[layer](nn.relu(pixel)).astype(jnp.float32)
        logits = aggregate(nn.sigmoid(logits).reshape(b, o, -1), active)
        mine = (logits[:, 1:] >= logits.max(1, keepdims=True)).reshape(b * o, 1, -1)
        half = lambda a: jnp.repeat(a, self.count // 2, 1)
        seen = jnp.concatenate([half(mine), half(~mine)], 1)
        return seen | ~seen.any(-1, keepdims=True)

    def __call__(self, pixel: Array, known: Sums, active: Array) -> Array:
        b, o, h, w, c = pixel.shape
        pixel = pixel.reshape(b * o, h, w, c)
        mean = known.total / (known.weight[..., None] + LEAST)
        mean = mean.reshape(b * o, self.count, c).astype(self.dtype)
        x = self.start[None].astype(self.dtype) + self.known_start(mean)
        place = self.place[None].astype(self.dtype) + self.known_place(mean)
        where = positions(h, w, c)[None].astype(self.dtype) + self.pixel_place(pixel)
        where, pixel = where.reshape(b * o, h * w, c), self.pixel_start(pixel)
        for i, block in enumerate(self.blocks):
            x, pixel = block(x, pixel, place, where, self._seen(pixel, i, active))
        return pixel.reshape(b, o, h, w, c)


class Summary(nn.Module):
    """What a frame adds to the object memory: masks [M, h, w] and values [M, h, w, D] -> Sums of
    [M, Q, C]; half of the queries sum over the object, half over the rest."""

    count: int
    width: int
    dtype: DType = jnp.float32

    def setup(self):
        dense = lambda width: nn.Dense(width, dtype=self.dtype)
        self.into = dense(self.width)
        self.feature1, self.feature2 = dense(self.width), dense(self.width)
        self.weight1, self.weight2 = dense(self.width), dense(self.count)

    def __call__(self, masks: Array, value: Array) -> Sums:
        m, h, w = masks.shape
        x = self.into(value)
        x = x + positions(h, w, self.width)[None].astype(x.dtype)
        feature = self.feature2(nn.relu(self.feature1(x))).astype(jnp.float32)
        weight = nn.sigmoid(self.weight2(nn.relu(self.weight1(x))).astype(jnp.float32))
        half = lambda a: jnp.repeat(a[..., None], self.count // 2, -1)
        weight = weight * jnp.concatenate([half(masks), half(1 - masks)], -1)
        return Sums(jnp.einsum("mhwq,mhwc->mqc", weight, feature), weight.sum((1, 2)))
