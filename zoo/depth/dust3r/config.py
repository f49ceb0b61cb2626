"""Shapes of DUSt3R and MASt3R."""

from __future__ import annotations

import dataclasses

from ....layers.streaming import DType
from ....layers.transformer import BlockConfig
from ...ranges import Checked, Count, Size, Weight, Whole

HEADS = ("dpt", "linear")


@dataclasses.dataclass(frozen=True)
class DUSt3RConfig(Checked):
    """Shapes of a DUSt3R; with descriptors, of a MASt3R.

    Attributes:
      image_size: (height, width) the model is meant for; any multiple of ``patch`` runs.
      patch: pixels of a patch's side.
      dim, depth, heads: of the encoder, which both views go through.
      decoder_dim, decoder_depth, decoder_heads: of each of the two decoders.
      head: what makes maps of tokens: ``dpt`` reads four layers, ``linear`` the last.
      widths, fused, hidden: of the ``dpt`` heads.
      descriptors: numbers of a pixel's descriptor; 0 for none (DUSt3R).
      floor: the least certainty of a descriptor.
      frames: of the clips that example inputs have.
    """

    image_size: Size = (384, 512)
    patch: Count = 16
    dim: Count = 1024
    depth: Count = 24
    heads: Count = 16
    decoder_dim: Count = 768
    decoder_depth: Count = 12
    decoder_heads: Count = 12
    head: str = "dpt"
    widths: tuple[Count, ...] = (96, 192, 384, 768)
    fused: Count = 256
    hidden: Count = 128
    descriptors: Whole = 0
    floor: Weight = 0.0
    frames: Count = 2
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        for dim, heads in ((self.dim, self.heads), (self.decoder_dim, self.decoder_heads)):
            if dim % heads or dim // heads % 4:
                raise ValueError(f"{heads} heads of {dim}: each needs a multiple of 4")
        if self.head not in HEADS:
            raise ValueError(f"head {self.head!r}: choose from {', '.join(HEADS)}")
        if len(self.widths) != 4:
            raise ValueError(f"widths {self.widths}: give four of them")
        if self.head == "dpt" and self.decoder_depth < 4:
            raise ValueError(f"decoder_depth {self.decoder_depth}: a dpt head reads 4 of them")

    @property
    def layers(self) -> tuple[int, int, int]:
        """The blocks of a decoder, from 0, that a head reads beside the encoder."""
        half, later = self.decoder_depth * 2 // 4, self.decoder_depth * 3 // 4
        return half - 1, later - 1, self.decoder_depth - 1

    def block(self) -> BlockConfig:
        """Of the encoder."""
        return BlockConfig(self.dim, self.heads, dtype=self.dtype)

    def decoder_block(self) -> BlockConfig:
        """Of a decoder."""
        width = self.decoder_dim
        return BlockConfig(width, self.decoder_heads, cross=width, dtype=self.dtype)
