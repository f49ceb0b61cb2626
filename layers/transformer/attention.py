"""Multi-head attention among the tokens of a frame, and from them to a context."""

from __future__ import annotations

from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ..kernels.attention import attention, attention_with_rows
from ..positions import rotate_halves
from ..ranks import to_rank
from ..streaming import DType
from .approximate import ApproximateAttention
from .config import BlockConfig
from .norms import layer_norm, rms_norm

Array = jax.Array
Rope = tuple[Array, Array]


class Memory(Protocol):
    """What was said before, as one layer has it (``layers.memory.Reader``)."""

    def __call__(
        self, q: Array, k: Array, v: Array, softcap: float | None = None
    ) -> tuple[Array, Array, Array]:
        """q [B, T, H, Dh], k and v [B, T, G, Dh] of the new tokens, un-rotated -> (y [B, T, H, Dh],
        keys and values [B, R, G, Dh] to keep)."""
        ...


class Memories(Protocol):
    """The memory of every layer."""

    def layer(self, index: Array) -> Memory:
        """That of one layer."""
        ...


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotary embedding, halves convention: x [..., N, H, Dh]; cos, sin [..., N, Dh / 2], or
    [..., N, Dh]."""
    return rotate_halves(x, cos[..., None, :], sin[..., None, :]).astype(x.dtype)


class FusedProjection(nn.Module):
    """Several projections of one input in one product, with biases for some of them.

    x [..., D] -> one [..., width] for each of ``widths``. ``kernel`` [D, sum of widths], ``bias``
    [sum of the widths that have one]; ``biased`` tells which (DINOv3 and EUPE have none for the
    keys).
    """

    widths: tuple[int, ...]
    biased: tuple[bool, ...]
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> list[Array]:
        shape = (x.shape[-1], sum(self.widths))
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        own = sum(width for width, has in zip(self.widths, self.biased, strict=True) if has)
        bias = self.param("bias", nn.initializers.zeros, (own,)) if own else None
        return self.split(y, bias)

    @nn.nowrap
    def split(self, y: Array, bias: Array | None) -> list[Array]:
        """The projections of their product y [..., sum of widths], with the biases of some."""
        if bias is not None:
            own = [width for width, has in zip(self.widths, self.biased, strict=True) if has]
            parts = iter(jnp.split(bias, np.cumsum(own)[:-1]))
            bias = jnp.concatenate(
                [
                    next(parts) if has else jnp.zeros(width, bias.dtype)
                    for width, has in zip(self.widths, self.biased, strict=True)
                ]
            )
            y = y + to_rank(bias.astype(self.dtype), y)
        return jnp.split(y, np.cumsum(self.widths)[:-1], axis=-1)


QKNorm = nn.RMSNorm | nn.LayerNorm


def _norm(config: BlockConfig) -> QKNorm:
    make = layer_norm if config.qk_norm == "layer" else rms_norm
    return make(config.eps if config.qk_eps is None else config.qk_eps, config.dtype)


def _heads(x: Array, config: BlockConfig, norm: QKNorm | None) -> Array:
    """x [M, N, H * Dh] -> [M, N, H, Dh], normed per head or over all heads."""
    if norm is not None and config.qk_norm == "all":
        x = norm(x)
    x = x.reshape(*x.shape[:-1], -1, config.head)
    return norm(x) if norm is not None and config.qk_norm in ("head", "layer") else x


class Attention(nn.Module):
    """Multi-head self-attention over the tokens of one frame.

    Parameters: one fused ``qkv`` [D, (H + 2 G) Dh] (H query heads, G key heads), ``out``
    [H Dh, D], with ``config.qk_norm`` the scales of ``query_norm`` and ``key_norm``, and with
    ``config.approximate`` those of :class:`ApproximateAttention` as ``approximate``. ``rope``
    is (cos, sin), each [N, Dh / 2] or [N, Dh] (see ``positions.rotate_halves``), applied to queries
    and keys.
    """

    config: BlockConfig

    def setup(self):
        c = self.config
        widths = (c.heads * c.head, c.groups * c.head, c.groups * c.head)
        self.qkv = FusedProjection(widths, tuple(n in c.biased for n in "qkv"), c.dtype)
        self.out = nn.Dense(c.dim, use_bias=c.out_bias, dtype=c.dtype)
        self.query_norm, self.key_norm = (_norm(c), _norm(c)) if c.qk_norm else (None, None)
        if c.approximate is not None:
            self.approximate = ApproximateAttention(c.approximate, c.heads)

    def project(self, x: Array, rope: Rope | None = None) -> tuple[Array, Array, Array]:
        """x [M, N, D] -> queries [M, N, H, Dh], keys and values [M, N, G, Dh], turned by
        ``rope``."""
        c = self.config
        q, k, v = (a.reshape(*x.shape[:-1], -1) for a in self.qkv(x.reshape(-1, c.dim)))
        q, k = _heads(q, c, self.query_norm), _heads(k, c, self.key_norm)
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        return q, k, _heads(v, c, None)

    def attend(
        self, q: Array, k: Array, v: Array, weights: bool = False, mask: Array | None = None
    ) -> tuple[Array, Array | None]:
        """Attention and the output projection.

        Args:
          q: [M, N, H, Dh].
          k, v: [M, K, G, Dh].
          weights: return the attention rows, too.
          mask: bool, broadcastable to [M, H, N, K].

        Returns:
          (y [M, N, D], rows [M, H, N, K] or None).

        Raises:
          ValueError: a mask or rows of an attention that is approximate.
        """
        c = self.config
        options: Any = dict(causal=c.causal, window=c.window, softcap=c.softcap)
        rows = None
        if c.approximate is not None:
            if weights or mask is not None:
                raise ValueError(
                    f"{c.approximate.kind} attention makes no attention rows and takes no mask: "
                    'use attention="full", or leave the tap "attention" out'
                )
            y = self.approximate(q, k, v)
        elif weights:
            y, rows = attention_with_rows(q, k, v, mask, **options)
        else:
            y = attention(q, k, v, mask=mask, **options)
        y = self.out(y.reshape(-1, c.heads * c.head)).reshape(*q.shape[:2], c.dim)
        return y, rows

    def __call__(
        self,
        x: Array,
        rope: Rope | None = None,
        weights: bool = False,
        mask: Array | None = None,
    ) -> tuple[Array, Array | None]:
        """x [M, N, D] -> (y [M, N, D], attention rows [M, H, N, N] if ``weights`` else None)."""
        return self.attend(*self.project(x, rope), weights, mask)

    def recall(self, x: Array, memory: Memory) -> tuple[Array, Array, Array]:
        """Attention to a memory that has the tokens before these.

        Args:
          x: [B, T, D], the new tokens of B streams.
          memory: what turns, masks and reads.

        Returns:
          (y [B, T, D], the keys and values [B, R, G, Dh] to keep, un-rotated).
        """
        c = self.config
        q, k, v = self.project(x)
        y, k, v = memory(q, k, v, c.softcap)
        y = self.out(y.reshape(-1, c.heads * c.head))
        return y.reshape(*x.shape[:2], c.dim), k, v


class CrossAttention(nn.Module):
    """The tokens of a frame read a context: x [M, N, D], context [M, K, C] -> [M, N, D].

    Parameters: ``query``, ``key``, ``value``, ``out``, and the scales of ``query_norm`` and
    ``key_norm`` as in :class:`Attention`. ``mask`` [M, K] bool: which of the context is there.
    ``rope`` and ``context_rope`` turn the queries and the keys.
    """

    config: BlockConfig

    def setup(self):
        c = self.config

        def dense(heads: int, name: str) -> nn.Dense:
            return nn.Dense(heads * c.head, use_bias=name in c.biased, dtype=c.dtype)

        self.query, self.key, self.value = (
            dense(c.heads, "q"),
            dense(c.groups, "k"),
            dense(c.groups, "v"),
        )
        self.out = nn.Dense(c.dim, use_bias=c.out_bias, dtype=c.dtype)
        self.query_norm, self.key_norm = (_norm(c), _norm(c)) if c.qk_norm else (None, None)

    def __call__(
        self,
        x: Array,
        context: Array,
        mask: Array | None = None,
        rope: Rope | None = None,
        context_rope: Rope | None = None,
    ) -> Array:
        c = self.config
        q = _heads(self.query(x), c, self.query_norm)
        k = _heads(self.key(context), c, self.key_norm)
        q = q if rope is None else rotate(q, *rope)
        k = k if context_rope is None else rotate(k, *context_rope)
        v = _heads(self.value(context), c, None)
        seen = None if mask is None else mask[:, None, None]
        y = attention(q, k, v, mask=seen, softcap=c.softcap)
        return self.out(y.reshape(*x.shape[:-1], c.heads * c.head))
