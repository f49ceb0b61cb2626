"""Dispider's decision: after every clip, whether to answer now.

Source: Qian et al., "Dispider: Enabling Video LLMs with Active Real-Time Interaction via
Disentangled Perception, Decision, and Reaction" (arXiv 2501.03218) and its code, Mark12Ding/
Dispider. A clip is encoded by itself; the decision reads the clips since the last answer, and what
was before as one token a clip. Their head is called "silent", and is positive where it speaks.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...layers.streaming import Array, Params
from ..text.decoder.model import Decoder

LENGTH = 64  # a decision is padded to a multiple of it


class DeciderState(NamedTuple):
    """clips, times: states of the clips since the last answer, [n, M, D] and [n, 1, D]; past: what
    was before, a summary for each answer."""

    clips: tuple[np.ndarray, ...] = ()
    times: tuple[np.ndarray, ...] = ()
    past: tuple[np.ndarray, ...] = ()


@functools.partial(jax.jit, static_argnames="model")
def _encode(model: Decoder, params: Params, x: Array, count: Array) -> Array:
    apply: Any = model.apply
    valid = jnp.arange(x.shape[1])[None] < count
    return apply(params, model.init_carry(1), None, valid, features=x, method=Decoder.read)[1]


class Decider:
    """Clip by clip.

    Args:
      model, params: a :class:`Decoder` whose memory holds a whole decision.
      head: [D], of the state behind it all.
      question, answered, todo: embedded tokens [n, D]: what is asked, the mark of an answer, and
        the one whose state decides.
      longest: clips since the last answer that are read; older ones are summed up as if they had
        been answered, so that the work has a bound.
    """

    def __init__(
        self, model: Decoder, params: Params, head: np.ndarray, question: np.ndarray,
        answered: np.ndarray, todo: np.ndarray, longest: int = 32,
    ):  # fmt: skip
        self.model, self.params, self.head = model, params, np.asarray(head).reshape(-1)
        self.question, self.answered, self.todo = question, answered, todo
        self.longest = longest

    def begin(self) -> DeciderState:
        """No clips seen."""
        return DeciderState()

    def push(
        self, state: DeciderState, clip: np.ndarray, memory: np.ndarray, time: np.ndarray
    ) -> tuple[DeciderState, float]:
        """One clip.

        Args:
          clip: [N, D] embedded tokens.
          memory, time: [N] bool, which of them hold its content and its time.

        Returns:
          (state, logit: above 0 it is time to answer, and the state is that after the answer).
        """
        found = self._run([clip])
        state = state._replace(
            clips=(*state.clips, found[memory]), times=(*state.times, found[time])
        )
        first = [self.answered, self.question]
        for summary in state.past:
            first += [summary, self.answered]
        hidden = self._run([*first, *state.clips, self.question, self.todo])
        logit = float(hidden[-1] @ self.head)
        if logit > 0 or len(state.clips) >= self.longest:
            state = DeciderState((), (), (*state.past, self._summed(state)))
        return state, logit

    def _summed(self, state: DeciderState) -> np.ndarray:
        """One state for each clip."""
        hidden = self._run([*state.clips, *state.times])
        return hidden[-sum(len(t) for t in state.times) :]

    def _run(self, parts: list[np.ndarray]) -> np.ndarray:
        x = np.concatenate(parts)
        count = len(x)  # programs are compiled for a few lengths
        x = np.pad(x, ((0, -count % LENGTH), (0, 0)))[None]
        return np.asarray(_encode(self.model, self.params, x, np.int32(count)))[0, :count]
