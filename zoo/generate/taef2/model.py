"""TAEF2: pictures to latents of 32 channels at an eighth of the size, and back.

Source: madebyollin/taesd, taesd.py (``flux_2``), at commit 5cccb12 (MIT). Each frame of a video by
itself; three blocks of each half see the whole picture through a group norm, so a picture in tiles
comes out another.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from ....layers.gaps import zero_invalid
from ....layers.streaming import Array, DType
from ....layers.video_conv import FrameConv, twice
from ...per_frame import NoMemory
from ...ranges import Checked, Count, Size
from ..tiny_blocks import TinyBlock, soft_clip


@dataclasses.dataclass(frozen=True)
class TAEF2Config(Checked):
    """Shapes: frames' (height, width), channels of a latent and inside."""

    image_size: Size = (192, 256)
    latent: Count = 32
    width: Count = 64
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(side % 8 for side in self.image_size):
            raise ValueError(f"8 does not divide {self.image_size}")


class TAEF2(NoMemory):
    """Frames in 0..1 -> the same through their latents; :meth:`encode` and :meth:`decode` are the
    halves."""

    config: TAEF2Config
    task = "generate"

    def setup(self):
        c = self.config
        conv = lambda width, **more: FrameConv(width, dtype=c.dtype, **more)
        block = lambda pooled=False: TinyBlock(c.width, pooled, c.dtype)
        half = lambda: conv(c.width, stride=2, bias=False)
        self.encoder = [conv(c.width), block()] + [
            part for level in range(3) for part in (half(), *(block(level == 2) for _ in range(3)))
        ]
        self.latent = conv(c.latent)
        self.entry = conv(c.width)
        self.decoder = [
            part
            for level in range(3)
            for part in (*(block(level == 0) for _ in range(3)), conv(c.width, bias=False))
        ] + [block()]
        self.exit = conv(3)

    def encode(self, frames: Array) -> Array:
        """[B, T, H, W, 3] in 0..1 -> [B, T, H / 8, W / 8, C].

        Raises:
          ValueError: sides that 8 does not divide.
        """
        if any(side % 8 for side in frames.shape[2:4]):
            raise ValueError(f"frames {frames.shape[2:4]}: 8 divides both sides of one")
        x = self._flat(frames)
        for part in self.encoder:
            x = part(x)
        x = self.latent(x)
        return x.reshape(*frames.shape[:2], *x.shape[1:])

    def decode(self, latents: Array) -> Array:
        """[B, T, h, w, C] -> [B, T, 8 h, 8 w, 3], mostly in 0..1 and not cut to it."""
        x = nn.relu(self.entry(soft_clip(self._flat(latents))))
        for part in self.decoder:
            # a plain convolution among the blocks stands behind a picture of twice the size
            x = part(x if isinstance(part, TinyBlock) else twice(x))
        x = self.exit(x)
        return x.reshape(*latents.shape[:2], *x.shape[1:])

    def _flat(self, x: Array) -> Array:
        return jnp.asarray(x, self.config.dtype).reshape(-1, *x.shape[2:])

    def __call__(
        self, carry: tuple[()], frames: Array, valid: Array | None = None
    ) -> tuple[tuple[()], Array]:
        """Frames through their latents.

        Args:
          carry: ``()``.
          frames: [B, T, H, W, 3] in 0..1.
          valid: [B, T] bool, False for frames that never came; they come out as zeros.

        Raises:
          ValueError: frames of the wrong shape or type, or a carry that is not empty.
        """
        pictures = self.single(carry, frames, valid).reshape(frames.shape)
        return carry, zero_invalid(self.decode(self.encode(pictures)), valid)
