"""Memory of SAM 2: what a frame leaves behind, and how a later frame reads it.

A :class:`MemoryEncoder` turns a frame's features and an object's mask into a memory of narrow
tokens; :class:`MemoryAttention` lets the features of a new frame attend to such memories and to
object pointers. Slots that hold nothing are masked, so the shapes never depend on how much has been
remembered. SAM 2, SAM 2.1, EfficientTAM and EdgeTAM share this file; they differ in the shape of a
memory (h x w cells, or latents of which only some have a place) and in ``pool``.

Axis letters: M rows (streams x objects), S memories, L tokens of a memory, P pointer tokens, N
cells of the frame, D width, K width of a memory token.

Source: Ravi et al., "SAM 2" (arXiv 2408.00714), section 4 and appendix D; pooled keys: Xiong et
al., "Efficient Track Anything" (arXiv 2411.18933), section 3.3.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ...layers.conv2d import Depthwise
from ...layers.kernels.attention import attention
from ...layers.positions import grid_rope, rotate_halves
from ...layers.ranks import to_rank
from ...layers.streaming import DType, Fields
from ...layers.transformer import Mlp, gelu, layer_norm

Array = jax.Array
Rope = tuple[np.ndarray, np.ndarray]

_EPS = 1e-5
_LOGITS_AT_ONCE = 1 << 24  # of one attention; more are computed block by block of queries


# --- positions -------------------------------------------------------------------------------


def sine_offsets(offset: Array, dim: int) -> Array:
    """Sines, then cosines, of a number: [...] -> [..., dim]."""
    rate = 10_000 ** (2 * (np.arange(dim // 2) // 2) / (dim // 2))
    angle = offset[..., None]
    angle = angle / to_rank(jnp.asarray(rate, jnp.float32), angle)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def _turn(x: Array, rope: Rope) -> Array:
    """x [..., L, H, Dh], rope [L, Dh / 2]."""
    cos, sin = (jnp.asarray(table)[:, None] for table in rope)
    return rotate_halves(x, cos, sin).astype(x.dtype)


# --- reading ---------------------------------------------------------------------------------


def masked_attention(
    q: Array, k: Array, v: Array, valid: Array, bias: np.ndarray | None = None
) -> Array:
    """Softmax attention to the valid keys; zeros where none is valid.

    q [M, N, H, Dh], k and v [M, J, H, Dh], valid [M, J] bool, bias [J] (added to the logits) ->
    [M, N, H, Dh]. Logits are fp32.
    """

    def rows(q: Array) -> Array:
        return attention(q, k, v, mask=valid[:, None, None], bias=bias)

    m, n, heads, head = q.shape
    wanted = -(-m * heads * n * k.shape[1] // _LOGITS_AT_ONCE)
    blocks = next(b for b in range(min(n, wanted), n + 1) if n % b == 0)
    if blocks == 1:
        return rows(q)
    parts = jax.lax.map(rows, q.reshape(m, blocks, n // blocks, heads, head).swapaxes(0, 1))
    return parts.swapaxes(0, 1).reshape(m, n, heads, v.shape[-1])


def pooled_keys(k: Array, v: Array, valid: Array, grid: tuple[int, int]):
    """Every 2 x 2 cells of a memory as one key that counts four times.

    The sum over four equal keys is 4 exp(s) = exp(s + 2 log 2), so the result is exact where the
    four are equal. A single memory is read cell by cell, as the reference does.

    Args:
      k, v: [M, S, L, H, Dh], L = h * w cells, keys turned already.
      valid: [M, S].

    Returns:
      k, v [M, J, H, Dh], valid [M, J], bias [J], with J = S * L / 4 + L.
    """
    m, s, cells, heads, head = k.shape
    height, width = grid
    if height % 2 or width % 2 or height * width != cells:
        raise ValueError(f"{cells} tokens on a {height}x{width} grid cannot be pooled 2 x 2")

    def pool(x: Array) -> Array:
        x = x.reshape(m, s, height // 2, 2, width // 2, 2, heads, head)
        return x.mean(axis=(3, 5)).reshape(m, s * cells // 4, heads, head)

    single = valid.sum(axis=1, dtype=jnp.int32) == 1
    only = jnp.argmax(valid, axis=1).reshape(m, 1, 1, 1, 1)

    def join(x: Array) -> Array:
        return jnp.concatenate([pool(x), jnp.take_along_axis(x, only, axis=1)[:, 0]], axis=1)

    several = jnp.repeat(valid & ~single[:, None], cells // 4, axis=1)
    mask = jnp.concatenate([several, jnp.broadcast_to(single[:, None], (m, cells))], axis=1)
    bias = np.zeros(s * cells // 4 + cells, np.float32)
    bias[: s * cells // 4] = 2 * math.log(2)
    return join(k), join(v), mask, bias


class _Projections(nn.Module):
    """q, k, v and out of one attention; parameters [., inner] and [inner, D]."""

    dim: int
    heads: int
    inner: int
    dtype: DType

    def setup(self):
        self.q, self.k, self.v = (nn.Dense(self.inner, dtype=self.dtype) for _ in range(3))
        self.out = nn.Dense(self.dim, dtype=self.dtype)

    def split(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], self.heads, self.inner // self.heads)

    def join(self, y: Array) -> Array:
        return self.out(y.reshape(*y.shape[:-2], self.inner))


class MemoryLayer(nn.Module):
    """Attention within the frame, attention to the memories, MLP; pre-norm, all residual."""

    dim: int
    heads: int
    inner: int
    hidden: int
    grid: tuple[int, int]
    pool: bool = False
    dtype: DType = jnp.float32

    def setup(self):
        self.norm1, self.norm2, self.norm3 = (layer_norm(_EPS, self.dtype) for _ in range(3))
        self.frame = _Projections(self.dim, self.heads, self.inner, self.dtype)
        self.memory = _Projections(self.dim, self.heads, self.inner, self.dtype)
        self.mlp = Mlp(self.dim, self.hidden, "relu", self.dtype)

    def __call__(self, x: Array, read: Fields, rope: Rope, rope_k: Rope) -> Array:
        """x [M, N, D]; read: the inputs of :class:`MemoryAttention` by name."""
        x = x + self._within(self.norm1(x), rope)
        x = x + self._across(self.norm2(x), read, rope, rope_k)
        return x + self.mlp(self.norm3(x))

    def _within(self, x: Array, rope: Rope) -> Array:
        p = self.frame
        q, k, v = p.split(p.q(x)), p.split(p.k(x)), p.split(p.v(x))
        return p.join(attention(_turn(q, rope), _turn(k, rope), v))

    def _across(self, x: Array, read: Fields, rope: Rope, rope_k: Rope) -> Array:
        p = self.memory
        q = _turn(p.split(p.q(x)), rope)
        k = _turn(p.split(p.k(read["memories"] + read["memory_at"])), rope_k)
        v = p.split(p.v(read["memories"]))
        m, s, cells = k.shape[:3]
        if self.pool:
            k, v, valid, bias = pooled_keys(k, v, read["memory_valid"], self.grid)
        else:
            valid = jnp.repeat(read["memory_valid"], cells, axis=1)
            k, v = (a.reshape(m, s * cells, *a.shape[3:]) for a in (k, v))
            bias = None
        tokens = read["pointers"]
        k = jnp.concatenate([k, p.split(p.k(tokens + read["pointer_at"]))], axis=1)
        v = jnp.concatenate([v, p.split(p.v(tokens))], axis=1)
        valid = jnp.concatenate([valid, read["pointer_valid"]], axis=1)
        if bias is not None:
            bias = np.concatenate([bias, np.zeros(tokens.shape[1], np.float32)])
        return p.join(masked_attention(q, k, v, valid, bias))


class MemoryAttention(nn.Module):
    """Features of a frame, conditioned on what is remembered of an object.

    Layers are stacked on axis 0 of the parameters.

    Attributes:
      grid: (h, w) of the frame's features.
      memory_grid: (h, w) of the tokens of a memory that have a place; they come last.
      pool: read several memories through 2 x 2 pooled keys (EfficientTAM).
    """

    dim: int
    depth: int
    grid: tuple[int, int]
    memory_grid: tuple[int, int]
    heads: int = 1
    inner: int = 0  # 0: dim
    hidden: int = 2048
    rope_base: float = 1e4
    pool: bool = False
    dtype: DType = jnp.float32

    def setup(self):
        inner = self.inner or self.dim
        if inner % (4 * self.heads):
            raise ValueError(f"heads of {inner} / {self.heads} channels: not a multiple of 4")
        stack = nn.scan(
            _Step,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]
            length=self.depth,
        )
        self.layers = stack(
            MemoryLayer,
            (self.dim, self.heads, inner, self.hidden, self.memory_grid, self.pool, self.dtype),
        )
        self.norm = layer_norm(_EPS, self.dtype)

    def __call__(
        self,
        x: Array,
        at: Array,
        memories: Array,
        memory_at: Array,
        memory_valid: Array,
        pointers: Array,
        pointer_at: Array,
        pointer_valid: Array,
    ) -> Array:
        """Reads.

        Args:
          x, at: [M, N, D] features and [N, D] their positions.
          memories, memory_at: [M, S, L, K], the latter added to keys only.
          memory_valid: [M, S] bool.
          pointers, pointer_at: [M, P, K], not turned by the rotary embedding.
          pointer_valid: [M, P] bool.

        Returns:
          [M, N, D].
        """
        head = (self.inner or self.dim) // self.heads
        rope = grid_rope(*self.grid, head, base=self.rope_base)
        prefix = memories.shape[2] - self.memory_grid[0] * self.memory_grid[1]
        rope_k = grid_rope(*self.memory_grid, head, prefix=prefix, base=self.rope_base)
        read = {
            "memories": memories.astype(self.dtype),
            "memory_at": memory_at.astype(self.dtype),
            "memory_valid": memory_valid,
            "pointers": pointers.astype(self.dtype),
            "pointer_at": pointer_at.astype(self.dtype),
            "pointer_valid": pointer_valid,
        }
        x = x + 0.1 * to_rank(at.astype(x.dtype), x)
        x, _ = self.layers(x, read, rope, rope_k)
        return self.norm(x)


class _Step(nn.Module):
    """A layer in the form that nn.scan takes."""

    layer: Any
    fields: tuple

    def setup(self):
        self.inside = self.layer(*self.fields)
        nn.share_scope(self, self.inside)

    def __call__(self, x, read, rope, rope_k):
        return self.inside(x, read, rope, rope_k), None


# --- writing ---------------------------------------------------------------------------------


class FuserBlock(nn.Module):
    """ConvNeXt block: filter per channel, norm, MLP, gain. x [M, h, w, D] -> [M, h, w, D]."""

    dim: int
    hidden: int
    kernel: int = 7
    dtype: DType = jnp.float32

    def setup(self):
        self.spatial = Depthwise(self.dim, self.kernel, dtype=self.dtype)
        self.norm = layer_norm(1e-6, self.dtype)
        self.mlp = Mlp(self.dim, self.hidden, dtype=self.dtype)
        self.gain = self.param("gain", nn.initializers.constant(1e-6), (self.dim,))

    def __call__(self, x: Array) -> Array:
        return x + self.mlp(self.norm(self.spatial(x))) * to_rank(self.gain.astype(x.dtype), x)


class MemoryEncoder(nn.Module):
    """A frame's features and an object's mask -> its memory.

    Attributes:
      dim, out: widths of the features and of a memory token (K).
      halvings: strided convolutions between the mask's resolution and the features' (4: 16 x).
      depth, hidden, kernel: of the fusing blocks.
    """

    dim: int
    out: int = 64
    halvings: int = 4
    depth: int = 2
    hidden: int = 1024
    kernel: int = 7
    dtype: DType = jnp.float32

    def setup(self):
        for i in range(self.halvings):
            pad = ((1, 1), (1, 1))
            conv = nn.Conv(4 ** (i + 1), (3, 3), 2, padding=pad, dtype=self.dtype)
            setattr(self, f"down{i}", conv)
            setattr(self, f"down_norm{i}", layer_norm(1e-6, self.dtype))
        self.mask_out = nn.Dense(self.dim, dtype=self.dtype)
        self.features = nn.Dense(self.dim, dtype=self.dtype)
        for i in range(self.depth):
            setattr(self, f"block{i}", FuserBlock(self.dim, self.hidden, self.kernel, self.dtype))
        self.project = nn.Dense(self.out, dtype=self.dtype)

    def __call__(self, features: Array, masks: Array) -> Array:
        """features [M, h, w, D], masks [M, 16h, 16w] (scaled probabilities) -> [M, h, w, K]."""
        x = masks[..., None].astype(self.dtype)
        for i in range(self.halvings):
            x = gelu(getattr(self, f"down_norm{i}")(getattr(self, f"down{i}")(x)))
        x = self.features(features.astype(self.dtype)) + self.mask_out(x)
        for i in range(self.depth):
            x = getattr(self, f"block{i}")(x)
        return self.project(x)
