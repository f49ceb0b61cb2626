"""The words of one utterance while it is said, each with its times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ...layers.streaming import Params
from .agreed import Agreeing
from .hearing import RATE
from .word_times import spans

Words = Callable[[Sequence[int]], list[tuple[str, int, int]]]


class Word(NamedTuple):
    """A word that stays.

    start, end: when it was said, seconds from where its utterance begins (of a listener: of the
    stream). at: seconds of sound that were heard when it became final.
    """

    text: str
    start: float
    end: float
    at: float


class Said(NamedTuple):
    """words: those that stay. maybe: the text behind them, which may still change."""

    words: tuple[Word, ...]
    maybe: str


class Saying:
    """One utterance: ``push`` its sound, ``flush`` at its end.

    A word is final when all its tokens are and another word has begun behind it: a token that
    follows could go on with it.

    Args:
      tokens: what finds them.
      words: tokens -> (word, its first token, the one behind its last) of each.
    """

    def __init__(self, tokens: Agreeing, words: Words):
        self.tokens, self._words = tokens, words
        self._told: tuple[Word, ...] = ()

    @property
    def params(self) -> Params:
        """Of the recogniser."""
        return self.tokens.params

    def prepare(self) -> None:
        """Compiles what an utterance needs, so that none waits for it."""
        self.tokens.prepare()
        self._spans((0,), 1)

    def push(self, audio: np.ndarray) -> Said:
        """audio [T] floats at 16 kHz -> all that was said so far; raises as Agreeing."""
        tokens, at = self.tokens, 0
        while at < len(audio):  # text by text: a word's times are those of the text it came with
            before, end = tokens.samples, at + tokens.block - len(tokens.rest)
            said = tokens.push(audio[at:end])
            at = end
            if tokens.samples != before:
                self._grow((*said.final, *said.provisional), said.at, len(said.final))
        return self.said()

    def flush(self) -> Said:
        """All that was said; nothing is heard after it."""
        said = self.tokens.flush()
        self._grow(said.final, said.at, len(said.final) + 1)
        return self.said()

    def said(self) -> Said:
        """All that was said so far."""
        found = self.tokens.said()
        rest = self._words((*found.final, *found.provisional))[len(self._told) :]
        return Said(self._told, " ".join(word for word, _, _ in rest))

    def _grow(self, tokens: tuple[int, ...], at: tuple[float, ...], final: int) -> None:
        """Adds the words that end before token ``final``."""
        found = self._words(tokens)
        ready = [word for word in found if word[2] < final]
        fresh = ready[len(self._told) :]
        if not fresh:
            return
        # what pads a window (Whisper's) has features too, and no words
        heard = -(-self.tokens.samples // self.tokens.model.stride)
        at_features = self._spans(tokens, min(self.tokens.count, heard))
        second = self.tokens.model.stride / RATE
        for text, first, end in fresh:
            began, ended = at_features[first, 0] * second, at_features[end - 1, 1] * second
            began = max(began, self._told[-1].end if self._told else 0.0)
            # known when the word behind it was, if one was
            when = at[min(end, len(at) - 1)]
            word = Word(text, began, max(began, min(ended, when)), when)
            self._told = (*self._told, word)

    def _spans(self, tokens: tuple[int, ...], count: int) -> np.ndarray:
        own = self.tokens
        told, room = own.begin.tokens, own.room + len(own.begin.tokens)
        return spans(own.model, own.params, own.features, count, tokens[: own.room], told, room)
