"""What a SAM 3 is."""

from __future__ import annotations

import dataclasses

from ....layers.streaming import DType
from ...encode.dual.model import TextTowerConfig
from ...ranges import Checked, Count, Share, Whole
from ..window_vit import WindowVitConfig

TRUNK = WindowVitConfig(
    dim=1024,
    depth=32,
    heads=16,
    mlp_ratio=4.625,
    patch=14,
    image_size=(1008, 1008),
    window=24,
    global_blocks=(7, 15, 23, 31),
    relative=False,
    position_grid=(24, 24),
    rope_base=1e4,
    tiled=True,
    pre_norm=True,
    patch_bias=False,
)
TEXT = TextTowerConfig(
    length=32, dim=1024, depth=24, heads=16, activation="gelu", end_token=49_407, projection=512
)


@dataclasses.dataclass(frozen=True)
class Sam3Config(Checked):
    """Shapes of a SAM 3 and its operating point; the defaults are the published ones.

    Attributes:
      trunk: of the pictures; its ``image_size`` is the model's.
      text: of the concepts; what makes one vector of a text is not used.
      dim: D, width behind the trunks.
      heads, hidden: heads, and width of the MLPs, of all blocks behind the trunks.
      activation: of those MLPs.
      exemplar_depth, encoder_depth, decoder_depth: blocks that read exemplars, that bring the
        prompt to the cells, and of the queries.
      roi: cells per side of what is pooled of an exemplar.
      queries: instances of a concept that a frame has at most.
      concepts: P, room for concepts that are looked for at once; each costs an encoder and decoder.
      prompt: tokens of each concept that a fresh carry asks for; () for none.
      length: N, room for the tokens of a concept.
      exemplars: K, room for boxes that show what a concept is.
      slots: objects that are answered of a frame at most, the surest of all concepts.
      threshold: an object's score must be above it.
    """

    trunk: WindowVitConfig = TRUNK
    text: TextTowerConfig = TEXT
    dim: Count = 256
    heads: Count = 8
    hidden: Count = 2048
    activation: str = "relu"
    exemplar_depth: Count = 3
    encoder_depth: Count = 6
    decoder_depth: Count = 6
    roi: Count = 7
    queries: Count = 200
    concepts: Count = 1
    prompt: tuple[tuple[Whole, ...], ...] = ()
    length: Count = 32
    exemplars: Count = 4
    slots: Count = 50
    threshold: Share = 0.3
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.heads or self.dim % 8 or self.trunk.dim % 4:
            raise ValueError(
                f"dim {self.dim}, heads {self.heads} and a trunk of width {self.trunk.dim}: heads"
                " that divide dim, a multiple of 8, and a trunk's of 4"
            )
        if len(self.prompt) > self.concepts:
            raise ValueError(f"a prompt of {len(self.prompt)} concepts, room for {self.concepts}")
        longest = max(map(len, self.prompt), default=0)
        if longest > self.length or self.length > self.text.length:
            raise ValueError(
                f"length {self.length}: room for the prompt's {longest} tokens, and at most the"
                f" text encoder's {self.text.length}"
            )

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) into which frames are scaled."""
        return self.trunk.image_size

    @property
    def prompt_length(self) -> int:
        """L, tokens of a concept, of its exemplars, and one that stands for them all."""
        return self.length + self.exemplars + 1
