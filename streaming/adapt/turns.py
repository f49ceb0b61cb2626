"""Live translation among many: one speaks at a time, so that work grows with people, not pairs.

N people who may all speak at once, each in a language of their own, need N (N - 1) translations
at a time; where one has the floor it is N - 1. Speech is translated in segments; it is played a
constant time after it was said if a segment takes no longer to translate than to say.

Source: the turn-taking and segmented processing of generative video translation for conferencing
systems, whose text is public and whose code is not; the playout times are plain queueing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence


class Turns:
    """Who has the floor, who waits for it, in the order of asking.

    Args:
      longest: seconds of a turn while somebody waits.
    """

    def __init__(self, longest: float = 30.0):
        if not longest > 0:
            raise ValueError(f"longest={longest}: a turn takes more than 0 seconds")
        self.longest = longest
        self.speaker: Hashable | None = None
        self._since, self._waiting = 0.0, deque[Hashable]()

    def ask(self, who: Hashable, now: float) -> bool:
        """Somebody starts to speak; True if they have the floor."""
        if self.speaker is None:
            self.speaker, self._since = who, now
        elif who != self.speaker and who not in self._waiting:
            self._waiting.append(who)
        self.tick(now)
        return self.speaker == who

    def leave(self, who: Hashable, now: float) -> None:
        """Somebody ends, or waits no longer."""
        if who in self._waiting:
            self._waiting.remove(who)
        elif who == self.speaker:
            self._next(now)

    def tick(self, now: float) -> None:
        """Time passes: a turn that is too long ends if somebody waits."""
        if self._waiting and now - self._since >= self.longest:
            self._next(now)

    def _next(self, now: float) -> None:
        self.speaker = self._waiting.popleft() if self._waiting else None
        self._since = now

    def translations(self, people: int) -> int:
        """Translations that run now, for ``people`` of different languages."""
        return people - 1 if self.speaker is not None else 0


def playout(
    segments: Sequence[float], factor: float, first: float | None = None
) -> tuple[list[float], float]:
    """When translated segments are played.

    Args:
      segments: seconds of each, said one after the other from 0 on.
      factor: seconds of work per second of speech.
      first: seconds after which the first one is played; None: as soon as it is there.

    Returns:
      (start of each segment, seconds of silence between them).
    """
    said = ready = 0.0
    starts, end, silence = [], None, 0.0
    for length in segments:
        said += length
        ready = max(said, ready) + factor * length
        start = max(ready, first or 0.0) if end is None else max(ready, end)
        silence += 0.0 if end is None else start - end
        starts.append(start)
        end = start + length
    return starts, silence
