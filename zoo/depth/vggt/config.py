"""Shapes of VGGT."""

from __future__ import annotations

import dataclasses

from ....layers.streaming import DType
from ....layers.transformer import BlockConfig
from ...encode.vit import ImageViTConfig
from ...ranges import Checked, Count, Size, Whole

LARGE = ImageViTConfig(
    (518, 518), 14, 1024, 24, 16, layer_scale=1.0, registers=4, table_grid=(37, 37),
    resize="bicubic-aa", pool="none",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class VGGTConfig(Checked):
    """Shapes of a VGGT.

    Attributes:
      image_size: (height, width) the model is meant for; any multiple of ``patch`` runs.
      conv_stem: patches are embedded by one convolution, not by the ``encoder``.
      dim, depth, heads: of the alternating blocks; ``depth`` counts pairs.
      registers: tokens of a frame beside its camera's.
      layers: four pairs, from 0, that the decoders read.
      camera_depth, camera_heads: blocks of the camera head.
      rounds: of refinement of the cameras.
      widths, fused, hidden: of the decoders.
      window: past frames that a stream attends to, beside the first one.
      frames: of the clips that example inputs have.
    """

    image_size: Size = (518, 518)
    patch: Count = 14
    conv_stem: bool = False
    encoder: ImageViTConfig = LARGE
    dim: Count = 1024
    depth: Count = 24
    heads: Count = 16
    registers: Count = 4
    layers: tuple[Whole, ...] = (4, 11, 17, 23)
    camera_depth: Count = 4
    camera_heads: Count = 16
    rounds: Count = 4
    widths: tuple[Count, ...] = (256, 512, 1024, 1024)
    fused: Count = 256
    hidden: Count = 32
    window: Count = 8
    frames: Count = 2
    dtype: DType = "float32"

    def __post_init__(self):
        super().__post_init__()
        if len(self.layers) != 4 or not all(0 <= k < self.depth for k in self.layers):
            raise ValueError(f"layers {self.layers}: four of the {self.depth} pairs")
        if self.dim % self.heads or self.dim // self.heads % 4:
            raise ValueError(f"dim {self.dim}: each of {self.heads} heads needs a multiple of 4")
        if not self.conv_stem and (self.encoder.dim, self.encoder.patch) != (self.dim, self.patch):
            raise ValueError(
                f"the encoder is {self.encoder.dim} wide with patches of {self.encoder.patch}, the"
                f" blocks {self.dim} with {self.patch}"
            )

    @property
    def special(self) -> int:
        """Tokens in front of a frame's patches: its camera and its registers."""
        return 1 + self.registers

    def block(self) -> BlockConfig:
        """Of the alternating blocks."""
        return BlockConfig(
            self.dim, self.heads, qk_norm="layer", eps=1e-5, layer_scale=0.01, dtype=self.dtype
        )

    def camera_block(self) -> BlockConfig:
        """Of the camera head."""
        return BlockConfig(
            2 * self.dim, self.camera_heads, eps=1e-5, layer_scale=0.01, dtype=self.dtype
        )
