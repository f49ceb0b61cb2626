"""Whether words have a ground: a small model likes to add what nobody told it.

Every word of a sentence that says something (no "the", no "is"), and every number, has to be among
those that it was told. That is no proof that the sentence is true; where it fails, it is invented.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Sequence

# words that say nothing by themselves, and how one speaks of a picture
PLAIN = frozenset(
    """a about after again all also am an and another any are as at be been before being
    both but by camera can did do does down each few for from had has have he her here him
    his how i if in into is it its just me more most moment my new next no none nobody not
    now of off on one only or other our out over picture saw scene see seen she since so
    some still than that the their them then there these they this those through to too two
    under until up us very was we were what when where which while who whom why will with
    yes you your""".split()
)


def stem(word: str) -> str:
    """A word without its ending, roughly: moved, moves and moving are one."""
    for ending in ("ing", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    return word


def content(text: str) -> set[str]:
    """The words and numbers that say something."""
    words = re.findall(r"[^\W_]+(?:\.\d+)?", text.lower())
    return {stem(w) for w in words if w not in PLAIN}


def repeats(tokens: Sequence[int], least: int = 4) -> bool:
    """Whether the last tokens are the same as those before them: a small model that has begun to
    say the same again does not stop by itself. ``least``: tokens of what is said twice."""
    return any(tokens[-n:] == tokens[-2 * n : -n] for n in range(least, len(tokens) // 2 + 1))


class Told:
    """What was told, as words; of the last ``rounds`` rounds."""

    def __init__(self, rounds: int = 64):
        self._rounds: collections.deque[set[str]] = collections.deque(maxlen=rounds)

    def add(self, text: str) -> None:
        """A round."""
        self._rounds.append(content(text))

    def supports(self, text: str, question: str = "") -> bool:
        """Whether nothing in it is new; a question's own words may be said again."""
        known = set[str]().union(*self._rounds) | content(question) | {"people", "person"}
        return content(text) <= known
