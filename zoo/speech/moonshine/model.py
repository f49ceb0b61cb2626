"""Moonshine: an offline recogniser of speech, the teacher of the streaming ones.

Source: Jeffries et al., "Moonshine: Speech Recognition for Live Transcription and Voice Commands"
(arXiv 2410.15608); the numbers are those of transformers' ``moonshine``. Three convolutions make
41.7 features a second; one norm has the mean and the variance of the whole utterance, and every
feature sees all others, so nothing can be said before the utterance ends.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ....layers.gaps import zero_invalid
from ....layers.streaming import Array, DType
from ....layers.transformer import Block, BlockConfig
from ....layers.transformer.activations import gelu
from ....layers.transformer.norms import layer_norm
from ...ranges import Checked, Count, Positive, Whole
from ..hearing import check_audio
from ..written import Memory, heard, wrote

STEM = ((127, 64), (7, 3), (3, 2))  # (kernel, stride) of the convolutions, none pads
SHORTEST = 895  # samples that make one feature


@dataclasses.dataclass(frozen=True)
class MoonshineConfig(Checked):
    """Shapes of a recogniser.

    Attributes:
      dim, hidden: width of a feature, and of the MLPs.
      heads: of all attention.
      encoder, decoder: blocks of each.
      turned: channels of a head that are turned by its place, an even number.
      theta: base of the angles.
      vocabulary: tokens.
      start, end: the tokens before and after a text.
      hop, ahead, past: of a stream, features, 24 ms each, that are final together, and how many
        behind and before them they see.
    """

    dim: Count = 416
    hidden: Count = 1664
    heads: Count = 8
    encoder: Count = 8
    decoder: Count = 8
    turned: Count = 32
    theta: Positive = 10_000.0
    vocabulary: Count = 32_768
    start: Whole = 1
    end: Whole = 2
    hop: Count = 10
    ahead: Whole = 10
    past: Count = 750
    dtype: DType = "float32"

    def block(self, decodes: bool) -> BlockConfig:
        options: Any = dict(biased="", out_bias=False, mlp_ratio=self.hidden / self.dim, eps=1e-5)
        if decodes:
            options |= dict(cross=self.dim, gated=True, activation="silu")
        return BlockConfig(self.dim, self.heads, dtype=self.dtype, **options)


def features_of(samples: Any) -> Any:
    """Features that so many samples make."""
    for kernel, stride in STEM:
        samples = (samples - kernel) // stride + 1
    return samples


def turned_first(head: int, turned: int) -> np.ndarray:
    """The order of a head's channels in which pair i is channels i and i + head / 2.

    Published, pair i is channels 2i and 2i + 1 of the first ``turned``, the rest is not turned.
    Attention does not care for the order where queries and keys share it. [head] ints.
    """
    rest, half = np.arange(turned, head), (head - turned) // 2
    first = np.concatenate([np.arange(0, turned, 2), rest[:half]])
    return np.concatenate([first, np.arange(1, turned, 2), rest[half:]])


def angles(places: Array, head: int, turned: int, theta: float) -> tuple[Array, Array]:
    """(cos, sin) [N, head / 2] of the places [N]; channels that are not turned have angle 0."""
    rates = np.zeros(head // 2, np.float32)
    rates[: turned // 2] = theta ** -(np.arange(0, turned, 2) / turned)
    angle = places[:, None].astype(jnp.float32) * rates[None]
    return jnp.cos(angle), jnp.sin(angle)


class Parts(nn.Module):
    """A decoder and what is done with it.

    ``encode`` and ``begin`` hear an utterance once, ``write`` then takes tokens, one or many at a
    time, with the same numbers.
    """

    config: MoonshineConfig
    task = "speech"
    inputs = ("audio",)
    stride = 384  # samples of a feature

    def setup(self):
        c = self.config
        dtype = jnp.dtype(c.dtype)
        self.gain = self.param("gain", nn.initializers.ones, (c.dim,))
        self.offset = self.param("offset", nn.initializers.zeros, (c.dim,))
        self.decoder = [Block(c.block(True)) for _ in range(c.decoder)]
        self.encoder_norm, self.decoder_norm = layer_norm(1e-5, dtype), layer_norm(1e-5, dtype)
        self.embed = nn.Embed(c.vocabulary, c.dim, dtype=dtype)

    def begin(self, features: Array, seen: Array, room: int) -> Memory:
        """The memory of a decoder that has heard ``features`` [B, F, D] and can write ``room``
        tokens."""
        return heard(self.decoder, features, seen, room)

    def write(self, memory: Memory, tokens: Array) -> tuple[Memory, Array]:
        """tokens [B, N] that follow what ``memory`` has -> (memory, logits [B, N, V])."""
        memory, x = self._wrote(memory, tokens)
        return memory, self.embed.attend(self.decoder_norm(x))

    def look(self, memory: Memory, tokens: Array) -> Array:
        """tokens as in ``write`` -> how much their places see of each feature, [L, B, H, N, F]."""
        looks: list[Array] = []
        self._wrote(memory, tokens, looks)
        return jnp.stack(looks)

    def _wrote(self, memory: Memory, tokens: Array, looks: list[Array] | None = None):
        rope = self._rope(memory.written + jnp.arange(tokens.shape[1]))
        return wrote(self.decoder, memory, self.embed(tokens), rope, looks)

    def _rope(self, places: Array) -> tuple[Array, Array]:
        c = self.config
        return angles(places, c.dim // c.heads, c.turned, c.theta)


class Moonshine(Parts):
    """Audio [B, T] and tokens [B, N] -> logits [B, N, V] of the tokens that follow each."""

    def setup(self):
        super().setup()
        c = self.config
        dtype = jnp.dtype(c.dtype)
        conv = lambda i, width, bias: nn.Conv(
            width, STEM[i][0], STEM[i][1], "VALID", use_bias=bias, dtype=dtype
        )
        self.conv1, self.conv2 = conv(0, c.dim, False), conv(1, 2 * c.dim, True)
        self.conv3 = conv(2, c.dim, True)
        self.encoder = [Block(c.block(False)) for _ in range(c.encoder)]

    def __call__(self, audio: Array, tokens: Array, lengths: Array | None = None) -> Array:
        """audio [B, T] from -1 to 1 at 16 kHz, of which ``lengths`` [B] samples are there, tokens
        [B, N] that begin with ``config.start`` -> logits [B, N, V].

        Raises:
          ValueError: audio of another shape or type, or shorter than one feature.
        """
        memory = self.begin(*self.encode(audio, lengths), room=tokens.shape[1])
        return self.write(memory, tokens)[1]

    def encode(self, audio: Array, lengths: Array | None = None) -> tuple[Array, Array]:
        """(features [B, F, D], which of them are there [B, F]); raises as the call."""
        check_audio(audio, "Moonshine")
        if audio.shape[1] < SHORTEST:
            raise ValueError(
                f"Moonshine hears at least {SHORTEST} samples, got {audio.shape[1]}; pad with zeros"
            )
        lengths = jnp.full(audio.shape[0], audio.shape[1]) if lengths is None else lengths
        count = (lengths - STEM[0][0]) // STEM[0][1] + 1
        x = self._normed(jnp.tanh(self.conv1(audio[..., None].astype(self.conv1.dtype))), count)
        x = gelu(self.conv3(gelu(self.conv2(x))))
        seen = jnp.arange(x.shape[1])[None] < features_of(lengths)[:, None]
        rope = self._rope(jnp.arange(x.shape[1]))
        x = x[:, None]
        for block in self.encoder:
            x = block((), x, rope=rope, mask=seen[:, None, None])[1]
        return zero_invalid(self.encoder_norm(x[:, 0]), seen), seen

    def _normed(self, x: Array, count: Array) -> Array:
        """x [B, F, D] by the mean and the variance of each stream's first ``count`` [B] rows."""
        wide = x.astype(jnp.float32)
        there = (jnp.arange(x.shape[1])[None] < count[:, None])[..., None].astype(wide.dtype)
        total = (jnp.maximum(count, 1)[:, None, None] * x.shape[2]).astype(wide.dtype)
        mean = jnp.sum(wide * there, (1, 2), keepdims=True) / total
        apart = (wide - mean) * there
        spread = jnp.sum(apart * apart, (1, 2), keepdims=True) / total
        normed = apart * jax.lax.rsqrt(spread + 1e-5)
        return ((normed * self.gain[None, None] + self.offset[None, None]) * there).astype(x.dtype)
