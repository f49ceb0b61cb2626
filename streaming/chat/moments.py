"""The past of a stream, to be looked for by time and by what was told of it.

Every moment keeps its words and their vector; a search compares a text's vector with all of them,
so nothing is missed by an index that guesses. A day of moments, one every two seconds, is 33 MB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

Encode = Callable[[Sequence[str]], np.ndarray]  # texts -> [N, D], of length 1


class Moment(NamedTuple):
    """time: seconds in the stream; score: how near it is, -1 to 1; text: what was told then."""

    time: float
    score: float
    text: str


class Moments:
    """Moments are added at the end, and the ``most`` latest are kept.

    Args:
      encode: texts to vectors (``zoo.text.Sentences``).
      most: moments; of more, the oldest is forgotten for every new one, and counted in
        ``forgotten``.

    Raises:
      ValueError: no moments.
    """

    def __init__(self, encode: Encode, most: int = 100_000):
        if most < 1:
            raise ValueError(f"{most} moments: at least 1")
        self._encode, self.most = encode, most
        self._vectors = np.zeros((0, 0), np.float16)
        self._times = np.zeros(0)
        self._texts: list[str] = []
        self._added = 0  # moments that have a vector, of all that came
        self._waiting: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return min(self._added + len(self._waiting), self.most)

    @property
    def forgotten(self) -> int:
        """Moments that came before those that are kept."""
        return self._added + len(self._waiting) - len(self)

    @property
    def nbytes(self) -> int:
        """Of vectors and times."""
        return self._vectors.nbytes + self._times.nbytes

    def add(self, time: float, text: str) -> None:
        """A moment; its vector is made when somebody searches, or when many wait.

        Raises:
          ValueError: an earlier time than the moment before has.
        """
        last = self._waiting[-1][0] if self._waiting else self._last()
        if time < last:
            raise ValueError(f"a moment at {time:g} s behind one at {last:g} s")
        self._waiting.append((time, text))
        if len(self._waiting) >= min(256, self.most):
            self._take()

    def search(
        self,
        text: str,
        count: int = 5,
        *,
        after: float = -math.inf,
        before: float = math.inf,
        apart: float = 0.0,
    ) -> list[Moment]:
        """The moments whose words are nearest to a text, best first, of equals the latest.

        Args:
          text: what is looked for.
          count: at most so many.
          after, before: seconds; moments at these times are among them.
          apart: seconds; of moments nearer to each other than this, the best alone is told.

        Raises:
          ValueError: nothing is looked for.
        """
        if not text.strip():
            raise ValueError("an empty text: there is nothing to look for")
        self._take()
        if not self._texts:
            return []
        vector = np.asarray(self._encode([text]), np.float32)[0]
        held = len(self._texts)
        score = self._vectors[:held].astype(np.float32) @ vector
        times = self._times[:held]
        score = np.where((times >= after) & (times <= before), score, -np.inf)
        found: list[Moment] = []
        for i in np.lexsort((-times, -score)):
            if len(found) >= count or score[i] == -np.inf:
                break
            if all(abs(times[i] - other.time) >= apart for other in found):
                found.append(Moment(float(times[i]), float(score[i]), self._texts[i]))
        return found

    def recalled(self, question: str, count: int, fits: Callable[[str], bool]) -> str:
        """The words of the moments that a question is about, in the order of time: of the best
        ``count`` as many as fit, "" for none."""
        moments = self.search(question, count)
        while moments:
            words = " ".join(m.text for m in sorted(moments))
            if fits(words):
                return words
            moments.pop()
        return ""

    def _last(self) -> float:
        return float(self._times[(self._added - 1) % self.most]) if self._added else -math.inf

    def _take(self) -> None:
        """Those that wait get their vectors."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        vectors = np.asarray(self._encode([text for _, text in waiting]), np.float16)
        for (time, text), vector in zip(waiting, vectors, strict=True):
            at = self._added % self.most
            if at >= len(self._times):
                self._grow(len(vector))
            if at < len(self._texts):
                self._texts[at] = text
            else:
                self._texts.append(text)
            self._times[at], self._vectors[at] = time, vector
            self._added += 1

    def _grow(self, dim: int) -> None:
        room = min(self.most, max(64, 2 * len(self._times)))
        vectors, times = np.zeros((room, dim), np.float16), np.zeros(room)
        held = len(self._times)
        times[:held] = self._times
        if held:
            vectors[:held] = self._vectors
        self._vectors, self._times = vectors, times


def moments_of(rounds: Iterable[tuple[float, str]], encode: Encode) -> Moments:
    """All at once, of times and texts in order."""
    made = Moments(encode)
    for time, text in rounds:
        made.add(time, text)
    return made
