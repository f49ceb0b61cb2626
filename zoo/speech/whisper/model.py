"""Whisper, which hears 30 s at once, and CarelessWhisper, whose encoder hears them as they come.

Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (arXiv
2212.04356); Krichli et al., "CarelessWhisper" (arXiv 2508.12301). Both have the same parameters:
the second sees audio in chunks, and one chunk of the whole window is the first.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ....layers.gaps import zero_invalid
from ....layers.signal.chunks import BlockCausal
from ....layers.signal.conv import Conv
from ....layers.signal.emitted import Each, Emitted, FrameForFrame, Series, whole
from ....layers.signal.mel import whisper_log_mel, whisper_window
from ....layers.streaming import Array, Carry, DType
from ....layers.transformer import Block, BlockConfig
from ....layers.transformer.activations import gelu
from ....layers.transformer.norms import layer_norm
from ...ranges import Checked, Count, Whole
from ..hearing import OfSamples, check_audio
from ..written import Memory, heard, wrote

HOP = 320  # samples of a feature


@dataclasses.dataclass(frozen=True)
class WhisperConfig(Checked):
    """Shapes of a recogniser.

    Attributes:
      dim, heads: width of a feature, and heads of all attention.
      encoder, decoder: blocks of each.
      bands: of the spectrum.
      vocabulary: tokens.
      end: the token after a text.
      window: features of what is heard at once, 20 ms each.
      room: tokens that can be written, the prompt among them.
      chunk, extra: of a stream, features of a chunk, and how many more chunks the first one has.
    """

    dim: Count = 384
    heads: Count = 6
    encoder: Count = 4
    decoder: Count = 4
    bands: Count = 80
    vocabulary: Count = 51_865
    end: Whole = 50_257
    window: Count = 1500
    room: Count = 448
    chunk: Count = 15
    extra: Whole = 0
    dtype: DType = "float32"

    def block(self, decodes: bool) -> BlockConfig:
        cross = self.dim if decodes else None
        options: Any = dict(biased="qv", cross=cross, eps=1e-5, dtype=self.dtype)
        return BlockConfig(self.dim, self.heads, **options)

    @property
    def samples(self) -> int:
        """Of a window."""
        return self.window * HOP


def sinusoids(count: int, dim: int) -> np.ndarray:
    """The places of Whisper's encoder, [count, dim]."""
    rates = np.exp(-math.log(10_000) / (dim // 2 - 1) * np.arange(dim // 2))
    angles = np.arange(count)[:, None] * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


class Placed(FrameForFrame):
    """Features plus a vector of their place, [B, F, D]; places begin anew behind the last."""

    count: int
    dim: int

    def setup(self):
        init = lambda _: jnp.asarray(sinusoids(self.count, self.dim))
        self.table = self.param("table", init)

    @nn.nowrap
    def init_carry(self, batch: int) -> Array:
        return jnp.zeros((batch,), jnp.int32)

    def __call__(self, carry: Array, x: Array, valid: Array | None = None):
        given = whole(x, valid)
        after = carry[:, None] + jnp.cumsum(given.valid, axis=1, dtype=jnp.int32)
        place = (after - 1) % self.count
        places = jnp.take(self.table, place, axis=0).astype(x.dtype)
        y = zero_invalid(given.x + places, given.valid)
        return after[:, -1] % self.count, given._replace(x=y)


class Parts(nn.Module):
    """Encoder and decoder, and what is done with them.

    ``encode`` and ``begin`` hear a window once, ``write`` then takes tokens, one or many at a time,
    with the same numbers.
    """

    config: WhisperConfig
    task = "speech"
    inputs = ("audio",)
    stride = 320  # samples of a feature

    @nn.nowrap
    def encoder(self, root: bool = False) -> Series:
        """Spectra [B, T, bands] -> features; ``root`` for what needs no parameters."""
        c = self.config
        free: Any = {"parent": None} if root else {}
        stack: Any = dict(chunk=c.chunk, extra=c.extra, frames=c.window, **free)
        return Series(
            (
                Conv(c.bands, c.dim, 3, 1, (1, 1), dtype=c.dtype, **free),
                Each(gelu, **free),
                Conv(c.dim, c.dim, 3, 2, (1, 1), dtype=c.dtype, **free),
                Each(gelu, **free),
                Placed(c.window, c.dim, **free),
                BlockCausal(c.block(False), c.encoder, **stack),
            ),
            **free,
        )

    def setup(self):
        c = self.config
        dtype = jnp.dtype(c.dtype)
        self.net = self.encoder()
        self.encoder_norm, self.decoder_norm = layer_norm(1e-5, dtype), layer_norm(1e-5, dtype)
        self.decoder = [Block(c.block(True)) for _ in range(c.decoder)]
        self.embed = nn.Embed(c.vocabulary, c.dim, dtype=dtype)
        small = nn.initializers.normal(0.02)
        self.places = self.param("places", small, (c.room, c.dim))

    def encode(self, audio: Array, lengths: Array | None = None) -> tuple[Array, Array]:
        """(features [B, window, D], all of which are there [B, window]); what pads a window is
        silence and heard.

        Raises:
          ValueError: audio of another shape or type, or longer than a window.
        """
        c = self.config
        check_audio(audio, "Whisper")
        if audio.shape[1] > c.samples:
            raise ValueError(
                f"Whisper hears {c.samples} samples ({c.samples / 16_000:g} s) at once, got"
                f" {audio.shape[1]}; cut longer audio where nobody speaks"
            )
        if lengths is not None:
            audio = zero_invalid(audio, jnp.arange(audio.shape[1])[None] < lengths[:, None])
        audio = jnp.pad(audio, ((0, 0), (0, c.samples - audio.shape[1])))
        x = self.of_spectra(whisper_window(audio, c.bands))
        return x, jnp.ones(x.shape[:2], bool)

    def of_spectra(self, mel: Array, causal: bool = False) -> Array:
        """Spectra [B, 2 F, bands] of up to a window -> features [B, F, D], each of which sees all
        others, or with ``causal`` those that a stream's would see."""
        conv1, _, conv2, _, placed, stack = self.net.layers
        x = gelu(conv2.clip(gelu(conv1.clip(mel))))
        x = x + placed.table[None, : x.shape[1]].astype(x.dtype)
        return self.encoder_norm(stack.clip(x, causal=causal))

    def begin(self, features: Array, seen: Array, room: int) -> Memory:
        """The memory of a decoder that has heard ``features`` [B, F, D], those that are ``seen``
        [B, F], and can write ``room`` tokens."""
        if room > self.config.room:
            raise ValueError(f"Whisper writes {self.config.room} tokens at most, asked for {room}")
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
        x = self.embed(tokens)
        places = jnp.take(self.places, memory.written + jnp.arange(tokens.shape[1]), axis=0)[None]
        return wrote(self.decoder, memory, x + places.astype(x.dtype), looks=looks)


class Whisper(Parts):
    """Audio [B, T] and tokens [B, N] -> logits [B, N, V] of the tokens that follow each."""

    def __call__(self, audio: Array, tokens: Array, lengths: Array | None = None) -> Array:
        """audio [B, T] from -1 to 1 at 16 kHz, of which ``lengths`` [B] samples are there, tokens
        [B, N], the prompt first -> logits [B, N, V].

        Raises:
          ValueError: audio of another shape or type, longer than a window, or too many tokens.
        """
        memory = self.begin(*self.encode(audio, lengths), room=tokens.shape[1])
        return self.write(memory, tokens)[1]


class CarelessWhisper(OfSamples, Parts):
    """[B, T] samples -> features [B, F, dim], one per 320 samples, as a stream.

    A feature is final when its chunk, 20 ms beyond it and 199 samples are heard. After a window
    (30 s) a stream begins anew: what was said before is out of its sight. Two things differ from
    the offline model: features see no later chunk, and the loudest of a window is the loudest so
    far (:class:`~streamzoo.layers.signal.mel.Peak`). Tokens: :mod:`.live`.
    """

    cross_stream = False

    @nn.nowrap
    def body(self) -> Series:
        """The front end and the encoder, for what needs no parameters."""
        return Series((whisper_log_mel(self.config.bands), self.encoder(True)), parent=None)

    def setup(self):
        super().setup()
        self.mel = whisper_log_mel(self.config.bands)

    def __call__(
        self, carry: tuple[Carry, ...], audio: Array, valid: Array | None = None
    ) -> tuple[tuple[Carry, ...], Emitted]:
        """audio [B, T] from -1 to 1 at 16 kHz, valid [B, T] -> (carry, Emitted [B, F, dim]).

        Raises:
          ValueError: audio of another shape or type.
        """
        check_audio(audio, "CarelessWhisper")
        carry, out = Series((self.mel, self.net), parent=None)(carry, audio, valid)
        if self.is_initializing():
            memory = self.begin(out.x, out.valid, 1)
            self.write(memory, jnp.zeros((len(out.x), 1), jnp.int32))
        return carry, self._normed(out)

    def hear(self, carry: tuple[Carry, ...], mel: Array, valid: Array | None = None):
        """Spectra [B, T, bands], as the front end makes them -> (the encoder's carry, Emitted)."""
        carry, out = self.net(carry, mel, valid)
        return carry, self._normed(out)

    def flush(self, carry: tuple[Carry, ...]) -> tuple[tuple[Carry, ...], Emitted | None]:
        """The last features; nothing is heard after them."""
        carry, rest = Series((self.mel, self.net), parent=None).flush(carry)
        return carry, None if rest is None else self._normed(rest)

    def _normed(self, out: Emitted) -> Emitted:
        return out._replace(x=zero_invalid(self.encoder_norm(out.x), out.valid))
