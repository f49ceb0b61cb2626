"""Images and texts in one space: CLIP and SigLIP with both towers.

Sources: Radford et al., CLIP (arXiv 2103.00020); Zhai et al., SigLIP (arXiv 2303.15343). Texts come
as token numbers; tokenizers are not part of this library.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.streaming import DType
from ....layers.transformer import BlockConfig, BlockStack, Taps, layer_norm
from ...checks import check_taps
from ...ranges import Checked, Count, Positive, Range
from ..outputs import EncoderOutput, through
from ..vit import TAPS, ImageViT, ImageViTConfig

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class TextTowerConfig(Checked):
    """Shapes of a text tower.

    Attributes:
      vocabulary, length: token numbers, and positions there are.
      causal: tokens see those before (CLIP), or all (SigLIP).
      end_token: the text's vector is read at its first token of this number; -1: at its highest
        (CLIP's end token is the last of its vocabulary); None: at the last place (SigLIP, whose
        texts are padded to full length).
      projection: width of that vector; ``projection_bias``: the map to it has a bias.
    """

    vocabulary: Count = 49408
    length: Count = 77
    dim: Count = 512
    depth: Count = 12
    heads: Count = 8
    mlp_ratio: Positive = 4.0
    activation: str = "quick_gelu"
    eps: Positive = 1e-5
    causal: bool = True
    end_token: Annotated[int, Range(-1)] | None = -1
    projection: Count = 512
    projection_bias: bool = False
    dtype: DType = "float32"
    unroll: Count = 1

    def __post_init__(self):
        super().__post_init__()
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not divisible by heads {self.heads}")


class TextTower(nn.Module):
    """One vector per text."""

    config: TextTowerConfig

    def setup(self):
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)
        small = nn.initializers.normal(0.02)
        self.tokens = self.param("tokens", small, (cfg.vocabulary, cfg.dim))
        self.positions = self.param("positions", small, (cfg.length, cfg.dim))
        block = BlockConfig(
            dim=cfg.dim,
            heads=cfg.heads,
            mlp_ratio=cfg.mlp_ratio,
            activation=cfg.activation,
            eps=cfg.eps,
            causal=cfg.causal,
            dtype=cfg.dtype,
        )
        self.blocks = BlockStack(block, cfg.depth, unroll=cfg.unroll)
        self.norm = layer_norm(cfg.eps, dtype)
        self.projection = nn.Dense(cfg.projection, use_bias=cfg.projection_bias, dtype=dtype)

    def __call__(self, tokens: Array, taps: Taps = ()) -> EncoderOutput:
        """tokens [B, N] integers -> features [B, N, D], pooled [B, projection].

        taps: as of :class:`~streamzoo.zoo.encode.vit.ImageViT`.

        Raises:
          ValueError: not integers [B, N], more tokens than positions, unknown taps.
        """
        cfg = self.config
        x, found = self.encode(tokens, taps)
        if cfg.end_token is None:
            vector = x[:, -1]
        else:
            ends = tokens if cfg.end_token < 0 else tokens == cfg.end_token
            vector = x[jnp.arange(tokens.shape[0]), jnp.argmax(ends, axis=1)]
        return EncoderOutput(features=x, pooled=self.projection(vector), taps=found or None)

    def encode(self, tokens: Array, taps: Taps = ()) -> tuple[Array, dict[str, Array]]:
        """The features [B, N, D] alone, without the vector of the text, and the taps."""
        cfg = self.config
        check_taps(taps, TAPS)
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(
                f"texts are token numbers [batch, length], got {tokens.dtype}{list(tokens.shape)}"
            )
        if tokens.shape[1] > cfg.length:
            raise ValueError(f"{tokens.shape[1]} tokens, there are positions for {cfg.length}")
        x = self.tokens[tokens] + self.positions[None, : tokens.shape[1]]
        x, found = through(self.blocks, x.astype(cfg.dtype), taps)
        return self.norm(x), found


@dataclasses.dataclass(frozen=True)
class DualEncoderConfig:
    """Two towers; ``bias``: the similarity has an offset (SigLIP)."""

    image: ImageViTConfig = ImageViTConfig()
    text: TextTowerConfig = TextTowerConfig()
    bias: bool = False

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the frames the image tower is meant for."""
        return self.image.image_size


class DualEncoder(nn.Module):
    """How well frames and texts belong together."""

    config: DualEncoderConfig
    task = "encode"

    def setup(self):
        self.image = ImageViT(self.config.image)
        self.text = TextTower(self.config.text)
        self.scale = self.param("scale", nn.initializers.constant(2.6592), ())
        if self.config.bias:
            self.bias = self.param("bias", nn.initializers.constant(-10.0), ())

    def __call__(self, frames: Array, tokens: Array) -> Array:
        """frames [B, H, W, 3], normalised; tokens [C, N] integers -> logits [B, C]: exp(scale)
        times the cosine of the two vectors, plus the bias. CLIP takes the softmax over the texts,
        SigLIP the sigmoid of each."""
        a, b = self.encode_image(frames), self.encode_text(tokens)
        logits = jnp.exp(self.scale) * (a @ b.T)
        return logits + self.bias if self.config.bias else logits

    def encode_image(self, frames: Array) -> Array:
        """frames [B, H, W, 3] -> vectors of length 1, [B, D]."""
        return _unit(self.image(frames).pooled)

    def encode_text(self, tokens: Array) -> Array:
        """tokens [C, N] -> vectors of length 1, [C, D]."""
        return _unit(self.text(tokens).pooled)


def _unit(x: Array | None) -> Array:
    if x is None:
        raise ValueError("this image tower answers no vector: its pool is 'none'")
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def softmax_pair_loss(logits: Array) -> Array:
    """CLIP's loss of B matching pairs, logits [B, B] -> scalar."""
    rows, cols = jax.nn.log_softmax(logits, axis=1), jax.nn.log_softmax(logits, axis=0)
    return -(jnp.diagonal(rows).mean() + jnp.diagonal(cols).mean()) / 2


def sigmoid_pair_loss(logits: Array) -> Array:
    """SigLIP's loss of B matching pairs, logits [B, B] -> scalar."""
    sign = 2 * jnp.eye(len(logits)) - 1
    return -jax.nn.log_sigmoid(sign * logits).sum() / len(logits)
