"""Words of one stream while it goes on: what two decodings in a row agree on is final.

Source: Liu et al., "Low-Latency Sequence-to-Sequence Speech Recognition and Translation by Partial
Hypothesis Selection" (arXiv 2005.11185), local agreement with n = 2. Every ``every`` seconds a text
is written behind the final tokens, of the features that are final and of those that are not yet;
where it begins as the one before did, its tokens become final and are never withdrawn.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...layers.streaming import Array, Params
from .best_texts import best_texts
from .hearing import RATE
from .written import Prompt, best_of


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


@functools.partial(jax.jit, static_argnames="model")
def _encode(model: Any, params: Params, audio: Array, lengths: Array) -> Any:
    return model.apply(params, audio, lengths, method="encode")


_SHAPES: dict[tuple[Any, str, int], tuple[int, ...]] = {}


def _shape(key: tuple[Any, str, int], of: Callable[[], Any]) -> tuple[int, ...]:
    """The shape of what ``of`` gives, traced once: JAX keeps 13 KB of every trace, and each
    utterance would make one."""
    if key not in _SHAPES:
        _SHAPES[key] = jax.eval_shape(of).shape
    return _SHAPES[key]


class Agreeing:
    """Tokens of one utterance, the same however its sound is cut.

    Args:
      model, params: a recogniser whose encoder is a stream and that writes: ``moonshine-live-*``,
        ``moonshine2-*``.
      every: seconds between two texts.
      longest: seconds of an utterance.
      pace: tokens per second that speech has at most; more are a loop.
      beam: texts that are kept while one is looked for; 1 takes the best token each time.
      begin: what a text begins with and never says; None: ``config.start``, and everything is said.

    Raises:
      ValueError: a time that is not above 0.
    """

    def __init__(
        self, model: Any, params: Params, every: float = 0.48, longest: float = 15.0,
        pace: float = 6.5, begin: Prompt | None = None, beam: int = 1,
    ):  # fmt: skip
        if beam < 1:
            raise ValueError(f"beam {beam}: at least one text is kept")
        if not 0 < every <= longest:
            raise ValueError(f"every {every} s, longest {longest} s: 0 < every <= longest")
        self.model, self.params, self.every, self.pace = model, params, every, pace
        self.begin, self.beam = begin or Prompt((model.config.start,)), beam
        self.block = int(every * RATE)
        self.longest = int(longest * RATE)
        self.room = math.ceil(pace * self.longest / RATE)
        self.count = self.samples = 0
        self.rest = np.zeros(0, np.float32)
        self.tokens, self.at, self.last = (), (), ()
        self.features = self._quiet()

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

    def prepare(self) -> None:
        """Compiles what an utterance needs, so that none waits for it."""
        self._heard(np.zeros(1, np.float32))
        self._write()

    def said(self) -> Agreed:
        """All that was said so far."""
        return Agreed(self.tokens, self.at, self.last[len(self.tokens) :])

    def _take(self, samples: int, ends: bool = False) -> None:
        sound, self.rest = self.rest[:samples], self.rest[samples:]
        self.samples += samples
        self._listen(sound)
        text = self._write() if self.count else ()
        agreed = len(text) if ends else common(text, self.last)
        if agreed > len(self.tokens):
            fresh = agreed - len(self.tokens)
            self.tokens, self.at = text[:agreed], self.at + (self.samples / RATE,) * fresh
        self.last = text

    def _quiet(self) -> np.ndarray:
        """Room for all features of an utterance, [1, F, D], when nothing was heard."""
        self.carry = self.model.init_carry(1)
        self.ready = 0  # features that are final
        new = lambda: self._heard(np.zeros(1, np.float32))[1].x
        _, frames, dim = _shape((self.model, "stream", self.block), new)
        more = self.model.length(self.longest + self.block) + frames
        return np.zeros((1, more, dim), np.float32)

    def _heard(self, audio: np.ndarray) -> Any:
        padded = np.zeros((1, self.block), np.float32)
        padded[0, : len(audio)] = audio
        valid = np.arange(self.block)[None] < len(audio)
        return _hear(self.model, self.params, self.carry, padded, valid)

    def _listen(self, audio: np.ndarray) -> None:
        """Hears a block; ``features`` [1, F, D] then begin with ``count`` that are known."""
        self.carry, out, early = self._heard(audio)
        self.ready = self._add(self.ready, out)
        # what is early comes again when it is final
        self.count = self.ready if early is None else self._add(self.ready, early)

    def _add(self, count: int, out: Any) -> int:
        new = np.asarray(out.x[0])[np.asarray(out.valid[0])]
        self.features[0, count : count + len(new)] = new
        return count + len(new)

    def _write(self) -> tuple[int, ...]:
        """The text of what is heard, behind the final tokens."""
        limit = math.ceil(self.pace * self.samples / RATE) - len(self.tokens)
        first = len(self.begin.tokens)
        told = np.zeros((1, self.room + first), np.int32)
        told[0, : len(self.tokens) + first] = (*self.begin.tokens, *self.tokens)
        seen = np.arange(self.features.shape[1])[None] < self.count
        never = self._banned(self.begin.never)
        first_never = never if self.tokens else self._banned(self.begin.never_first)
        there, found = jnp.int32(len(self.tokens) + first), (self.model, self.params)
        if self.beam > 1:
            out, count, _ = best_texts(
                *found, self.features, seen, np.int32(limit), self.room, told[0], there, self.beam,
                never, first_never,
            )  # fmt: skip
        else:
            out, count = best_of(
                *found, self.features, seen, np.asarray([limit], np.int32), self.room, told, there,
                never, first_never,
            )  # fmt: skip
        return self.tokens + tuple(np.asarray(out)[0, : int(count[0])].tolist())

    def _banned(self, tokens: tuple[int, ...]) -> np.ndarray:
        mask = np.zeros(self.model.config.vocabulary, bool)
        mask[list(tokens)] = True
        return mask


class Again(Agreeing):
    """The same with an encoder that hears whole utterances (Moonshine, Whisper): every ``every``
    seconds all of the utterance is encoded anew, so the longer it is the more each text costs."""

    SIZES = (3, 8, 16, 30)  # seconds that programs are compiled for

    def _quiet(self) -> np.ndarray:
        self.sound = np.zeros(self.longest + self.block, np.float32)
        sizes = [s * RATE for s in self.SIZES]
        self.sizes = [*(s for s in sizes if s < self.longest), self.longest]
        whole = lambda: self._encoded(self.longest)[0]
        return np.zeros(_shape((self.model, "whole", self.longest), whole), np.float32)

    def _encoded(self, size: int) -> Any:
        lengths = np.asarray([self.samples], np.int32)
        return _encode(self.model, self.params, self.sound[None, :size], lengths)

    def prepare(self) -> None:
        """Compiles what utterances of all sizes need, so that none waits for it."""
        for size in self.sizes:
            self._encoded(size)
        self._write()

    def _listen(self, audio: np.ndarray) -> None:
        self.sound[self.samples - len(audio) : self.samples] = audio
        x, seen = self._encoded(next(s for s in self.sizes if s >= self.samples))
        self.count = int(np.asarray(seen).sum())
        self.features[:, : x.shape[1]] = x


def common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Tokens that two texts begin with alike."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))
