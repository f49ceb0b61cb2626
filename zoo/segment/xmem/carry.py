"""Sizes and state of the mask trackers with three memories.

Axis letters: B streams, O objects, H x W pixels, h x w cells of 16 x 16 pixels, L = h * w, S, C and
D widths of the sensory memory, of keys and of values.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
from flax import struct

from ....layers.exportable import exportable
from ....layers.feature_bank import Sums
from ....layers.streaming import DType
from ....layers.three_store import Stores, StoreSizes
from ...ranges import Checked, Count, Size, Whole

Array = jax.Array
CELL = 16  # pixels of a cell's side


@dataclasses.dataclass(frozen=True)
class MemoryConfig(Checked):
    """What all have: sizes of frames and memories.

    Attributes:
      image_size: (height, width) of the frames, multiples of 16.
      objects: that are tracked at a time; points: of a prompt at most.
      every: frames from one that is remembered to the next.
      frames: of the working memory; kept: those that stay when the others become prototypes.
      prototypes: cells that stand for the others, each time.
      long: entries of the long-term memory; 0: the oldest frame gives way instead.
      nearest: entries that a cell reads.
      width: of the trunks' first stage.
      key, value, sensory: widths of the memories.
      memory_dtype: of values in the carry.
      dtype: compute type; parameters are fp32.
    """

    image_size: Size = (480, 864)
    objects: Count = 2
    points: Count = 4
    every: Count = 5
    frames: Count = 10
    kept: Count = 5
    prototypes: Count = 128
    long: Whole = 10000
    nearest: Count = 30
    width: Count = 64
    key: Count = 64
    value: Count = 512
    sensory: Count = 64
    memory_dtype: str = "bfloat16"
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(side % CELL for side in self.image_size):
            raise ValueError(f"image_size {self.image_size}: not multiples of {CELL}")
        _ = self.stores  # raises where they do not fit
        if self.long and self.prototypes > (self.frames - self.kept) * self.grid[0] * self.grid[1]:
            raise ValueError(
                f"{self.prototypes} prototypes of {self.frames - self.kept} frames of"
                f" {self.grid[0]} x {self.grid[1]} cells: fewer prototypes, or larger frames"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) in cells."""
        return self.image_size[0] // CELL, self.image_size[1] // CELL

    @property
    def stores(self) -> StoreSizes:
        """Sizes of working and long-term memory."""
        return StoreSizes(self.frames, self.kept, self.prototypes, self.long, nearest=self.nearest)


@exportable
@struct.dataclass
class MemoryCarry:
    """State of every stream; its size depends on the config alone.

    frame:   [B] int32, number of the next frame
    written: [B] int32, number of the last frame that was remembered
    active:  [B, O] bool: the slot tracks an object
    sensory: [B, O, h, w, S] fp32
    stores:  working and long-term memory of every slot
    mask:    [B, O, h, w] probability in the last frame; None where no network reads it
    sums:    object memory, or None
    """

    frame: Array
    written: Array
    active: Array
    sensory: Array
    stores: Stores
    mask: Array | None
    sums: Sums | None


class Seen(NamedTuple):
    """Of a frame: what the memories are asked with and store, [B, L, C] (shrink [B, L]), and maps
    for the networks at strides 16, 8 and 4."""

    key: Array
    select: Array
    shrink: Array
    maps: tuple[Array, ...]
