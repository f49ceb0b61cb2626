"""Text that grows with the audio: CarelessWhisper's stable prefixes.

Source: Krichli et al., "CarelessWhisper" (arXiv 2508.12301). When a chunk has come, the last tokens
are asked for again: one whose logit fell, and which is not the best any more, goes, and all behind
it. Then tokens are added, the best after the other, until the text's end is better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Logits = np.ndarray  # [N, V]: row i is of the token behind token i


class Text(NamedTuple):
    """tokens, the prompt among them; logits [N, V] when they were last asked for, None before."""

    tokens: tuple[int, ...]
    logits: Logits | None = None


def unstable(tokens: Sequence[int], logits: Logits, before: Logits, look: int) -> int | None:
    """The place of the first of the last ``look`` tokens that does not stand, None if all do."""
    for place in range(max(len(tokens) - look, 1), len(tokens)):
        row, token = logits[place - 1], tokens[place]
        fell = place - 1 < len(before) and row[token] < before[place - 1][token]
        if fell and int(row.argmax()) != token:
            return place
    return None


def updated(text: Text, logits: Logits, end: int, look: int | None) -> tuple[Text, bool]:
    """One pass: (the text after it, whether it is complete).

    Args:
      text: its logits are those of the pass before.
      logits: [N, V] of its tokens now.
      end: the token that ends a text; it is not added.
      look: so many of the last tokens are examined; None: none, they are new.

    A text that lost tokens gets none in the same pass.
    """
    complete = int(logits[-1].argmax()) == end
    if look is not None and text.logits is not None:
        place = unstable(text.tokens, logits, text.logits, look)
        if place is not None:
            return Text(text.tokens[:place], logits), complete
    if complete:
        return Text(text.tokens, logits), True
    return Text((*text.tokens, int(logits[-1].argmax())), logits), False


def grown(
    text: Text,
    ask: Callable[[Sequence[int]], Logits],
    end: int,
    look: int = 3,
    most: int = 20,
) -> Text:
    """The text when another chunk has come.

    Args:
      ask: tokens -> logits [N, V] with the audio that is there now.
      look: tokens that may still be withdrawn; all before them stay.
      most: passes at most, so that a loop ends.
    """
    for number in range(most):
        text, complete = updated(text, ask(text.tokens), end, None if number else look)
        if complete:
            break
    return text
