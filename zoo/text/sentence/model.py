"""A text as one vector: texts that mean much the same are near each other.

Sources: Devlin et al., "BERT" (arXiv 1810.04805); Wang et al., "MiniLM" (arXiv 2002.10957); Reimers
and Gurevych, "Sentence-BERT" (arXiv 1908.10084). The numbers are those of transformers' BertModel,
and of sentence-transformers' mean over the tokens, at length 1.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from ....layers.streaming import Array, DType
from ....layers.transformer import Attention, BlockConfig, Mlp, layer_norm
from ...encode.outputs import EncoderOutput
from ...ranges import Checked, Count, Positive


@dataclasses.dataclass(frozen=True)
class SentenceConfig(Checked):
    """Shapes of an encoder of sentences.

    Attributes:
      vocabulary, length: token numbers, and positions there are.
      dim, hidden: width of a token, and of the MLPs.
      depth, heads: blocks, and heads of each.
      eps: of the norms.
      dtype: compute type.
    """

    vocabulary: Count = 30_522
    length: Count = 512
    dim: Count = 384
    hidden: Count = 1536
    depth: Count = 6
    heads: Count = 12
    eps: Positive = 1e-12
    dtype: DType = "float32"

    @property
    def block(self) -> BlockConfig:
        """Of every block; raises ValueError for heads that do not divide the width."""
        return BlockConfig(
            self.dim, self.heads, mlp_ratio=self.hidden / self.dim, eps=self.eps, dtype=self.dtype
        )


class NormedAfter(nn.Module):
    """A block of BERT, whose norms stand behind each sum: x = LN(x + f(x)). x [B, N, D]."""

    config: BlockConfig

    def setup(self):
        c = self.config
        self.attn = Attention(c)
        self.norm1 = layer_norm(c.eps, c.dtype)
        self.mlp = Mlp(c.dim, c.hidden, c.activation, c.dtype)
        self.norm2 = layer_norm(c.eps, c.dtype)

    def __call__(self, x: Array, mask: Array) -> Array:
        x = self.norm1(x + self.attn(x, mask=mask)[0])
        return self.norm2(x + self.mlp(x))


class SentenceEncoder(nn.Module):
    """tokens [B, N] -> one vector of length 1 for each text."""

    config: SentenceConfig
    task = "text"
    inputs = ("tokens",)

    def setup(self):
        c = self.config
        small = nn.initializers.normal(0.02)
        self.tokens = self.param("tokens", small, (c.vocabulary, c.dim))
        self.positions = self.param("positions", small, (c.length, c.dim))
        self.kind = self.param("kind", small, (c.dim,))  # of a first text; there is no second
        self.norm = layer_norm(c.eps, c.dtype)
        self.blocks = [NormedAfter(c.block) for _ in range(c.depth)]

    def __call__(self, tokens: Array, valid: Array | None = None) -> EncoderOutput:
        """Reads B texts.

        Args:
          tokens: [B, N] integers, with the marks of beginning and end.
          valid: [B, N] bool, which of them are there.

        Returns:
          features [B, N, D] and pooled [B, D], their mean at length 1, in fp32.

        Raises:
          ValueError: not integers [B, N], or more tokens than positions.
        """
        c = self.config
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(
                f"texts are token numbers [batch, length], got {tokens.dtype}{list(tokens.shape)}"
            )
        if tokens.shape[1] > c.length:
            raise ValueError(f"{tokens.shape[1]} tokens, there are positions for {c.length}")
        there = jnp.ones(tokens.shape, bool) if valid is None else valid
        x = self.encode(tokens, there[:, None], jnp.arange(tokens.shape[1])[None])
        weight = there[..., None].astype(jnp.float32)
        mean = (x.astype(jnp.float32) * weight).sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1)
        length = jnp.linalg.norm(mean, axis=-1, keepdims=True)
        return EncoderOutput(features=x, pooled=mean / jnp.maximum(length, 1e-9))

    def encode(self, tokens: Array, sees: Array, places: Array) -> Array:
        """Features [B, N, D] of tokens [B, N] that see what ``sees`` (bool, [B or 1, N or 1, N],
        query and key) says and stand at ``places`` [B or 1, N]."""
        x = self.tokens[tokens] + self.positions[places] + self.kind[None, None]
        x = self.norm(x.astype(self.config.dtype))
        for block in self.blocks:
            x = block(x, sees[:, None])
        return x
