"""Words of a stream of sound: where somebody speaks, it is written down.

A streaming voice detector (Silero) cuts out what is said; a recogniser writes it down. One that
hears while somebody speaks says words that stay; behind them stands what may still change. One
that knows whole utterances alone is asked again every half a second, and all of that may change
until the utterance ends. Memory is bounded by the longest utterance.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from ..layers.streaming import Json
from ..zoo.resolve import load
from ..zoo.speech.saying import Said, Word
from .utterances import Cutting, Talk, Utterance

RATE = 16_000
BLOCK = 512  # samples that the voice detector judges at once


class Listener:
    """A stream of sound; ``push`` gives what was said.

    Args:
      recognise: float32 [T] at 16 kHz -> its text; or, as ``begin``, what hears an utterance.
      cutting: where utterances begin and end. What hears an utterance while it goes on cannot take
        back what it heard, so one that is too long ends at the first pause of its last third.
      detector: name of the voice detector.
      begin: () -> what hears the next utterance, with room for ``cutting.longest`` + 1 s.

    Raises:
      ValueError: both or none of ``recognise`` and ``begin``.
    """

    def __init__(
        self,
        recognise: Callable[[np.ndarray], str] | None = None,
        cutting: Cutting | None = None,
        detector: str = "silero-vad/v6",
        begin: Callable[[], Talk] | None = None,
    ):
        if (recognise is None) == (begin is None):
            raise ValueError("a listener has either recognise or begin")
        self.cutting, self._recognise, self._begin = cutting or Cutting(), recognise, begin
        model, self._params = load(detector)
        self._judge = judge(model)
        self._carry: Any = model.init_carry(1)
        self._rest = np.zeros(0, np.float32)  # not yet a block
        self._sound: list[np.ndarray] = []  # blocks of the lead, or of the utterance
        self._speech: list[float] = []  # their likelihoods of speech
        self._speaking, self._told = False, 0
        self._talk: Talk | None = None
        self._said = Said((), "")
        self._took = 0.0  # ms of the utterance's recogniser that were not told
        self.samples = self.number = 0  # samples that were judged, utterances that have ended

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
            self._start()
        elif self._talk is not None:
            self._tell(block)
        quiet, long = blocks(cutting.silence), blocks(cutting.longest)
        if max(self._speech[-quiet:]) < cutting.end and len(self._speech) >= quiet:
            yield from self._finish(len(self._sound))
        elif self._talk is not None:
            pause = speech < cutting.end and len(self._sound) >= 2 * long // 3
            if pause or len(self._sound) >= long:
                yield from self._finish(len(self._sound))
            elif (news := self._news()) is not None:
                yield news
        elif len(self._sound) >= long:
            last = len(self._sound) // 3
            yield from self._finish(len(self._sound) - last + int(np.argmin(self._speech[-last:])))
            self._speaking, self._told = bool(self._sound), len(self._sound)
        elif cutting.every and len(self._sound) - self._told >= blocks(cutting.every):
            self._told = len(self._sound)
            yield self._written(len(self._sound), final=False)

    def _finish(self, count: int) -> Iterator[Utterance]:
        """The utterance of the first ``count`` blocks; the others begin the next."""
        spoken = sum(p >= self.cutting.end for p in self._speech[:count]) * BLOCK / RATE
        # a noise has no words, unless some were said already: those stay
        if spoken >= self.cutting.shortest or self._said.words:
            found = self._written(count, final=True)
            if found.text:
                yield found
        self._speaking, self._talk, self._said = False, None, Said((), "")
        self._took = 0.0
        self.number += 1
        del self._sound[:count], self._speech[:count]

    def _start(self) -> None:
        """An utterance begins with the sound that is kept."""
        if self._begin is not None:
            self._talk = self._begin()
            self._tell(np.concatenate(self._sound))

    def _tell(self, sound: np.ndarray) -> None:
        assert self._talk is not None
        began = time.perf_counter()
        self._heard = self._talk.push(sound)
        self._took += 1e3 * (time.perf_counter() - began)

    def _news(self) -> Utterance | None:
        """What is said and was not told, if there is any."""
        if self._heard == self._said or not (self._heard.words or self._heard.maybe):
            return None
        return self._of(self._heard, len(self._sound), final=False)

    def _of(self, said: Said, count: int, final: bool) -> Utterance:
        """An utterance of a talk, its words in seconds of the stream."""
        first = self.samples - len(self._sound) * BLOCK
        known, fresh = len(self._said.words), len(said.words) - len(self._said.words)
        words = tuple(self._placed(word, first / RATE) for word in said.words)
        text = " ".join([*(word.text for word in words), said.maybe]).strip()
        start, end = self._span(count)
        took, self._took = self._took, 0.0
        assert self._said.words == said.words[:known], "a final word was withdrawn"
        self._said = said
        now = self.samples / RATE
        return Utterance(start, end, text, final, now, took, words, fresh, self.number)

    def _placed(self, word: Word, start: float) -> Word:
        """A word in seconds of the stream, without the pauses at its ends."""
        first, last = int(word.start * RATE) // BLOCK, -int(-word.end * RATE // BLOCK)
        spoken = [
            i
            for i in range(first, min(last, len(self._speech)))
            if self._speech[i] >= self.cutting.end
        ]
        began, ended = word.start, word.end
        if spoken:
            began = max(began, spoken[0] * BLOCK / RATE)
            ended = max(began, min(ended, (spoken[-1] + 1) * BLOCK / RATE))
        return Word(word.text, start + began, start + ended, start + word.at)

    def _span(self, count: int) -> tuple[float, float]:
        """Seconds of the first and the last speech of ``count`` blocks."""
        first = self.samples - len(self._sound) * BLOCK
        spoken = [i for i, p in enumerate(self._speech[:count]) if p >= self.cutting.end]
        begin, end = (spoken[0], spoken[-1] + 1) if spoken else (0, count)
        return (first + begin * BLOCK) / RATE, (first + end * BLOCK) / RATE

    def _written(self, count: int, final: bool) -> Utterance:
        began = time.perf_counter()
        if self._talk is not None:
            said = self._talk.flush()
            self._took += 1e3 * (time.perf_counter() - began)
            return self._of(said, count, final)
        assert self._recognise is not None
        text = self._recognise(np.concatenate(self._sound[:count]))
        taken = 1e3 * (time.perf_counter() - began)
        now = self.samples / RATE
        return Utterance(*self._span(count), text, final, now, taken, number=self.number)

    def state(self) -> tuple[Json, dict[str, np.ndarray]]:
        """(plain data, arrays) from which :meth:`restore` goes on, elsewhere.

        The recogniser's own state is not among them: what was said of the utterance so far is
        heard again, from the sound that is kept of it, which gives the same words.
        """
        words, maybe = self._said
        plain: Json = {name: getattr(self, name) for name in NUMBERS}
        plain |= {"words": [list(word) for word in words], "maybe": maybe}
        arrays = {
            "rest": self._rest,
            "sound": np.concatenate([*self._sound, np.zeros(0, np.float32)]),
            "speech": np.asarray(self._speech, np.float64),
        }
        leaves = jax.tree.leaves(self._carry)
        return plain, arrays | {f"detector.{i}": np.asarray(a) for i, a in enumerate(leaves)}

    def restore(self, plain: Json, arrays: dict[str, np.ndarray]) -> None:
        """Goes on where another listener of the same cutting and recogniser was."""
        for name in NUMBERS:
            setattr(self, name, plain[name])
        self._rest, self._speech = arrays["rest"], arrays["speech"].tolist()
        self._sound = list(arrays["sound"].reshape(-1, BLOCK))
        tree = jax.tree.structure(self._carry)
        kept = [arrays[f"detector.{i}"] for i in range(tree.num_leaves)]
        self._carry = jax.tree.unflatten(tree, kept)
        if self._speaking:
            self._start()
        self._said = Said(tuple(Word(*word) for word in plain["words"]), plain["maybe"])

    def jump(self, sample: int) -> Iterator[Utterance]:
        """What was being said ends; what comes next is ``sample`` and those behind it.

        Raises:
          ValueError: it was heard already.
        """
        if sample < self.samples + len(self._rest):
            raise ValueError(f"sample {sample} was heard already")
        yield from self.flush()
        self._sound, self._speech, self.samples = [], [], sample


NUMBERS = ("samples", "number", "_speaking", "_told")


@functools.cache
def judge(model: Any) -> Any:
    """The detector's step, one program for all listeners."""
    return jax.jit(model.apply)
