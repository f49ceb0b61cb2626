"""The words of one utterance while it is said, by a FastConformer: a token that was said stays."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from ....layers.streaming import Params
from ..hearing import RATE
from ..saying import Said, Word, Words
from .model import STRIDE, FastConformer
from .recognise import Head, Recogniser


class Telling:
    """``push`` an utterance's sound, ``flush`` at its end.

    A token comes with a frame, so its time is known: a word is said from its first token's frame to
    its last one's. It is final when another has begun behind it, for a token that follows could go
    on with it. What the frames of an unfinished chunk would say stands behind it and may change.

    Args:
      model, params: a FastConformer.
      words: tokens -> (word, its first token, the one behind its last) of each.
      head: ``ctc`` or ``transducer``; None: the transducer where there is one.
      every: seconds that are heard at once.
    """

    def __init__(
        self, model: FastConformer, params: Params, words: Words,
        head: Head | None = None, every: float = 0.32,
    ):  # fmt: skip
        head = head or ("transducer" if model.config.layers else "ctc")
        self.recogniser, self.params, self._words = Recogniser(model, head), params, words
        self.block, self.samples = int(every * RATE), 0
        self._carry: Any = self.recogniser.init_carry(1)
        self._rest = np.zeros(0, np.float32)
        self._tokens: list[tuple[int, float, float]] = []  # token, its frame, heard: seconds
        self._told: tuple[Word, ...] = ()
        self._maybe: list[int] = []

    def prepare(self) -> None:
        """Compiles what an utterance needs, so that none waits for it."""
        fresh = Telling(self.recogniser.model, self.params, self._words, self.recogniser.head,
                        self.block / RATE)  # fmt: skip
        fresh._hear(np.zeros(self.block, np.float32))

    def push(self, audio: np.ndarray) -> Said:
        """audio [T] floats from -1 to 1 at 16 kHz -> all that was said so far."""
        self._rest = np.concatenate([self._rest, np.asarray(audio, np.float32)])
        while len(self._rest) >= self.block:
            block, self._rest = self._rest[: self.block], self._rest[self.block :]
            self._hear(block)
            self._grow(ends=False)
        return self.said()

    def flush(self) -> Said:
        """All that was said; nothing is heard after it."""
        self._hear(self._rest)
        self._rest = self._rest[:0]
        self._carry, rest = self.recogniser.flush(self.params, self._carry)
        self._add(rest)
        self._maybe = []
        self._grow(ends=True)
        return self.said()

    def said(self) -> Said:
        """All that was said so far."""
        numbers = [token for token, _, _ in self._tokens] + self._maybe
        rest = self._words(numbers)[len(self._told) :]
        return Said(self._told, " ".join(word for word, _, _ in rest))

    def _hear(self, audio: np.ndarray) -> None:
        padded = np.zeros((1, self.block), np.float32)
        padded[0, : len(audio)] = audio
        valid = np.arange(self.block)[None] < len(audio)
        given = jnp.asarray(padded), jnp.asarray(valid)
        self._carry, said = self.recogniser(self.params, self._carry, *given)
        self.samples += len(audio)
        self._add(said)
        maybe = self.recogniser.peek(self.params, self._carry)
        self._maybe = [token for token, _ in maybe.of()]

    def _add(self, said: Any) -> None:
        heard = self.samples / RATE
        self._tokens += [(token, begin, heard) for token, begin in said.of()]

    def _grow(self, ends: bool) -> None:
        """Adds the words behind which another has begun, at the end all of them."""
        found = self._words([token for token, _, _ in self._tokens])
        for text, first, end in found[len(self._told) : None if ends else -1]:
            began, ended = self._tokens[first][1], self._tokens[end - 1][1] + STRIDE / RATE
            heard = self.samples / RATE
            began = max(began, self._told[-1].end if self._told else 0.0)
            when = self._tokens[min(end, len(self._tokens) - 1)][2]
            word = Word(text, began, max(began, min(ended, heard)), when)
            self._told = (*self._told, word)
