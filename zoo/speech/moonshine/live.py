"""Moonshine whose encoder hears an utterance while it goes on.

The same parameters as :class:`~.model.Moonshine`, three differences: the stem is normalised by what
was heard so far; a feature sees its hop to the end and ``ahead`` features behind that; and what was
more than ``past`` features before its hop is forgotten. With the published weights that costs
words; ``configs/moonshine_live.py`` teaches others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ....layers.gaps import zero_invalid
from ....layers.signal.ahead import Ahead, Placed
from ....layers.signal.conv import Conv
from ....layers.signal.emitted import Each, Emitted, Series
from ....layers.signal.running import RunningNorm
from ....layers.streaming import Array, Carry
from ....layers.transformer.activations import gelu
from ..hearing import OfSamples, check_audio
from .model import STEM, Parts, angles, features_of


class MoonshineLive(OfSamples, Parts):
    """[B, T] samples -> features [B, F, dim], one per 384 samples, as a stream.

    ``encode`` is the clip of the same: what a stream has emitted when it has ended. ``begin`` and
    ``write`` are Moonshine's.
    """

    cross_stream = False

    def setup(self):
        super().setup()
        c = self.config
        conv1, conv2, conv3 = self._widths()
        self.conv1 = Conv(*conv1, bias=False, dtype=c.dtype)
        self.conv2, self.conv3 = Conv(*conv2, dtype=c.dtype), Conv(*conv3, dtype=c.dtype)
        self.encoder = [Placed(c.block(False)) for _ in range(c.encoder)]
        self.stack = self._ahead(tuple(self.encoder), False)

    @nn.nowrap
    def _widths(self) -> list[tuple[int, int, int, int]]:
        """(channels, features, kernel, stride) of the stem's convolutions."""
        widths = (1, self.config.dim, 2 * self.config.dim, self.config.dim)
        pairs = zip(widths[:3], widths[1:], strict=True)
        return [(c, out, *one) for (c, out), one in zip(pairs, STEM, strict=True)]

    @nn.nowrap
    def _ahead(self, blocks: tuple[Placed, ...], root: bool) -> Ahead:
        c = self.config
        free: Any = {"parent": None} if root else {}
        turns = functools.partial(angles, head=c.dim // c.heads, turned=c.turned, theta=c.theta)
        return Ahead(blocks, turns, c.hop, c.ahead, c.past, **free)

    @nn.nowrap
    def _series(self, convs: list[Conv], scale: Callable[[Array], Array], ahead: Ahead) -> Series:
        conv1, conv2, conv3 = convs
        norm, bend = RunningNorm(dtype=self.config.dtype, parent=None), Each(gelu, parent=None)
        tanh, add = Each(jnp.tanh, parent=None), Each(scale, parent=None)
        body = (conv1, tanh, norm, add, conv2, bend, conv3, bend, ahead)
        return Series(body, parent=None)

    @nn.nowrap
    def body(self) -> Series:
        """Stem and blocks, for what needs no parameters."""
        blocks = (Placed(self.config.block(False), parent=None),) * self.config.encoder
        convs = [Conv(*widths, dtype=self.config.dtype, parent=None) for widths in self._widths()]
        return self._series(convs, jnp.tanh, self._ahead(blocks, True))

    def _net(self) -> Series:
        scale = lambda x: x * self.gain[None, None] + self.offset[None, None]
        return self._series([self.conv1, self.conv2, self.conv3], scale, self.stack)

    def __call__(
        self, carry: tuple[Carry, ...], audio: Array, valid: Array | None = None
    ) -> tuple[tuple[Carry, ...], Emitted]:
        """audio [B, T] from -1 to 1 at 16 kHz, valid [B, T] -> (carry, Emitted [B, F, dim]).

        Raises:
          ValueError: audio of another shape or type.
        """
        check_audio(audio, "Moonshine")
        carry, out = self._net()(carry, audio[..., None].astype(self.conv1.dtype), valid)
        if self.is_initializing():
            memory = self.begin(out.x, out.valid, 1)
            self.write(memory, jnp.zeros((out.x.shape[0], 1), jnp.int32))
        return carry, self._normed_features(out)

    def flush(self, carry: tuple[Carry, ...]) -> tuple[tuple[Carry, ...], Emitted | None]:
        """The last features; nothing is heard after them."""
        carry, rest = self._net().flush(carry)
        return carry, None if rest is None else self._normed_features(rest)

    def encode(self, audio: Array, lengths: Array | None = None) -> tuple[Array, Array]:
        """(features [B, F, D], which of them are there [B, F]) of audio [B, T] of which
        ``lengths`` [B] samples are there; raises as the call."""
        check_audio(audio, "Moonshine")
        lengths = jnp.full(audio.shape[0], audio.shape[1]) if lengths is None else lengths
        x = jnp.tanh(self.conv1.clip(audio[..., None].astype(self.conv1.dtype)))
        norm = RunningNorm(dtype=self.config.dtype, parent=None)
        x = norm(norm.init_carry(x.shape[0]), x)[1].x
        x = x * self.gain[None, None] + self.offset[None, None]
        x = gelu(self.conv3.clip(gelu(self.conv2.clip(x))))
        count = features_of(lengths)
        x = self.encoder_norm(self.stack.clip(x, count))
        seen = jnp.arange(x.shape[1])[None] < count[:, None]
        return zero_invalid(x, seen), seen

    def _normed_features(self, out: Emitted) -> Emitted:
        return out._replace(x=zero_invalid(self.encoder_norm(out.x), out.valid))
