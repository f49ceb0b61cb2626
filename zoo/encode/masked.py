"""Masked pre-training of an image encoder (SAMI): visible tokens in, the hidden ones reconstructed.

Source: Xiong et al., "EfficientSAM" (arXiv 2312.00863), section 3.2, on the masked autoencoder of
He et al. (arXiv 2111.06377). The encoder never sees the masked patches; a decoder whose queries
are the masked tokens alone reads the encoded tokens and the masked ones.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from ...layers.kernels.attention import attention
from ...layers.positions import sincos_2d
from ...layers.streaming import DType
from ...layers.transformer import Mlp, layer_norm
from .vit import ImageViT

Array = jax.Array


def random_mask(key: Array, batch: int, tokens: int, share: float) -> tuple[Array, Array]:
    """(visible [B, V], masked [B, M]) patch numbers, each in rising order, drawn per frame;
    M = round(share * tokens), at least one on either side."""
    count = min(max(round(share * tokens), 1), tokens - 1)
    order = jnp.argsort(jax.random.uniform(key, (batch, tokens)), axis=1)
    return jnp.sort(order[:, count:], axis=1), jnp.sort(order[:, :count], axis=1)


def encode_visible(model: ImageViT, frames: Array, visible: Array) -> Array:
    """What an encoder makes of some patches: frames [B, H, W, 3], visible [B, V] patch numbers ->
    tokens [B, prefix + V, D] after its last norm. Every visible patch keeps its position.

    Call it with ``ImageViT.apply(..., method=encode_visible)``.
    """
    cfg = model.config
    rows, cols = (side // cfg.patch for side in frames.shape[1:3])
    x = model.embed(frames)
    first = jnp.broadcast_to(jnp.arange(cfg.prefix), (len(visible), cfg.prefix))
    at = jnp.concatenate([first, cfg.prefix + visible], axis=1)
    x = jnp.take_along_axis(x, at[..., None], axis=1)
    rope = model.angles(rows, cols)
    if rope is not None:
        rope = rope[0][at], rope[1][at]
    _, x, _ = model.blocks(model.blocks.init_carry(x.shape[0], 0), x[:, None], rope=rope)
    return model.norm(x[:, 0]) if cfg.final_norm == "tokens" else x[:, 0]


class CrossBlock(nn.Module):
    """Queries read a memory, then an MLP: x [B, M, D], memory [B, N, D] -> [B, M, D]."""

    dim: int
    heads: int
    dtype: DType = jnp.float32

    def setup(self):
        self.norm_x, self.norm_memory, self.norm_mlp = (
            layer_norm(1e-6, self.dtype) for _ in range(3)
        )
        self.query = nn.Dense(self.dim, dtype=self.dtype)
        self.key_value = nn.Dense(2 * self.dim, dtype=self.dtype)
        self.out = nn.Dense(self.dim, dtype=self.dtype)
        self.mlp = Mlp(self.dim, 4 * self.dim, dtype=self.dtype)

    def __call__(self, x: Array, memory: Array) -> Array:
        split = (self.heads, self.dim // self.heads)
        q = self.query(self.norm_x(x)).reshape(*x.shape[:2], *split)
        kv = self.key_value(self.norm_memory(memory))
        k, v = (a.reshape(*memory.shape[:2], *split) for a in jnp.split(kv, 2, axis=-1))
        y = attention(q, k, v)
        x = x + self.out(y.reshape(x.shape))
        return x + self.mlp(self.norm_mlp(x))


class MaskedDecoder(nn.Module):
    """The masked tokens from the encoded ones: ``depth`` cross-attention blocks, then one linear
    layer to the ``width`` channels of the teacher.

    Every block updates the masked tokens alone; keys and values are the encoder's output, which
    stays as it is, and the masked tokens as they stand.
    """

    dim: int
    width: int
    depth: int = 4
    heads: int = 4
    dtype: DType = jnp.float32

    def setup(self):
        self.mask_token = self.param("mask_token", nn.initializers.normal(0.02), (self.dim,))
        self.embed = nn.Dense(self.dim, dtype=self.dtype)
        self.layers = [CrossBlock(self.dim, self.heads, self.dtype) for _ in range(self.depth)]
        self.norm = layer_norm(1e-6, self.dtype)
        self.project = nn.Dense(self.width, dtype=self.dtype)

    def __call__(
        self, encoded: Array, visible: Array, masked: Array, grid: tuple[int, int]
    ) -> Array:
        """encoded [B, P + V, E] (P tokens of the encoder's prefix in front), visible [B, V] and
        masked [B, M] patch numbers of a grid (h, w) -> the teacher's features there [B, M, width].
        """
        table = jnp.asarray(sincos_2d(*grid, self.dim), self.dtype)
        memory = self.embed(encoded)
        prefix = encoded.shape[1] - visible.shape[1]
        memory = memory.at[:, prefix:].add(table[visible])
        x = self.mask_token.astype(memory.dtype) + table[masked]
        for layer in self.layers:
            x = layer(x, jnp.concatenate([memory, x], axis=1))
        return self.project(self.norm(x))
