"""Sound as continuous tokens: a causal network hears them, a flow draws the one that comes next.

As Flow-Omni does for speech, without an open implementation: a token is no number of a codebook but
a vector, here the log energies of 40 ms, and an autoregressive network's state tells a small flow
(``layers/diffusion/token_head.py``) what may follow. There is no vocoder: what is drawn are
spectra, not samples.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ....layers.diffusion.token_head import FlowHead
from ....layers.gaps import compact, window_at, zero_invalid
from ....layers.signal.attention import Sliding
from ....layers.signal.emitted import Each, Emitted, Series
from ....layers.signal.mel import mel_filters
from ....layers.signal.spectrum import Frames, hann, rfft
from ....layers.streaming import Array, Carry, DType
from ....layers.transformer import BlockConfig
from ....layers.transformer.norms import layer_norm
from ...ranges import Checked, Count
from ..hearing import OfSamples, check_audio

SIZE = 640  # samples of a token


@dataclasses.dataclass(frozen=True)
class FlowVoiceConfig(Checked):
    """Shapes of a network.

    Attributes:
      bands: numbers of a token.
      dim, heads, depth: width of a state, heads and blocks.
      before: tokens in front of it that each block's token sees.
      hidden, head_depth: width and blocks of the flow's MLP.
    """

    bands: Count = 40
    dim: Count = 192
    heads: Count = 4
    depth: Count = 4
    before: Count = 50
    hidden: Count = 256
    head_depth: Count = 3
    dtype: DType = "float32"

    @property
    def block(self) -> BlockConfig:
        return BlockConfig(self.dim, self.heads, dtype=self.dtype)


def log_energies(bands: int, **free: Any) -> Series:
    """16 kHz audio [B, T] -> tokens [B, F, bands], 25 per second, about -2 to 2 for speech."""
    filters = jnp.asarray(mel_filters(SIZE, bands), jnp.float32)
    spectrum = rfft(hann(SIZE))

    def of(frames: Array) -> Array:
        power = (spectrum(frames) ** 2).sum(axis=-1)
        return (jnp.log(power @ filters + 1e-6) + 5) / 4

    return Series((Frames(SIZE, SIZE, **free), Each(of, **free)), **free)


class FlowVoice(OfSamples):
    """[B, T] samples -> states [B, F, dim], one per 640 samples, each told by all tokens so far.

    The carry keeps the last state: ``draw`` takes the next token of it and hears that token, so a
    stream goes on by itself from wherever it is.
    """

    config: FlowVoiceConfig
    task = "speech"
    cross_stream = False
    inputs = ("audio",)

    @nn.nowrap
    def body(self) -> Series:
        """Front end and blocks, for what needs no parameters."""
        c = self.config
        blocks = (Sliding(c.block, c.before, parent=None) for _ in range(c.depth))
        return Series((log_energies(c.bands, parent=None), *blocks), parent=None)

    def setup(self):
        c = self.config
        dtype = jnp.dtype(c.dtype)
        self.front = log_energies(c.bands)
        self.embed = nn.Dense(c.dim, dtype=dtype)
        self.blocks = [Sliding(c.block, c.before) for _ in range(c.depth)]
        self.norm = layer_norm(1e-5, dtype)
        self.head = FlowHead(c.bands, c.hidden, c.head_depth)

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> Carry:
        """The state of ``batch`` streams that have heard nothing."""
        del frame_shape
        c = self.config
        front, *blocks = self.body().init_carry(batch)
        return {
            "front": front,
            "blocks": tuple(blocks),
            "state": jnp.zeros((batch, c.dim), c.dtype),
        }

    def __call__(
        self, carry: dict[str, Carry], audio: Array, valid: Array | None = None
    ) -> tuple[dict[str, Carry], Emitted]:
        """audio [B, T] from -1 to 1 at 16 kHz, valid [B, T] -> (carry, Emitted [B, F, dim]).

        Raises:
          ValueError: audio of another shape or type.
        """
        check_audio(audio, "FlowVoice")
        front, tokens = self.front(carry["front"], audio, valid)
        carry, out = self.hear(carry | {"front": front}, tokens.x, tokens.valid)
        if self.is_initializing():
            self.head.loss(tokens.x, out.x, jax.random.key(0))
        return carry, out._replace(at=jnp.take_along_axis(tokens.at, out.at, axis=1))

    def tokens(self, audio: Array) -> Array:
        """Whole tokens of audio [B, T] -> [B, F, bands]."""
        out = self.front(self.front.init_carry(audio.shape[0]), audio)[1]
        return out.x[:, : audio.shape[1] // SIZE]

    def hear(
        self, carry: dict[str, Carry], tokens: Array, valid: Array | None = None
    ) -> tuple[dict[str, Carry], Emitted]:
        """Tokens [B, F, bands], valid [B, F] -> (carry, Emitted [B, F, dim])."""
        series = Series(tuple(self.blocks), parent=None)
        x = zero_invalid(self.embed(tokens.astype(self.embed.dtype)), valid)
        blocks, out = series(carry["blocks"], x, valid)
        out = out._replace(x=zero_invalid(self.norm(out.x), out.valid))
        dense = compact(out.x, out.valid)
        states = jnp.concatenate([carry["state"][:, None], dense.x], axis=1)
        state = window_at(states, dense.fresh, 1)[:, 0]
        return carry | {"blocks": blocks, "state": state}, out

    def loss(self, tokens: Array, key: Array) -> Array:
        """Tokens [B, F, bands] of whole sounds -> how wrong the flow to each next one is, drawn at
        one noise, [B, F]: the first is told by silence."""
        carry = self.init_carry(tokens.shape[0])
        _, out = self.hear(carry, tokens[:, :-1])
        states = jnp.concatenate([carry["state"][:, None], out.x], axis=1)
        return self.head.loss(tokens, states, key)

    def draw(
        self, carry: dict[str, Carry], key: Array, steps: int = 8
    ) -> tuple[dict[str, Carry], Array]:
        """(the carry that has heard it, the next token [B, bands]), in ``steps`` of the flow.

        Raises:
          ValueError: no step.
        """
        token = self.head.sample(carry["state"], key, steps)
        carry, _ = self.hear(carry, token[:, None])
        return carry, token

    def flush(self, carry: dict[str, Carry]) -> tuple[dict[str, Carry], Any]:
        """Nothing waits but samples that fill no token."""
        return carry, None
