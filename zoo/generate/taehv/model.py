"""TAEHV as a stream: a small network that turns video latents into frames, and back.

Source: madebyollin/taehv, taehv.py, at commit 1f14a56 (MIT). Its blocks see the frame before,
and nothing earlier; the first three frames that a stream makes belong to no frame of the video.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from ....layers.streaming import Array, Carry, DType
from ....layers.video_conv import FrameConv, twice
from ...ranges import Checked, Count, Size
from ..pictures import PER_LATENT, Pictures, one_by_one, there
from ..tiny_blocks import MemoryBlock, soft_clip

POOLS, GROWS = (2, 2, 1), (1, 2, 2)  # frames of each level that become one, or that one becomes
BLOCKS = 3


@dataclasses.dataclass(frozen=True)
class TAEHVConfig(Checked):
    """Shapes: frames' (height, width), channels of a latent, of the decoder's levels, of the
    encoder's."""

    image_size: Size = (480, 832)
    latent: Count = 16
    widths: tuple[Count, ...] = (256, 128, 64, 64)
    encoder_width: Count = 64
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.widths) != 4:
            raise ValueError(f"four widths, not {self.widths}")
        if any(side % 8 for side in self.image_size):
            raise ValueError(f"8 does not divide {self.image_size}")

    @property
    def grid(self) -> tuple[int, int]:
        """Cells of a latent (height, width)."""
        height, width = self.image_size
        return height // 8, width // 8


class Decoder(nn.Module):
    """One latent [B, h, w, C] -> its four frames [B, 4, H, W, 3]."""

    widths: tuple[int, ...]
    dtype: DType

    @nn.compact
    def __call__(self, tails: dict[str, Array], z: Array) -> tuple[dict[str, Array], Array]:
        after: dict[str, Array] = {}
        conv = lambda n, name, **more: FrameConv(n, dtype=self.dtype, name=name, **more)
        x = nn.relu(conv(self.widths[0], "conv_in")(soft_clip(z)))[:, None]
        for level in range(3):
            wide, grow = self.widths[level], GROWS[level]
            for i in range(BLOCKS):
                name = f"level{level}_{i}"
                after[name], x = MemoryBlock(wide, self.dtype, name=name)(tails[name], x)
            batch, frames = x.shape[:2]
            x = twice(x.reshape(-1, *x.shape[2:]))
            grown = nn.Dense(wide * grow, use_bias=False, dtype=self.dtype, name=f"grow{level}")(x)
            # a frame's channels hold the frames that it becomes, one after the other
            x = jnp.moveaxis(grown.reshape(*x.shape[:3], grow, wide), 3, 1)
            x = conv(self.widths[level + 1], f"next{level}", bias=False)(
                x.reshape(-1, *x.shape[2:])
            )
            x = x.reshape(batch, frames * grow, *x.shape[1:])
        batch, frames = x.shape[:2]
        x = conv(3, "conv_out")(nn.relu(x).reshape(-1, *x.shape[2:]))
        return after, jnp.clip(x.reshape(batch, frames, *x.shape[1:]), 0, 1)


class Encoder(nn.Module):
    """Four frames [B, 4, H, W, 3] -> a latent [B, h, w, C]."""

    width: int
    latent: int
    dtype: DType

    @nn.compact
    def __call__(self, tails: dict[str, Array], x: Array) -> tuple[dict[str, Array], Array]:
        after: dict[str, Array] = {}
        conv = lambda n, name, **more: FrameConv(n, dtype=self.dtype, name=name, **more)
        batch = x.shape[0]
        x = nn.relu(conv(self.width, "conv_in")(x.reshape(-1, *x.shape[2:])))
        for level, pool in enumerate(POOLS):
            # frames that become one stand beside each other in the channels
            x = jnp.moveaxis(x.reshape(-1, pool, *x.shape[1:]), 1, 3)
            x = x.reshape(*x.shape[:3], -1)
            x = nn.Dense(self.width, use_bias=False, dtype=self.dtype, name=f"pool{level}")(x)
            x = conv(self.width, f"next{level}", stride=2, bias=False)(x)
            x = x.reshape(batch, -1, *x.shape[1:])
            for i in range(BLOCKS):
                name = f"level{level}_{i}"
                after[name], x = MemoryBlock(self.width, self.dtype, name=name)(tails[name], x)
            x = x.reshape(-1, *x.shape[2:])
        return after, conv(self.latent, "conv_out")(x)


class TAEHV(nn.Module):
    """Latents [B, T, h, w, C] -> :class:`Pictures` in 0..1; :meth:`encode` is the way back."""

    config: TAEHVConfig
    latency = 0
    cross_stream = False
    inputs = ("latents",)
    task = "generate"

    def setup(self):
        c = self.config
        self.decoder = Decoder(c.widths, c.dtype)
        self.encoder = Encoder(c.encoder_width, c.latent, c.dtype)

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> Carry:
        """The frame that each of the decoder's blocks saw; frame_shape (height, width)."""
        widths = {level: self.config.widths[level] for level in range(3)}
        return self._tails(batch, frame_shape, widths, lambda level: 8 >> level)

    @nn.nowrap
    def init_encoder_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> Carry:
        """The frame that each of the encoder's blocks saw."""
        widths = dict.fromkeys(range(3), self.config.encoder_width)
        return self._tails(batch, frame_shape, widths, lambda level: 2 << level)

    @nn.nowrap
    def _tails(self, batch, frame_shape, widths, shrink) -> Carry:
        height, width = frame_shape or self.config.image_size
        if height % 8 or width % 8:
            raise ValueError(f"frames {height} x {width}: 8 divides both sides of one")
        tails = {
            f"level{level}_{i}": jnp.zeros(
                (batch, height // shrink(level), width // shrink(level), wide), self.config.dtype
            )
            for level, wide in widths.items()
            for i in range(BLOCKS)
        }
        return {"tails": tails, "begun": jnp.zeros((batch,), bool)}

    def __call__(
        self, carry: Carry, latents: Array, valid: Array | None = None
    ) -> tuple[Carry, Pictures]:
        """Decodes latents [B, T, h, w, C]."""

        def one(carry: Carry, z: Array):
            tails, x = self.decoder(carry["tails"], z.astype(self.config.dtype))
            here = there(carry["begun"])
            x = jnp.where(here[:, :, None, None, None], x, 0)
            return {"tails": tails, "begun": jnp.ones_like(carry["begun"])}, Pictures(x, here)

        if self.is_initializing():  # parameters cannot be made inside a scan
            batch, size = latents.shape[0], self.config.image_size
            frames = jnp.zeros((batch, PER_LATENT, *size, 3), self.config.dtype)
            self.encoder(self.init_encoder_carry(batch)["tails"], frames)
            carry, out = one(carry, latents[:, 0])
            return carry, Pictures(out.x[:, None], out.valid[:, None])
        return one_by_one(one, carry, latents, valid)

    def encode(
        self, carry: Carry, groups: Array, valid: Array | None = None
    ) -> tuple[Carry, Array]:
        """Groups of frames [B, T, 4, H, W, 3] in 0..1 from the video's start -> latents [B, T, h,
        w, C]; a group at the end is filled with the last frame (:func:`in_fours`)."""

        def one(carry: Carry, x: Array):
            tails, z = self.encoder(carry["tails"], x.astype(self.config.dtype))
            return {"tails": tails, "begun": jnp.ones_like(carry["begun"])}, z

        return one_by_one(one, carry, groups, valid)


def in_fours(frames: Array) -> Array:
    """A whole video [B, F, ...] -> [B, T, 4, ...], its last frame again where some are missing."""
    lack = -frames.shape[1] % PER_LATENT
    last = jnp.repeat(frames[:, -1:], lack, axis=1)
    x = jnp.concatenate([frames, last], axis=1)
    return x.reshape(x.shape[0], -1, PER_LATENT, *x.shape[2:])
