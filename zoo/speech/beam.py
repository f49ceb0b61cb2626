"""The best labels, not the best symbol of each frame: prefix search of CTC and of transducers.

A prefix is the labels that were said so far. Its probability is the sum over every way to lay it on
the frames, so ways that say the same are joined; after each frame the best prefixes are kept. With
as many kept as there can be, the search is exact.

Sources: Hannun et al., "First-Pass Large Vocabulary Continuous Speech Recognition using
Bi-Directional Recurrent DNNs" (arXiv 1408.2873), algorithm 1, without its language model; Saon et
al., "Alignment-Length Synchronous Decoding for RNN Transducer" (ICASSP 2020), section 3.1, the
time-synchronous form that it compares with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Prefix = tuple[int, ...]
NEVER = -np.inf


def best_of(scores: dict[Prefix, Any], beam: int, key: Callable[[Any], float]) -> dict[Prefix, Any]:
    """The ``beam`` best entries, best first; of equal ones the smaller prefix."""
    rows = sorted(scores.items(), key=lambda item: (-key(item[1]), item[0]))
    return dict(rows[:beam])


class CTCBeam:
    """Prefixes of one utterance, frame by frame.

    Args:
      beam: prefixes that are kept.
      blank: the symbol that says nothing.

    Raises:
      ValueError: no prefix is kept.
    """

    def __init__(self, beam: int, blank: int = 0):
        self.beam, self.blank = _at_least_one(beam), blank
        # log-probabilities of the ways that end in a blank, and of those that end in a label
        self.prefixes: dict[Prefix, tuple[float, float]] = {(): (0.0, NEVER)}

    def push(self, log_probs: np.ndarray) -> None:
        """log_probs [V] of one frame."""
        after: dict[Prefix, list[float]] = {}

        def add(prefix: Prefix, place: int, value: float) -> None:
            row = after.setdefault(prefix, [NEVER, NEVER])
            row[place] = float(np.logaddexp(row[place], value))

        for prefix, (quiet, said) in self.prefixes.items():
            both = np.logaddexp(quiet, said)
            add(prefix, 0, both + log_probs[self.blank])
            if prefix:
                add(prefix, 1, said + log_probs[prefix[-1]])
            for label in range(len(log_probs)):
                if label != self.blank:
                    # the same label anew needs a blank between
                    before = quiet if prefix and label == prefix[-1] else both
                    add((*prefix, label), 1, before + log_probs[label])
        kept = best_of(after, self.beam, lambda row: float(np.logaddexp(*row)))
        self.prefixes = {prefix: (row[0], row[1]) for prefix, row in kept.items()}

    def scores(self) -> dict[Prefix, float]:
        """log P of each prefix as the whole text, best first."""
        joined = {p: float(np.logaddexp(*row)) for p, row in self.prefixes.items()}
        return best_of(joined, self.beam, float)


class TransducerBeam:
    """Prefixes of one utterance, frame by frame.

    Args:
      beam: prefixes that are kept.
      ask: (frame, prefixes) -> log-probabilities [N, V] of the symbol behind each prefix.
      most: labels of one frame at most.
      blank: the symbol that goes on to the next frame.

    Raises:
      ValueError: no prefix is kept.
    """

    def __init__(
        self,
        beam: int,
        ask: Callable[[Any, Sequence[Prefix]], np.ndarray],
        most: int,
        blank: int = 0,
    ):
        self.beam, self.ask, self.most, self.blank = _at_least_one(beam), ask, most, blank
        self.prefixes: dict[Prefix, float] = {(): 0.0}

    def push(self, frame: Any) -> None:
        """One frame, as ``ask`` takes it."""
        after: dict[Prefix, float] = {}
        going = self.prefixes
        for count in range(self.most + 1):
            rows = self.ask(frame, [*going])
            longer: dict[Prefix, float] = {}
            for (prefix, score), row in zip(going.items(), rows, strict=True):
                _join(after, prefix, score + row[self.blank])
                if count == self.most:
                    continue
                # more than ``beam`` labels of one prefix cannot stay
                labels = [int(v) for v in np.argsort(-row, kind="stable") if v != self.blank]
                for label in labels[: self.beam]:
                    _join(longer, (*prefix, label), score + row[label])
            going = best_of(longer, self.beam, float)
            if not going:
                break
        self.prefixes = best_of(after, self.beam, float)

    def scores(self) -> dict[Prefix, float]:
        """log P of each prefix as the whole text, best first."""
        return self.prefixes


def agreed(prefixes: Sequence[Prefix]) -> Prefix:
    """What all prefixes begin with: nothing of it can be withdrawn."""
    low, high = min(prefixes), max(prefixes)
    count = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), None)
    return low[: min(len(low), len(high)) if count is None else count]


def _join(scores: dict[Prefix, float], prefix: Prefix, value: float) -> None:
    scores[prefix] = float(np.logaddexp(scores.get(prefix, NEVER), value))


def _at_least_one(beam: int) -> int:
    if beam < 1:
        raise ValueError(f"beam {beam}: at least one prefix is kept")
    return beam
