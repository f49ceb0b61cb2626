"""The video autoencoder of Wan 2.1 as a stream: a latent in, four frames out (the first: one).

Source: Wan Team, "Wan: Open and Advanced Large-Scale Video Generative Models" (arXiv 2503.20314),
section 4.1; diffusers, models/autoencoders/autoencoder_kl_wan.py. Every convolution over time sees
the past alone, so the decoder keeps the last two frames that each of them saw, and decoding latent
by latent is decoding them together.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp

from ....layers.ranks import to_rank
from ....layers.streaming import Array, Carry, DType
from ...ranges import Checked, Count, Positive, Range, Size
from ..pictures import PER_LATENT, Pictures, one_by_one, there
from .blocks import Downs, Stage, Tails, Ups, tail_shapes

Middle = Annotated[float, Range()]


@dataclasses.dataclass(frozen=True)
class WanVAEConfig(Checked):
    """Shapes of the autoencoder.

    Attributes:
      image_size: (height, width) of a frame, multiples of 8.
      dim: channels at full size; times ``mult`` at each smaller one.
      latent: channels of a latent.
      blocks: residual blocks of a level of the encoder; the decoder has one more.
      over_time: whether the step after each level halves time, too.
      mean, std: of the latents' channels as networks take them, () for 0 and 1.
    """

    image_size: Size = (480, 832)
    dim: Count = 96
    latent: Count = 16
    mult: tuple[Count, ...] = (1, 2, 4, 4)
    blocks: Count = 2
    over_time: tuple[bool, ...] = (False, True, True)
    mean: tuple[Middle, ...] = ()
    std: tuple[Positive, ...] = ()
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.over_time) != len(self.mult) - 1 or sum(self.over_time) != 2:
            raise ValueError(f"{self.over_time}: a step between two levels of {self.mult} each, two"
                             " of which halve time")  # fmt: skip
        if any(side % self.shrink for side in self.image_size):
            raise ValueError(f"{self.shrink} does not divide {self.image_size}")

    @property
    def shrink(self) -> int:
        """Pixels a side of a latent cell."""
        return 2 ** (len(self.mult) - 1)

    @property
    def grid(self) -> tuple[int, int]:
        """Cells of a latent (height, width)."""
        height, width = self.image_size
        return height // self.shrink, width // self.shrink


class WanVAE(nn.Module):
    """Latents [B, T, h, w, C] -> :class:`Pictures`; :meth:`encode` is the way back."""

    config: WanVAEConfig
    latency = 0
    cross_stream = False
    inputs = ("latents",)
    task = "generate"

    def setup(self):
        c = self.config
        shape = (c.dim, c.mult, c.blocks, c.over_time, c.dtype)
        self.encoder = Downs(*shape, 2 * c.latent)
        self.decoder = Ups(*shape)
        dense = lambda width: nn.Dense(width, dtype=c.dtype)
        self.quant, self.post_quant = dense(2 * c.latent), dense(c.latent)

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> Carry:
        """What the decoder's convolutions saw; frame_shape (height, width) of the frames."""
        return self._tails(batch, frame_shape, Stage.DECODE)

    @nn.nowrap
    def init_encoder_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> Carry:
        """What the encoder's convolutions saw."""
        return self._tails(batch, frame_shape, Stage.ENCODE)

    @nn.nowrap
    def _tails(self, batch: int, frame_shape: tuple[int, int] | None, stage: Stage) -> Carry:
        c = self.config
        height, width = frame_shape or c.image_size
        if height % c.shrink or width % c.shrink:
            raise ValueError(f"frames {height} x {width}: {c.shrink} divides both sides of one")
        shapes = tail_shapes(stage, c.dim, c.mult, c.blocks, c.over_time, c.latent)
        tails = {
            name: jnp.zeros((batch, n, height // s, width // s, channels), c.dtype)
            for name, (n, s, channels) in shapes.items()
        }
        return {"tails": tails, "begun": jnp.zeros((batch,), bool)}

    def __call__(
        self, carry: Carry, latents: Array, valid: Array | None = None
    ) -> tuple[Carry, Pictures]:
        """Decodes latents [B, T, h, w, C] as the network makes them; frames are in -1..1."""

        def one(carry: Carry, z: Array):
            x = self.post_quant(self.unscaled(z).astype(self.config.dtype))[:, None]
            tails = Tails(carry["tails"], ~carry["begun"])
            x = jnp.clip(self.decoder(tails, x), -1, 1)
            here = there(carry["begun"])
            x = jnp.where(here[:, :, None, None, None], x, 0)
            after = {"tails": tails.after, "begun": jnp.ones_like(carry["begun"])}
            return after, Pictures(x, here)

        if self.is_initializing():  # parameters cannot be made inside a scan
            self.encode_frames(latents.shape[0])
            carry, out = one(carry, latents[:, 0])
            return carry, Pictures(out.x[:, None], out.valid[:, None])
        return one_by_one(one, carry, latents, valid)

    def encode_frames(self, batch: int) -> None:
        """Makes the encoder's parameters."""
        c = self.config
        x = jnp.zeros((batch, PER_LATENT, *c.image_size, 3), c.dtype)
        carry = self.init_encoder_carry(batch)
        self.quant(self.encoder(Tails(carry["tails"], ~carry["begun"]), x))

    def encode(
        self, carry: Carry, groups: Array, valid: Array | None = None
    ) -> tuple[Carry, Array]:
        """Groups of frames [B, T, 4, H, W, 3] in -1..1, the first frame last in the first group
        (``grouped``) -> latents [B, T, h, w, C], the mean of what the encoder finds."""

        def one(carry: Carry, x: Array):
            tails = Tails(carry["tails"], ~carry["begun"])
            found = self.quant(self.encoder(tails, x.astype(self.config.dtype)))[:, 0]
            mean = found[..., : self.config.latent]
            return {"tails": tails.after, "begun": jnp.ones_like(carry["begun"])}, self.scaled(mean)

        return one_by_one(one, carry, groups, valid)

    def unscaled(self, z: Array) -> Array:
        """A latent as the autoencoder has it."""
        c = self.config
        if not c.mean:
            return z
        mean, std = (jnp.asarray(values, z.dtype) for values in (c.mean, c.std))
        return z * to_rank(std, z) + to_rank(mean, z)

    def scaled(self, z: Array) -> Array:
        """A latent as networks have it."""
        c = self.config
        if not c.mean:
            return z
        mean, std = (jnp.asarray(values, z.dtype) for values in (c.mean, c.std))
        return (z - to_rank(mean, z)) / to_rank(std, z)
