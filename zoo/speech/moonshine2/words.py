"""Moonshine v2 whole: its streaming encoder and the decoder that writes what was said.

Source: transformers' ``moonshine_streaming``. The decoder is that of Moonshine v1, but for places
that are added to the features and a projection to its own width.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ....layers.gaps import zero_invalid
from ....layers.signal.emitted import Emitted
from ....layers.streaming import Array, Carry, DType
from ....layers.transformer import Block, BlockConfig
from ....layers.transformer.norms import layer_norm
from ...ranges import Checked, Count, Positive, Whole
from ..hearing import OfSamples
from ..moonshine.model import angles
from ..written import Memory, heard, wrote
from .model import MoonshineEncoder, MoonshineEncoderConfig


@dataclasses.dataclass(frozen=True)
class Moonshine2Config(Checked):
    """Shapes of a recogniser.

    Attributes:
      features, features_hidden, frame, windows: the encoder's ``dim``, ``hidden``, ``frame`` and
        ``windows``; ``features_heads`` its heads.
      dim, hidden, heads, decoder: the decoder's width, that of its MLPs, its heads and blocks.
      turned: channels of a head that are turned by its place, an even number.
      theta: base of the angles.
      vocabulary: tokens.
      room: features and tokens of an utterance at most.
      start, end: the tokens before and after a text.
    """

    features: Count = 320
    features_hidden: Count = 1280
    features_heads: Count = 8
    frame: Count = 80
    windows: tuple[tuple[Whole, Whole], ...] = MoonshineEncoderConfig.windows
    dim: Count = 320
    hidden: Count = 1280
    heads: Count = 8
    decoder: Count = 6
    turned: Count = 32
    theta: Positive = 10_000.0
    vocabulary: Count = 32_768
    room: Count = 4096
    start: Whole = 1
    end: Whole = 2
    dtype: DType = "float32"

    @property
    def encoder(self) -> MoonshineEncoderConfig:
        wide, heads = (self.features, self.features_hidden), self.features_heads
        return MoonshineEncoderConfig(*wide, heads, self.frame, self.windows, self.dtype)

    @property
    def block(self) -> BlockConfig:
        options: Any = dict(biased="", out_bias=False, mlp_ratio=self.hidden / self.dim, eps=1e-5)
        options |= dict(cross=self.dim, gated=True, activation="silu")
        return BlockConfig(self.dim, self.heads, dtype=self.dtype, **options)


class Moonshine2(OfSamples):
    """[B, T] samples -> features [B, F, features], one per 320 samples; ``begin`` and ``write``
    make tokens of them.

    Features are final 12 frames, 240 ms, after their last sample. ``provisional`` gives those that
    are not, as they would be if nothing came after.
    """

    config: Moonshine2Config
    task = "speech"
    cross_stream = False
    inputs = ("audio",)
    stride = 320  # samples of a feature

    def setup(self):
        c = self.config
        dtype = jnp.dtype(c.dtype)
        self.encoder = MoonshineEncoder(c.encoder)
        self.places = self.param("places", nn.initializers.normal(0.02), (c.room, c.features))
        bare: Any = dict(use_bias=False, dtype=dtype)
        self.project = nn.Dense(c.dim, **bare) if c.dim != c.features else None
        self.decoder = [Block(c.block) for _ in range(c.decoder)]
        self.decoder_norm = layer_norm(1e-5, dtype)
        self.embed = nn.Embed(c.vocabulary, c.dim, dtype=dtype)
        self.out = nn.Dense(c.vocabulary, **bare)

    @nn.nowrap
    def body(self) -> MoonshineEncoder:
        """The encoder, for what needs no parameters."""
        return MoonshineEncoder(self.config.encoder, parent=None)

    def __call__(
        self, carry: tuple[Carry, ...], audio: Array, valid: Array | None = None
    ) -> tuple[tuple[Carry, ...], Emitted]:
        """audio [B, T] from -1 to 1 at 16 kHz, valid [B, T] -> (carry, Emitted [B, F, features]).

        Raises:
          ValueError: audio of another shape or type.
        """
        carry, out = self.encoder(carry, audio, valid)
        if self.is_initializing():
            memory = self.begin(out.x, out.valid, 1)
            self.write(memory, jnp.zeros((out.x.shape[0], 1), jnp.int32))
        return carry, out

    def flush(self, carry: tuple[Carry, ...]) -> tuple[tuple[Carry, ...], Emitted | None]:
        """The last features; nothing is heard after them."""
        return self.encoder.flush(carry)

    def provisional(self, carry: tuple[Carry, ...]) -> Emitted | None:
        """The features that wait for others, as if none came; they are not final."""
        return self.encoder.flush(carry)[1]

    def begin(self, features: Array, seen: Array, room: int) -> Memory:
        """The memory of a decoder that has heard ``features`` [B, F, features], those that are
        ``seen`` [B, F], and can write ``room`` tokens.

        Raises:
          ValueError: more features or tokens than there are places.
        """
        most = self.config.room
        if features.shape[1] > most or room > most:
            raise ValueError(
                f"Moonshine v2 has {most} places, asked for {features.shape[1]} features and"
                f" {room} tokens; cut longer audio where nobody speaks"
            )
        x = features + self.places[None, : features.shape[1]].astype(features.dtype)
        x = zero_invalid(x, seen)
        return heard(self.decoder, x if self.project is None else self.project(x), seen, room)

    def write(self, memory: Memory, tokens: Array) -> tuple[Memory, Array]:
        """tokens [B, N] that follow what ``memory`` has -> (memory, logits [B, N, V])."""
        memory, x = self._wrote(memory, tokens)
        return memory, self.out(self.decoder_norm(x))

    def look(self, memory: Memory, tokens: Array) -> Array:
        """tokens as in ``write`` -> how much their places see of each feature, [L, B, H, N, F]."""
        looks: list[Array] = []
        self._wrote(memory, tokens, looks)
        return jnp.stack(looks)

    def _wrote(self, memory: Memory, tokens: Array, looks: list[Array] | None = None):
        c = self.config
        places = memory.written + jnp.arange(tokens.shape[1])
        rope = angles(places, c.dim // c.heads, c.turned, c.theta)
        return wrote(self.decoder, memory, self.embed(tokens), rope, looks)
