"""RADIO's heads: what the encoder's teachers would have answered, from its own features.

Source: Ranzinger et al., AM-RADIO (arXiv 2312.06709), section 3; the two-layer heads ("v2") of the
published checkpoints.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.streaming import DType
from ....layers.transformer import gelu, layer_norm
from ..outputs import EncoderOutput
from ..vit import ImageViT, ImageViTConfig

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class TeacherHeadConfig:
    """The two heads of one teacher.

    Attributes:
      name: of the teacher.
      token: the class token that the summary head reads.
      summary, spatial: (hidden width, residual blocks, width of the answer) of the two heads.
      upsample: cells of the teacher's map per patch, along each side; ``spatial`` has all of a
        patch's side by side.
    """

    name: str = "teacher"
    token: int = 0
    summary: tuple[int, int, int] = (1280, 0, 1280)
    spatial: tuple[int, int, int] = (1280, 0, 1280)
    upsample: int = 1

    def __post_init__(self):
        if self.spatial[2] % self.upsample**2:
            raise ValueError(
                f"head {self.name}: {self.spatial[2]} channels are not {self.upsample}^2 cells"
            )


@dataclasses.dataclass(frozen=True)
class AdaptedConfig:
    """An encoder and its heads.

    Raises:
      ValueError: two heads of one name, or a token the encoder does not have.
    """

    image: ImageViTConfig = ImageViTConfig()
    heads: tuple[TeacherHeadConfig, ...] = (TeacherHeadConfig(),)

    def __post_init__(self):
        names = [head.name for head in self.heads]
        if len({*names, "backbone"}) <= len(names):
            raise ValueError(f"heads {names}: each its own name, and none of them 'backbone'")
        for head in self.heads:
            if not 0 <= head.token < self.image.class_tokens:
                raise ValueError(
                    f"head {head.name}: class token {head.token} of {self.image.class_tokens}"
                )

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the frames the encoder is meant for."""
        return self.image.image_size


class HeadMlp(nn.Module):
    """x [..., D] -> [..., width]: dense, residual blocks, norm, GELU, dense."""

    hidden: int
    blocks: int
    width: int
    dtype: DType = jnp.float32

    def setup(self):
        norm, dense = (lambda: layer_norm(1e-5, self.dtype)), nn.Dense
        self.up = dense(self.hidden, dtype=self.dtype)
        self.norms = [norm() for _ in range(self.blocks)]
        self.inner = [dense(self.hidden, dtype=self.dtype) for _ in range(self.blocks)]
        self.norm = norm()
        self.out = dense(self.width, dtype=self.dtype)

    def __call__(self, x: Array) -> Array:
        x = self.up(x)
        for norm, inner in zip(self.norms, self.inner, strict=False):
            x = x + inner(gelu(norm(x)))
        return self.out(gelu(self.norm(x)))


class TeacherHead(nn.Module):
    """class tokens [B, C, D], features [B, h, w, D] -> EncoderOutput: pooled [B, W], features
    [B, h * upsample, w * upsample, V]."""

    config: TeacherHeadConfig
    dtype: DType = jnp.float32

    def setup(self):
        self.summary = HeadMlp(*self.config.summary, dtype=self.dtype)
        self.spatial = HeadMlp(*self.config.spatial, dtype=self.dtype)

    def __call__(self, tokens: Array, features: Array) -> EncoderOutput:
        batch, rows, cols, _ = features.shape
        n = self.config.upsample
        x = self.spatial(features).reshape(batch, rows, cols, n, n, -1)
        x = x.swapaxes(2, 3).reshape(batch, rows * n, cols * n, -1)
        return EncoderOutput(features=x, pooled=self.summary(tokens[:, self.config.token]))


class AdaptedEncoder(nn.Module):
    """An image encoder with heads to its teachers."""

    config: AdaptedConfig
    task = "encode"

    def setup(self):
        cfg = self.config
        self.image = ImageViT(cfg.image)
        dtype = jnp.dtype(cfg.image.dtype)
        self.heads = [TeacherHead(head, dtype) for head in cfg.heads]

    def __call__(self, frames: Array) -> dict[str, EncoderOutput]:
        """frames [B, H, W, 3], normalised -> teacher's name -> what it would have answered, and
        ``backbone`` -> the encoder's own answer.

        Raises:
          ValueError: frames of the wrong shape or type.
        """
        own = self.image(frames)
        assert own.prefix is not None and own.features is not None
        found = {"backbone": own}
        for config, head in zip(self.config.heads, self.heads, strict=False):
            found[config.name] = head(own.prefix, own.features)
        return found
