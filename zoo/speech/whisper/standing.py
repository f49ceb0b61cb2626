"""Words of one stream by stable prefixes: what CarelessWhisper wrote, and may withdraw the end of.

The law is that of :mod:`.stable`: when audio has come, the last ``look`` tokens are asked for
again, the first that does not stand goes with all behind it, and the text is written on. Two
things are ours: a text is looked at in one pass and written on by another, not token by token over
all of it; and a token that was once in front of the last ``look`` stays, also where the text has
become shorter, so what is final is never withdrawn.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ....layers.streaming import Array, Params
from ..agreed import Agreeing
from ..hearing import RATE
from ..written import Prompt


@functools.partial(jax.jit, static_argnames="model")
def _judged(
    model: Any, params: Params, features: Array, seen: Array, told: Array, start: Array,
    never: Array, never_first: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """Of told [1, N], from the second on: (its logit, the token with the largest), [N - 1] each.

    start: where a text begins. never, never_first: [V] bool, as of :class:`~..written.Prompt`.
    """
    apply: Any = model.apply
    memory = apply(params, features, seen, told.shape[1], method="begin")
    logits = apply(params, memory, told, method="write")[1][0, :-1].astype(jnp.float32)
    first = (jnp.arange(logits.shape[0]) == start - 1)[:, None]
    logits = jnp.where(never[None] | (first & never_first[None]), -jnp.inf, logits)
    own = jnp.take_along_axis(logits, told[0, 1:, None], axis=1)[:, 0]
    return own, jnp.argmax(logits, axis=-1).astype(jnp.int32)


class Standing(Agreeing):
    """Tokens of one utterance; all but the last ``look`` are final. The rest as Agreeing.

    Args:
      every: seconds between two texts; a text is written when chunks of features are complete.
      look: tokens that may still be withdrawn.

    Raises:
      ValueError: a beam, for which the law says nothing, or nothing to look at.
    """

    def __init__(
        self, model: Any, params: Params, every: float = 0.3, longest: float = 15.0,
        pace: float = 6.5, begin: Prompt | None = None, beam: int = 1, look: int = 3,
    ):  # fmt: skip
        if beam != 1 or look < 1:
            raise ValueError(
                f"beam {beam}, look {look}: stable prefixes are of one text, and look at 1 token"
                " or more"
            )
        super().__init__(model, params, every, longest, pace, begin, beam)
        self.look = look
        self.logits = np.zeros(0, np.float32)  # of the text's tokens, with what was heard then

    def prepare(self) -> None:
        """Compiles what an utterance needs, so that none waits for it."""
        super().prepare()
        self._judge(())

    def _take(self, samples: int, ends: bool = False) -> None:
        sound, self.rest = self.rest[:samples], self.rest[samples:]
        self.samples += samples
        before = self.ready
        self._listen(sound)
        if not ends:  # features that are not final make no text
            self.count = self.ready
        if self.count and (ends or self.ready > before):
            self._grow(ends)

    def _grow(self, ends: bool) -> None:
        """The text when features have come."""
        first, text = len(self.tokens), self.last
        own, best = self._judge(text)
        complete = len(text) < len(best) and best[len(text)] == self.model.config.end
        for place in range(max(first, len(text) - self.look), len(text)):
            if own[place] < self.logits[place] and best[place] != text[place]:
                text = text[:place]
                break
        # a text that ended keeps to that, even if it lost tokens: they come with the next chunk
        if not complete or ends:
            self.tokens = text  # what is written behind, as if it were final
            text = self._write()
            own, _ = self._judge(text)
        self.last = text
        self.logits = own[: len(self.last)]
        final = len(self.last) if ends else max(first, len(self.last) - self.look)
        self.tokens = self.last[:final]
        self.at = self.at + (self.samples / RATE,) * (final - len(self.at))

    def _judge(self, text: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """(logits of the text's tokens, what would be best in their places)."""
        prompt, room = self.begin.tokens, self.room + len(self.begin.tokens)
        told = np.zeros((1, room), np.int32)
        told[0, : len(prompt) + len(text)] = (*prompt, *text)
        bans = self._banned(self.begin.never), self._banned(self.begin.never_first)
        seen = np.arange(self.features.shape[1])[None] < self.count
        given = (self.features, seen, told, np.int32(len(prompt)), *bans)
        found = _judged(self.model, self.params, *given)
        own, best = (np.asarray(a)[len(prompt) - 1 :] for a in found)
        return own, best
