"""What models of audio share: their checks, and an example of their input."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, Protocol

import flax.linen as nn
import jax.numpy as jnp

from ...layers.streaming import Carry
from ..registry import Card

RATE = 16_000  # samples per second of every model here


def check_audio(audio: Any, model: str) -> None:
    """Audio must be floats [B, T], T >= 1.

    Raises:
      ValueError: with what came and what would do.
    """
    shape = jnp.shape(audio)
    if len(shape) != 2 or shape[1] < 1:
        raise ValueError(
            f"{model} takes audio [batch, samples], at least one sample, got {list(shape)}; one"
            " stream is audio[None], and several channels are one by audio.mean(axis=-1)"
        )
    if not jnp.issubdtype(audio.dtype, jnp.floating):
        raise ValueError(
            f"{model} takes floats from -1 to 1 at {RATE} Hz, got {audio.dtype}; 16-bit samples"
            " become them by audio / 32768"
        )


class Heard(Protocol):
    """What says of a network of samples, without parameters, how late it is and what comes out."""

    @property
    def lookahead(self) -> Fraction: ...
    def emitted(self, count: int) -> int: ...
    def length(self, count: int) -> int: ...
    def init_carry(self, batch: int) -> Carry: ...


class OfSamples(nn.Module):
    """A network of samples that is late by what its front end and its encoder look ahead."""

    @nn.nowrap
    def body(self) -> Heard:
        """The front end and the encoder, for what needs no parameters."""
        raise NotImplementedError

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> Carry:
        """The state of ``batch`` streams that have heard nothing."""
        del frame_shape
        return self.body().init_carry(batch)

    @property
    def lookahead(self) -> Fraction:
        return self.body().lookahead

    @property
    def latency(self) -> int:
        """Samples until what they bring is final."""
        return math.ceil(self.lookahead)

    @nn.nowrap
    def emitted(self, count: int) -> int:
        """Features after ``count`` samples."""
        return self.body().emitted(count)

    @nn.nowrap
    def length(self, count: int) -> int:
        """Features of a recording of ``count`` samples."""
        return self.body().length(count)


def some_audio(module: Any, card: Card) -> tuple:
    """The arguments of ``module.init`` after the key: one sample of one stream."""
    del card
    return module.init_carry(1), jnp.zeros((1, 1), jnp.float32)
