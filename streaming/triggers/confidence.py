"""Thinking only where the first answer is unsure.

Source: Liu et al., "VideoAuto-R1: Video Auto Reasoning via Thinking Once, Answering Twice" (code:
IVUL-KAUST/VideoAuto-R1, lmms_eval/models/simple/early_exit.py): an answer in a box comes first, and
the model goes on to think unless its tokens were likely.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

BOX = re.compile(r"\\boxed\{([^{}]*)\}")
CHOICE = re.compile(r"\(?([A-Z])\)?(?:[\s.):,].*)?", re.DOTALL)
THINKS = "let's analyze"  # a first box with these words announces thought; it is no answer


def confidence(pieces: Sequence[str], surprise: Sequence[float]) -> float | None:
    """exp of the mean log-probability of the first boxed answer.

    Of a choice such as "(C) 12.5" the letter alone counts.

    Args:
      pieces: the text of every token.
      surprise: log-probability of every token.

    Returns:
      None without a box, or where the box says that the model goes on to think.
    """
    found = BOX.search("".join(pieces))
    if found is None or found[1].lower().startswith(THINKS) or not found[1].strip():
        return None
    first, last = found.span(1)
    if choice := CHOICE.fullmatch(found[1]):
        first, last = first + choice.start(1), first + choice.end(1)
    ends, at = [], 0
    for piece in pieces:
        at += len(piece)
        ends.append(at)
    own = [
        p
        for p, piece, end in zip(surprise, pieces, ends, strict=True)
        if end > first and end - len(piece) < last
    ]
    return math.exp(sum(own) / len(own))


@dataclass(frozen=True)
class Confidence:
    """Whether a first answer stands.

    Attributes:
      threshold: least confidence; at 0 it never thinks where there is an answer, above 1 always.
    """

    threshold: float = 0.97

    def begin(self) -> None:
        """There is nothing to remember."""
        return None

    def __call__(
        self, state: None, answer: tuple[Sequence[str], Sequence[float]]
    ) -> tuple[None, bool]:
        """(pieces, log-probabilities) of a first answer -> whether to think."""
        sure = confidence(*answer)
        return state, sure is None or sure < self.threshold
