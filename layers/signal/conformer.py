"""Conformer blocks over chunks: a frame sees the end of its chunk, and whole chunks before it.

Source: Gulati et al., "Conformer" (arXiv 2005.08100); Noroozi et al., "Stateful Conformer with
Cache-based Inference for Streaming Automatic Speech Recognition" (arXiv 2312.17279), whose masks
these are.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ..gaps import zero_invalid
from ..kernels.attention import attention
from ..streaming import Array, Carry
from ..transformer.attention import FusedProjection
from ..transformer.config import BlockConfig
from ..transformer.mlp import Mlp
from ..transformer.norms import layer_norm
from .chunks import Chunks, remembered
from .conv import Conv


def distances(first: int, last: int, dim: int) -> np.ndarray:
    """Sines and cosines, in turns, of the distances first, first - 1, .., last: [N, dim]."""
    rates = 10_000.0 ** -(np.arange(0, dim, 2) / dim)
    angles = np.arange(first, last - 1, -1)[:, None] * rates
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(len(angles), dim)


def slanted(x: Array, keys: int) -> Array:
    """x [..., F, keys + F - 1] -> y [..., F, keys] with y[i, j] = x[i, j + F - 1 - i]."""
    *lead, frames, width = x.shape
    if frames == 1:
        return x
    flat = x.reshape(*lead, frames * width)[..., frames - 1 : -1]
    return flat.reshape(*lead, frames, width - 1)[..., :keys]


class RelativeAttention(nn.Module):
    """Attention whose logits have a term for the distance between query and key.

    Source: Dai et al., "Transformer-XL" (arXiv 1901.02860), with biases of every layer's own.
    Parameters: ``qkv``, ``out``, ``place`` [D, D], ``seen_bias`` and ``place_bias`` [H, Dh].

    ``chunk``: so many frames at most are seen of the future.
    """

    config: BlockConfig
    chunk: int

    def setup(self):
        c = self.config
        self.qkv = FusedProjection((c.dim,) * 3, (True,) * 3, c.dtype)
        self.out = nn.Dense(c.dim, dtype=c.dtype)
        self.place = self.param("place", nn.initializers.lecun_normal(), (c.dim, c.dim))
        zeros, shape = nn.initializers.zeros, (c.heads, c.head)
        self.seen_bias = self.param("seen_bias", zeros, shape)
        self.place_bias = self.param("place_bias", zeros, shape)

    def __call__(self, past: Array, x: Array, mask: Array) -> tuple[Array, Array]:
        """x [B, F, D] with F a multiple of the chunk, past [B, before, 2, H, Dh] the keys and
        values in front of them, mask [B, F, before + F] -> (their own, y [B, F, D])."""
        c, frames, before = self.config, x.shape[1], past.shape[1]
        q, k, v = (a.reshape(*x.shape[:2], c.heads, c.head) for a in self.qkv(x))
        new = jnp.stack([k, v], axis=2)
        both = jnp.concatenate([past, new], axis=1)
        own = lambda bias: bias.astype(c.dtype)[None, None]
        # the query is turned into the space of the table, not the table into the heads': a step of
        # few frames has fewer queries than there are distances
        kernel = self.place.astype(c.dtype).reshape(c.dim, c.heads, c.head)
        turned = jnp.einsum("bfhd,ehd->bhfe", q + own(self.place_bias), kernel)
        table = distances(before + self.chunk - 1, 1 - self.chunk, c.dim)
        logits = turned @ jnp.asarray(table.T, c.dtype)
        room = frames - self.chunk  # distances that no mask lets through
        logits = jnp.pad(logits, ((0, 0), (0, 0), (0, 0), (room, room)))
        bias = slanted(logits, before + frames) * c.head**-0.5
        q = q + own(self.seen_bias)
        y = attention(q, both[:, :, 0], both[:, :, 1], mask=mask[:, None], bias=bias)
        return new, self.out(y.reshape(x.shape))


class Conformer(nn.Module):
    """Half an MLP, attention, a convolution, half an MLP, and a norm. [B, F, D] -> [B, F, D].

    ``kernel`` and ``chunk``: taps of its convolution, frames of a chunk.
    """

    config: BlockConfig
    kernel: int
    chunk: int

    @nn.nowrap
    def convolution(self, **options: Any) -> Conv:
        dim, taps = self.config.dim, self.kernel
        return Conv(dim, dim, taps, padding=(taps - 1, 0), groups=dim, **options)

    def setup(self):
        c = self.config
        mlp = lambda: Mlp(c.dim, c.hidden, "silu", c.dtype)
        norm = lambda: layer_norm(c.eps, c.dtype)
        self.mlp1, self.mlp2 = mlp(), mlp()
        self.norm1, self.norm_attn, self.norm_conv, self.norm2 = norm(), norm(), norm(), norm()
        self.norm_out, self.norm_inner = norm(), norm()
        self.attn = RelativeAttention(c, self.chunk)
        self.widen, self.narrow = nn.Dense(2 * c.dim, dtype=c.dtype), nn.Dense(c.dim, dtype=c.dtype)
        self.conv = self.convolution(dtype=c.dtype)

    @nn.nowrap
    def init_carry(self, batch: int, before: int) -> dict[str, Carry]:
        c = self.config
        kept = jnp.zeros((batch, before, 2, c.heads, c.head), c.dtype)
        tail = self.convolution(dtype=c.dtype, parent=None).init_carry(batch)
        return {"past": kept, "conv": tail}

    def __call__(self, carry: dict[str, Carry], x: Array, valid: Array, mask: Array):
        """As :class:`Chunks` says."""
        x = x + 0.5 * self.mlp1(self.norm1(x))
        own, y = self.attn(carry["past"], self.norm_attn(x), mask)
        x = x + y
        h = nn.glu(self.widen(self.norm_conv(x)))
        tail, out = self.conv(carry["conv"], h, valid)
        x = x + self.narrow(nn.silu(self.norm_inner(out.x)))
        x = x + 0.5 * self.mlp2(self.norm2(x))
        past = remembered(carry["past"], own, valid)
        return {"past": past, "conv": tail}, zero_invalid(self.norm_out(x), valid)


class Conformers(Chunks):
    """A stack of conformer blocks as a stream, [B, T, D] -> [B, F, D].

    ``ahead`` changes no parameter. A stream that ends has a last chunk of fewer frames, as the
    clip has.

    Attributes:
      config: of every block; ``dim``, ``heads``, ``mlp_ratio``, ``eps`` and ``dtype`` count.
      kernel: taps of the causal depthwise convolution.
      before: frames of the past that are seen, rounded down to whole chunks.
      ahead: frames of the future that the first of a chunk sees.
    """

    kernel: int = 9
    before: int = 70
    ahead: int = 13

    @property
    def size(self) -> int:
        return self.ahead + 1

    @property
    def kept(self) -> int:
        return self.before // self.size * self.size

    def make(self, **options: Any) -> Conformer:
        return Conformer(self.config, self.kernel, self.size, **options)

    def sees(self, seen: Array, valid: Array) -> tuple[Array, Array]:
        frames, past = valid.shape[1], self.kept
        there = jnp.arange(past)[None] >= past - seen[:, None]
        number = np.arange(past + frames) // self.size
        apart = number[past:, None] - number[None]
        near = (apart >= 0) & (apart <= past // self.size)
        after = jnp.minimum(seen + valid.sum(axis=1, dtype=jnp.int32), past)
        return jnp.concatenate([there, valid], axis=1)[:, None] & near[None], after
