"""What was said, where utterances begin and end, and what hears one."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from ..zoo.speech.saying import Said, Word


@dataclasses.dataclass(frozen=True)
class Cutting:
    """Where an utterance begins and ends; all in seconds but the two likelihoods.

    Attributes:
      begin, end: likelihoods of speech above which one begins and below which it can end
        (the pair that Silero's authors use: 0.5, and 0.15 less).
      silence: without speech until it has ended.
      lead: of sound before its first speech that belongs to it.
      shortest: of speech, else it was a noise.
      longest: then it is cut at its quietest place of the last third.
      every: between provisional texts; 0 for none.

    Raises:
      ValueError: a value out of its range.
    """

    begin: float = 0.5
    end: float = 0.35
    silence: float = 0.5
    lead: float = 0.3
    shortest: float = 0.25
    longest: float = 15.0
    every: float = 0.5

    def __post_init__(self):
        if not 0 < self.end <= self.begin < 1:
            raise ValueError(f"end {self.end} and begin {self.begin}: 0 < end <= begin < 1")
        if not 1 <= self.longest <= 30:
            raise ValueError(f"longest {self.longest}: from 1 to 30 s, what the model can hear")
        for name in ("silence", "lead", "shortest", "every"):
            if not 0 <= getattr(self, name) <= self.longest:
                raise ValueError(f"{name} {getattr(self, name)}: from 0 to {self.longest} s")


@dataclasses.dataclass(frozen=True)
class Utterance:
    """What was said.

    Attributes:
      start, end: seconds of the sound in which it was said.
      text: its words, those that may still change among them.
      final: it has ended and its text stays.
      heard: seconds of sound that had come when its text was known.
      milliseconds: that the recogniser took for it since the utterance before.
      words: those that stay, with their times; empty where the recogniser tells none.
      fresh: how many of them, the last, are new.
      number: of the utterance in its stream, from 0.
    """

    start: float
    end: float
    text: str
    final: bool
    heard: float
    milliseconds: float
    words: tuple[Word, ...] = ()
    fresh: int = 0
    number: int = 0

    @property
    def latency(self) -> float:
        """Seconds from its end until its text was known, computing included."""
        return self.heard - self.end + self.milliseconds / 1e3

    @property
    def maybe(self) -> str:
        """The text behind the words that stay."""
        kept = " ".join(word.text for word in self.words)
        return self.text[len(kept) :].strip() if self.words else self.text * (not self.final)

    def late(self) -> list[float]:
        """Of each fresh word, seconds from its end until it was final, computing included."""
        new = self.words[len(self.words) - self.fresh :]
        return [self.heard - word.end + self.milliseconds / 1e3 for word in new]


class Talk(Protocol):
    """A recogniser that hears one utterance while it goes on."""

    def push(self, audio: np.ndarray) -> Said: ...
    def flush(self) -> Said: ...
