"""StreamingVLM: what was said outlives what was seen, and both have a budget.

Source: Xu et al., "StreamingVLM: Real-Time Understanding for Infinite Video Streams" (arXiv
2510.09608) and its code, mit-han-lab/streaming-vlm. A conversation has turns: what a user shows
(a time, a picture, maybe a question) and a reply. Words of old replies move to the front as
"previous text"; pictures, times and turns leave by age.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from ..memory import Slots
from ..streaming import Array
from .contiguous import Contiguous, drop, move, trim

HEAD, PAST, TALK = 0, 1, 2  # segments: what comes first, previous text, the turns
# what a row is, in its turn: of the user's side, the time, a picture, the reply's frame (who speaks
# and where it ends), its words, and its mark of silence
USER, TIME, VISION, FRAME, WORD, SILENT = range(6)


@dataclass(frozen=True)
class StreamingVLM(Contiguous):
    """Turns whose replies, pictures and times leave at ages of their own.

    Attributes:
      text_rounds: turns that keep their reply in place.
      visual_rounds: turns that keep their picture.
      sink, window: first and latest rows of the previous text that stay; of its window one row
        fewer, as in the authors' code, whose figures count the line feed.
      cut: the last row of a reply that ages is dropped even where it is a word, as the authors'
        code does when a reply ended by its limit.
    """

    text_rounds: int = 16
    visual_rounds: int = 16
    sink: int = 512
    window: int = 512
    cut: bool = False

    @property
    def pinned(self) -> int:
        """Turns leave before what stands in front of them, where a turn is longer than the room."""
        return TALK

    def begin_turn(self, slots: Slots, turn: Array | int) -> Slots:
        """What leaves before turn ``turn`` (from 0) comes."""
        texts, pictures = self.text_rounds, self.visual_rounds
        turn = jnp.asarray(turn, jnp.int32)
        slots = self._age_reply(slots, turn >= texts, also_time=pictures > texts)
        if pictures < texts:
            rows = self._rows(slots, VISION)
            slots = drop(slots, self._oldest(slots, rows) & rows & (turn >= pictures))
        rows = self._rows(slots, USER, TIME, VISION)
        late = turn >= max(texts, pictures)
        slots = drop(slots, self._oldest(slots, rows) & rows & late)
        past = self._held(slots, PAST)
        full = past.sum(axis=1, keepdims=True) >= self.sink + self.window
        return trim(slots, past & full, self.sink, self.window - 1)

    def _age_reply(self, slots: Slots, late: Array, also_time: bool) -> Slots:
        """The oldest reply in place: its words become previous text, the rest of it leaves."""
        reply = self._rows(slots, FRAME, WORD, SILENT)
        mine = self._oldest(slots, reply) & late
        words = reply & mine & (slots.notes["role"] == WORD)
        if self.cut:
            said = reply & mine & (slots.notes["role"] != FRAME)
            last = jnp.max(jnp.where(said, slots.notes["serial"], -1), axis=1, keepdims=True)
            words &= slots.notes["serial"] != last
        slots = drop(slots, reply & mine & ~words)
        if also_time:
            slots = drop(slots, self._rows(slots, TIME) & mine)
        return move(slots, words, PAST)

    @staticmethod
    def _held(slots: Slots, segment: int) -> Array:
        return (slots.notes["serial"] >= 0) & (slots.notes["segment"] == segment)

    def _rows(self, slots: Slots, *roles: int) -> Array:
        """[B, C] bool: rows of the turns that are one of these."""
        role = slots.notes["role"]
        which = jnp.any(jnp.stack([role == one for one in roles]), axis=0)
        return self._held(slots, TALK) & which

    @staticmethod
    def _oldest(slots: Slots, rows: Array) -> Array:
        """[B, C] bool: of the oldest turn that has any of ``rows``."""
        turn = slots.notes["turn"]
        first = jnp.min(jnp.where(rows, turn, jnp.iinfo(jnp.int32).max), axis=1, keepdims=True)
        return turn == first
