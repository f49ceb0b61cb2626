"""Marigold's path: depth is drawn in the latents of an autoencoder of pictures.

A picture's latent stands beside a noisy one of its depth; a network takes the noise out of that in
a few steps, the autoencoder makes a picture of it, and the mean of its three channels is the depth.
For learning, a depth map is a grey picture.

Source: Ke et al., "Repurposing Diffusion-Based Image Generators for Monocular Depth Estimation"
(arXiv 2312.02145), section 3; huggingface/diffusers, pipelines/marigold. There the network is
Stable Diffusion's and the autoencoder, too; here they are a Wan of single frames and TAEF2. The
text that both do without is zeros.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from ....layers.diffusion.ddim import DDIM
from ....layers.positions import resize_cubic
from ....layers.ranks import to_rank
from ....layers.streaming import DType
from ...generate.taef2.model import TAEF2, TAEF2Config
from ...generate.wan.model import Wan, WanConfig
from ...per_frame import PerFrame
from ...ranges import Checked, Count, Whole
from ..decoder import resize_linear
from ..outputs import Depth

Array = jax.Array
LATENT = 32
SMALL = WanConfig(
    channels=LATENT, control=LATENT, image_size=(24, 32), dim=256, hidden=1024, depth=8, heads=4,
    frequencies=64, text_dim=16, text_length=1, block=1,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class MarigoldConfig(Checked):
    """Shapes of the two networks, and how they are used.

    Attributes:
      autoencoder: of pictures.
      denoiser: of latents; a picture's latent is its control.
      steps: in which the noise is taken out.
      seed: of the noise, which is the same for all frames: still pictures have still depths.
      members: drawings of each frame, whose mean is taken; :func:`~.ensemble.ensemble_depth` is
        Marigold's way to join those of :meth:`Marigold.draw`.
    """

    autoencoder: TAEF2Config = TAEF2Config((192, 256), LATENT)
    denoiser: WanConfig = SMALL
    steps: Count = 4
    seed: Whole = 0
    members: Count = 1
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        latent, net = self.autoencoder.latent, self.denoiser
        if net.channels != latent or net.control != latent:
            raise ValueError(
                f"latents of {latent} channels, a denoiser of {net.channels} and a control of"
                f" {net.control}: all three are as many"
            )
        if self.image_size != (8 * net.image_size[0], 8 * net.image_size[1]):
            raise ValueError(f"pictures {self.image_size} are 8 times latents {net.image_size}")

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) that frames are brought to."""
        return self.autoencoder.image_size

    @property
    def schedule(self) -> DDIM:
        """Of the noise."""
        return DDIM()


class Marigold(PerFrame[Depth]):
    """Depth of every frame, drawn from noise; keeps no memory, so its carry is empty."""

    config: MarigoldConfig
    task = "depth"

    def setup(self):
        c = self.config
        self.autoencoder = TAEF2(dataclasses.replace(c.autoencoder, dtype=c.dtype))
        self.denoiser = Wan(dataclasses.replace(c.denoiser, dtype=c.dtype))

    def encode(self, pictures: Array) -> Array:
        """Pictures [M, H, W, 3] in 0..1 -> latents [M, H / 8, W / 8, C]."""
        return self.autoencoder.encode(pictures[:, None])[:, 0].astype(jnp.float32)

    def encode_depth(self, depth: Array) -> Array:
        """Depths [M, H, W] in 0..1 -> what the denoiser learns to draw, [M, H / 8, W / 8, C]."""
        return self.encode(jnp.repeat(depth[..., None], 3, axis=-1))

    def answer(self, noisy: Array, picture: Array, time: Array) -> Array:
        """The velocity [M, h, w, C] that the network sees in noisy latents at times [M]."""
        both = jnp.concatenate([noisy, picture], axis=-1)[:, None]
        c = self.config.denoiser
        nothing = jnp.zeros((noisy.shape[0], 1, c.text_dim), jnp.float32)
        return self.denoiser(both, time.astype(jnp.float32), nothing)[:, 0]

    def decode(self, latents: Array) -> Array:
        """Latents of depth [M, h, w, C] -> depths [M, H, W] in 0..1, near to far."""
        grey = self.autoencoder.decode(latents[:, None])[:, 0].astype(jnp.float32).mean(axis=-1)
        return jnp.clip(grey, 0.0, 1.0)

    def draw(self, pictures: Array, noise: Array) -> Array:
        """Depth from a noise of one's own: pictures [M, H, W, 3] in 0..1, noise [M, h, w, C] ->
        [M, H, W] in 0..1, near to far, of unknown scale and shift."""
        c, x = self.config, jnp.asarray(noise, jnp.float32)
        picture, schedule = self.encode(pictures), self.config.schedule
        for time in schedule.times(c.steps):
            times = jnp.full(x.shape[:1], int(time), jnp.int32)
            x = schedule.step(self.answer(x, picture, times), int(time), x, c.steps)
        return self.decode(x)

    def find(self, pictures: Array) -> Depth:
        """Pictures [M, H, W, 3] in 0..1, of any size -> inverse depths [M, H, W], 1 at the nearest.

        What is drawn is 1 at the farthest; what a stream answers is nearer where it is larger.
        """
        c, size = self.config, pictures.shape[1:3]
        small = resize_cubic(pictures, c.image_size)
        height, width = c.denoiser.image_size
        shape = (c.members, height, width, c.autoencoder.latent)
        noise = jax.random.normal(jax.random.key(c.seed), shape, jnp.float32)
        drawn = [
            self.draw(small, jnp.broadcast_to(to_rank(one, small), (small.shape[0], *one.shape)))
            for one in noise
        ]
        depth = 1 - sum(drawn[1:], drawn[0]) / len(drawn)
        depth = resize_linear(depth[..., None], size)[..., 0]
        every = jnp.ones(depth.shape[:1], bool)
        return Depth(depth, ~every, every)
