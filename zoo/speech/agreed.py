"""Words of one stream while it goes on: what two decodings in a row agree on is final.

Source: Liu et al., "Low-Latency Sequence-to-Sequence Speech Recognition and Translation by Partial
Hypothesis Selection" (arXiv 2005.11185), local agreement with n = 2. Every ``every`` seconds a text
is written behind the final tokens, of the features that are final and of those that are not yet;
where it begins as the one before did, its tokens become final and are never withdrawn.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...layers.streaming import Array, Params
from .hearing import RATE
from .written import best_of


class Agreed(NamedTuple):
    """Tokens of a stream so far.

    final: those that stay. at: seconds of sound that were heard when each became final.
    provisional: those behind them, which may still be withdrawn.
    """

    final: tuple[int, ...]
    at: tuple[float, ...]
    provisional: tuple[int, ...]


@functools.partial(jax.jit, static_argnames="model")
def _hear(model: Any, params: Params, carry: Any, audio: Array, valid: Array) -> Any:
    carry, out = model.apply(params, carry, audio, valid)
    return carry, out, model.apply(params, carry, method="flush")[1]


class Agreeing:
    """Tokens of one utterance, the same however its sound is cut.

    Args:
      model, params: a recogniser whose encoder is a stream and that writes: ``moonshine-live-*``,
        ``moonshine2-*``.
      every: seconds between two texts.
      longest: seconds of an utterance.
      pace: tokens per second that speech has at most; more are a loop.

    Raises:
      ValueError: a time that is not above 0.
    """

    def __init__(
        self, model: Any, params: Params, every: float = 0.48, longest: float = 15.0,
        pace: float = 6.5,
    ):  # fmt: skip
        if not 0 < every <= longest:
            raise ValueError(f"every {every} s, longest {longest} s: 0 < every <= longest")
        self.model, self.params, self.every, self.pace = model, params, every, pace
        self.block = int(every * RATE)
        self.longest = int(longest * RATE)
        self.carry = model.init_carry(1)
        _, out, _ = jax.eval_shape(lambda: self._heard(np.zeros(1, np.float32)))
        more = model.length(self.longest + self.block) + out.x.shape[1]
        self.features = np.zeros((1, more, out.x.shape[2]), np.float32)
        self.count = self.samples = 0
        self.rest = np.zeros(0, np.float32)
        self.tokens, self.at, self.last = (), (), ()

    def push(self, audio: Any) -> Agreed:
        """audio [T] floats from -1 to 1 at 16 kHz -> all that was said so far.

        Raises:
          ValueError: another shape, or more than the longest utterance.
        """
        audio = np.asarray(audio, np.float32)
        if audio.ndim != 1 or self.samples + len(self.rest) + len(audio) > self.longest:
            raise ValueError(
                f"{list(audio.shape)} samples after {self.samples + len(self.rest)}: one channel,"
                f" and at most {self.longest / RATE:g} s in all; begin anew where nobody speaks"
            )
        self.rest = np.concatenate([self.rest, audio])
        while len(self.rest) >= self.block:
            self._take(self.block)
        return self.said()

    def flush(self) -> Agreed:
        """All that was said, all of it final; nothing is heard after it."""
        self._take(len(self.rest), ends=True)
        return self.said()

    def said(self) -> Agreed:
        """All that was said so far."""
        return Agreed(self.tokens, self.at, self.last[len(self.tokens) :])

    def _heard(self, audio: np.ndarray) -> Any:
        padded = np.zeros((1, self.block), np.float32)
        padded[0, : len(audio)] = audio
        valid = np.arange(self.block)[None] < len(audio)
        return _hear(self.model, self.params, self.carry, padded, valid)

    def _take(self, samples: int, ends: bool = False) -> None:
        self.carry, out, early = self._heard(self.rest[:samples])
        self.rest, self.samples = self.rest[samples:], self.samples + samples
        self._add(out)
        before = self.count
        if early is not None:
            self._add(early)
        text = self._write() if self.count else ()
        if not ends:  # what is early comes again when it is final
            self.count = before
        agreed = len(text) if ends else common(text, self.last)
        if agreed > len(self.tokens):
            fresh = agreed - len(self.tokens)
            self.tokens, self.at = text[:agreed], self.at + (self.samples / RATE,) * fresh
        self.last = text

    def _add(self, out: Any) -> None:
        new = np.asarray(out.x[0])[np.asarray(out.valid[0])]
        self.features[0, self.count : self.count + len(new)] = new
        self.count += len(new)

    def _write(self) -> tuple[int, ...]:
        """The text of what is heard, behind the final tokens."""
        room = math.ceil(self.pace * self.longest / RATE)
        limit = math.ceil(self.pace * self.samples / RATE) - len(self.tokens)
        told = np.zeros((1, room + 1), np.int32)
        told[0, : len(self.tokens) + 1] = (self.model.config.start, *self.tokens)
        seen = np.arange(self.features.shape[1])[None] < self.count
        out, count = best_of(
            self.model, self.params, self.features, seen, np.asarray([limit], np.int32), room,
            told, jnp.int32(len(self.tokens) + 1),
        )  # fmt: skip
        return self.tokens + tuple(np.asarray(out)[0, : int(count[0])].tolist())


def common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Tokens that two texts begin with alike."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))
