"""What a Grounding DINO is."""

from __future__ import annotations

import dataclasses

from ....layers.streaming import DType
from ...ranges import Checked, Count, Positive, Share, Size, Whole
from ...text.sentence.model import SentenceConfig
from .swin import SwinConfig

BERT = SentenceConfig(dim=768, hidden=3072, depth=12, heads=12)


@dataclasses.dataclass(frozen=True)
class GroundingConfig(Checked):
    """Shapes of a Grounding DINO and its operating point; the defaults are the published tiny one.

    Attributes:
      trunk: of the pictures.
      text: of the prompts.
      image_size: (height, width) into which frames are scaled, their aspect ratio kept.
      dim: D, width of cells, tokens and queries behind the trunks.
      levels: L, maps of the pyramid: those of the trunk, then each half of the one before.
      encoder_depth, encoder_heads, encoder_hidden, encoder_points: blocks, heads, width of the
        MLPs, and points that a head reads of each map.
      decoder_depth, decoder_heads, decoder_hidden, decoder_points: as those of the encoder.
      activation: of the MLPs behind the trunks.
      queries: places that the decoder begins with, the best of the encoder's.
      prompt: tokens that a fresh carry asks for; () for none.
      length: N, room for the tokens of a prompt.
      slots: objects that a frame has at most.
      threshold: a detection's score, the best of all tokens, must be above it.
      temperature: of the positions of cells.
      eps: of the norms behind the trunks.
    """

    trunk: SwinConfig = SwinConfig()
    text: SentenceConfig = BERT
    image_size: Size = (800, 1333)
    dim: Count = 256
    levels: Count = 4
    encoder_depth: Count = 6
    encoder_heads: Count = 8
    encoder_hidden: Count = 2048
    encoder_points: Count = 4
    decoder_depth: Count = 6
    decoder_heads: Count = 8
    decoder_hidden: Count = 2048
    decoder_points: Count = 4
    activation: str = "relu"
    queries: Count = 900
    prompt: tuple[Whole, ...] = ()
    length: Count = 64
    slots: Count = 100
    threshold: Share = 0.25
    temperature: Positive = 20.0
    eps: Positive = 1e-5
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder_heads % 2 or self.dim % self.encoder_heads or self.dim % 32:
            raise ValueError(
                f"dim {self.dim} and encoder_heads {self.encoder_heads}: an even number of heads"
                " that divides a width, which is a multiple of 32"
            )
        if self.dim % self.decoder_heads or self.encoder_hidden % self.encoder_heads:
            raise ValueError(
                f"decoder_heads {self.decoder_heads} and encoder_heads {self.encoder_heads}: they"
                f" divide dim {self.dim} and encoder_hidden {self.encoder_hidden}"
            )
        if self.levels < len(self.trunk.read):
            raise ValueError(f"levels {self.levels}: the trunk alone gives {len(self.trunk.read)}")
        if len(self.prompt) > self.length or self.length > self.text.length:
            raise ValueError(
                f"length {self.length}: room for the prompt's {len(self.prompt)} tokens, and at"
                f" most the text encoder's {self.text.length}"
            )
