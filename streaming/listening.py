"""Words of a stream of sound: where somebody speaks, it is written down.

A recogniser that needs whole utterances (Moonshine) hears what a streaming voice detector (Silero)
cuts out. While an utterance goes on it is heard again every half a second, and what comes of that
is *provisional*; when it has ended its text is final, and never changes. Memory is bounded by the
longest utterance.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from ..zoo.resolve import load

RATE = 16_000
BLOCK = 512  # samples that the voice detector judges at once


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
      text: its words.
      final: it has ended and its text stays; else it is provisional.
      heard: seconds of sound that had come when its text was known.
      milliseconds: that the recogniser took.
    """

    start: float
    end: float
    text: str
    final: bool
    heard: float
    milliseconds: float

    @property
    def latency(self) -> float:
        """Seconds from its end until its text was known, computing included."""
        return self.heard - self.end + self.milliseconds / 1e3


class Listener:
    """A stream of sound; ``push`` gives what was said.

    Args:
      recognise: float32 [T] at 16 kHz -> its text.
      cutting: where utterances begin and end.
      detector: name of the voice detector.
    """

    def __init__(
        self,
        recognise: Callable[[np.ndarray], str],
        cutting: Cutting | None = None,
        detector: str = "silero-vad/v6",
    ):
        self.cutting, self._recognise = cutting or Cutting(), recognise
        model, self._params = load(detector)
        self._judge = jax.jit(model.apply)
        self._carry: Any = model.init_carry(1)
        self._rest = np.zeros(0, np.float32)  # not yet a block
        self._sound: list[np.ndarray] = []  # blocks of the lead, or of the utterance
        self._speech: list[float] = []  # their likelihoods of speech
        self._speaking, self._told = False, 0
        self.samples = 0  # that were judged

    def push(self, samples: np.ndarray) -> Iterator[Utterance]:
        """Hears float32 [T] from -1 to 1 at 16 kHz, any T.

        Raises:
          ValueError: samples of another shape or type.
        """
        samples = np.asarray(samples)
        if samples.ndim != 1 or samples.dtype != np.float32:
            raise ValueError(
                f"sound is float32 [samples] from -1 to 1 at {RATE} Hz, got {samples.dtype}"
                f" {list(samples.shape)}"
            )
        sound = np.concatenate([self._rest, samples])
        whole = len(sound) // BLOCK * BLOCK
        self._rest = sound[whole:]
        for block in sound[:whole].reshape(-1, BLOCK):
            yield from self._hear(block)

    def flush(self) -> Iterator[Utterance]:
        """What is left when the sound has ended."""
        if len(self._rest):
            padded = np.pad(self._rest, (0, BLOCK - len(self._rest)))
            self._rest = self._rest[:0]
            yield from self._hear(padded)
        if self._speaking:
            yield from self._finish(len(self._sound))

    def _hear(self, block: np.ndarray) -> Iterator[Utterance]:
        self._carry, out = self._judge(self._params, self._carry, block[None])
        speech = float(out.x[0, 0])
        self.samples += BLOCK
        self._sound.append(block)
        self._speech.append(speech)
        cutting = self.cutting
        blocks = lambda seconds: max(1, round(seconds * RATE / BLOCK))
        if not self._speaking:
            if speech < cutting.begin:
                del self._sound[: -blocks(cutting.lead)], self._speech[: -blocks(cutting.lead)]
                return
            self._speaking, self._told = True, len(self._sound)
        quiet = blocks(cutting.silence)
        if max(self._speech[-quiet:]) < cutting.end and len(self._speech) >= quiet:
            yield from self._finish(len(self._sound))
        elif len(self._sound) >= blocks(cutting.longest):
            last = len(self._sound) // 3
            yield from self._finish(len(self._sound) - last + int(np.argmin(self._speech[-last:])))
            self._speaking, self._told = bool(self._sound), len(self._sound)
        elif cutting.every and len(self._sound) - self._told >= blocks(cutting.every):
            self._told = len(self._sound)
            yield self._written(len(self._sound), final=False)

    def _finish(self, count: int) -> Iterator[Utterance]:
        """The utterance of the first ``count`` blocks; the others begin the next."""
        spoken = sum(p >= self.cutting.end for p in self._speech[:count]) * BLOCK / RATE
        if spoken >= self.cutting.shortest:
            found = self._written(count, final=True)
            if found.text:
                yield found
        self._speaking = False
        del self._sound[:count], self._speech[:count]

    def _written(self, count: int, final: bool) -> Utterance:
        first = self.samples - len(self._sound) * BLOCK
        spoken = [i for i, p in enumerate(self._speech[:count]) if p >= self.cutting.end]
        end = (spoken[-1] + 1 if spoken else count) * BLOCK
        began = time.perf_counter()
        text = self._recognise(np.concatenate(self._sound[:count]))
        taken = 1e3 * (time.perf_counter() - began)
        start = (first + (spoken[0] if spoken else 0) * BLOCK) / RATE
        return Utterance(start, (first + end) / RATE, text, final, self.samples / RATE, taken)
