"""A language model that sees, as a stream: words and pictures in any order, many at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp

from ...layers.gaps import zero_invalid
from ...layers.memory import Slots
from ...layers.streaming import Array
from ..encode.vit import ImageViT, ImageViTConfig
from ..ranges import Checked, Count
from ..text.decoder.model import Decoder, DecoderConfig
from .connect import PixelShuffle, VideoProjector
from .qwen_vision import Features, QwenVision, QwenVisionConfig

CONNECTORS = ("qwen", "onevision", "shuffle")


@dataclasses.dataclass(frozen=True)
class VideoLMConfig(Checked):
    """An encoder, how its features become tokens, and a decoder.

    Attributes:
      vision: the encoder.
      decoder: the language model, with the policy of its memory.
      connector: ``qwen`` (the encoder gives tokens), ``onevision`` or ``shuffle`` (SmolVLM).
      factor: of the shuffle.

    Raises:
      ValueError: another connector, or one that does not suit the encoder.
    """

    vision: QwenVisionConfig | ImageViTConfig
    decoder: DecoderConfig
    connector: str = "qwen"
    factor: Count = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.connector not in CONNECTORS:
            raise ValueError(f"connector {self.connector!r}: choose from {CONNECTORS}")
        if (self.connector == "qwen") != isinstance(self.vision, QwenVisionConfig):
            raise ValueError(f"connector {self.connector!r} and an encoder {type(self.vision)}")


class Seeing(nn.Module):
    """An encoder, its connector and a decoder: what models that read pictures share."""

    def _build(self, c: VideoLMConfig, decoder: DecoderConfig) -> None:
        dtype, vision = decoder.dtype, c.vision
        self.vision = (
            QwenVision(vision) if isinstance(vision, QwenVisionConfig) else ImageViT(vision)
        )
        if c.connector == "onevision":
            self.connector = VideoProjector(decoder.dim, dtype)
        elif c.connector == "shuffle":
            self.connector = PixelShuffle(decoder.dim, c.factor, dtype)
        self.decoder = Decoder(decoder)

    def see(self, frames: Array, grid: tuple[int, int, int] | None = None) -> Features:
        """Tokens of pictures.

        Args:
          frames: [F, H, W, 3], as the encoder takes them; for ``qwen`` the patches of
            ``qwen_vision.patches_of``, with their ``grid``.

        Returns:
          tokens [F, N, D] (``qwen``: [N, D]), and what goes to the first blocks.

        Raises:
          ValueError: patches without their grid.
        """
        vision = self.vision
        if isinstance(vision, QwenVision):
            if grid is None:
                raise ValueError("patches of a video need their grid (time steps, rows, columns)")
            return vision(frames, grid)
        features = vision(frames).features
        assert features is not None
        tokens = self.connector(features)
        return Features(tokens, jnp.zeros((0, *tokens.shape), tokens.dtype), features)

    def mark(self) -> Array:
        """LLaVA-OneVision's mark behind a video [D]."""
        return self.connector.newline


class VideoLM(Seeing):
    """(carry, tokens [B, T], features [B, T, D] where they are pictures) -> (carry, logits).

    ``see`` makes the features, which may be of any number of frames; the call reads words and
    features, T at a time, with the memory as its carry.
    """

    config: VideoLMConfig
    inputs = ("tokens",)
    latency = 0

    def setup(self):
        self._build(self.config, self.config.decoder)

    @nn.nowrap
    def init_carry(self, batch: int) -> Slots:
        """The memory of streams that heard and saw nothing."""
        return Decoder(self.config.decoder, parent=None).init_carry(batch)

    def __call__(
        self,
        carry: Slots,
        tokens: Array,
        features: Array | None = None,
        seen: Array | None = None,
        valid: Array | None = None,
        *,
        deep: Array | None = None,
        told: Mapping[str, Array] | None = None,
    ) -> tuple[Slots, Array]:
        """Reads T tokens.

        Args:
          carry: of :meth:`init_carry`.
          tokens: [B, T] int32; of pictures any.
          features: [B, T, D] of pictures; of words any.
          seen: [B, T] bool, which are pictures.
          valid: [B, T] bool, tokens that are there.
          deep: [S, B, T, D] of :class:`Features`, for the first S blocks.
          told: notes for the policy; ``place`` [B, T, 3] are positions.

        Returns:
          (carry, logits [B, T, V] in fp32).
        """
        x = self.decoder.embed(zero_invalid(tokens, valid))
        if features is not None and seen is not None:
            x = jnp.where(seen[..., None], features.astype(x.dtype), x)
            deep = None if deep is None else jnp.where(seen[None, ..., None], deep, 0)
        carry, x = self.decoder.read(carry, None, valid, features=x, told=told, added=deep)
        return carry, zero_invalid(self.decoder.say(x), valid)
