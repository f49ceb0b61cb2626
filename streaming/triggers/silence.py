"""Speaking as a model's own decision: a token of silence, a caption that no longer fits, a head.

Sources: Chen et al., "VideoLLM-online" (arXiv 2406.11816), section 3.3; Yang et al., "LiveStar"
(arXiv 2511.05299), streaming verification decoding; Qian et al., "Dispider" (arXiv 2501.03218).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .gate import Gate, GateState


@dataclass(frozen=True)
class Interval:
    """A frame is answered by the token that says "nothing yet", or by the first word of a reply.

    The token of silence has to reach ``threshold``, or it is out, even where it is the most likely
    by far; so the threshold is a model's own, to be set by its quantiles (:meth:`calibrated`).

    Attributes:
      token: number of the token of silence.
      threshold: least probability at which it is believed.
    """

    token: int
    threshold: float = 0.725

    def begin(self) -> None:
        """There is nothing to remember."""
        return None

    def __call__(self, state: None, logits: np.ndarray) -> tuple[None, int]:
        """logits [V] behind a frame -> the token that follows, :attr:`token` for silence."""
        p = _softmax(logits)
        if p[self.token] < self.threshold:
            p[self.token] = 0.0
        return state, int(p.argmax())

    def probability(self, logits: np.ndarray) -> float:
        """Of the token of silence."""
        return float(_softmax(logits)[self.token])

    @classmethod
    def calibrated(cls, token: int, silent: np.ndarray, share: float) -> Interval:
        """The threshold at which ``share`` of frames would be spoken at, by the probabilities
        ``silent`` [F] of silence on frames of one's own."""
        return cls(token, float(np.quantile(np.asarray(silent), share)))


class VerifyState(NamedTuple):
    """reference: perplexity of the last caption at the frame that it was said of."""

    reference: float


@dataclass(frozen=True)
class Verify:
    """A caption stands while it is about as likely, given the new frame, as when it was said.

    Attributes:
      factor: of the perplexity, above which there is something new to say.
    """

    factor: float = 1.03

    def begin(self) -> VerifyState:
        """Nothing was said: the first frame is spoken at."""
        return VerifyState(-math.inf)

    def __call__(self, state: VerifyState, perplexity: float) -> tuple[VerifyState, bool]:
        """Perplexity of the last caption given the frames so far -> whether to speak. After a new
        caption the state is :meth:`said`."""
        return state, perplexity > self.factor * state.reference

    def said(self, perplexity: float) -> VerifyState:
        """A caption was said; its perplexity at its own frame."""
        return VerifyState(perplexity)


def perplexity(logits: np.ndarray, tokens: np.ndarray) -> float:
    """exp of the mean surprise of ``tokens`` [N], each given its logits [N, V]."""
    own = np.asarray(logits, np.float64)
    top = own.max(axis=-1, keepdims=True)
    total = np.log(np.exp(own - top).sum(axis=-1)) + top[:, 0]
    return float(np.exp((total - own[np.arange(len(own)), np.asarray(tokens)]).mean()))


@dataclass(frozen=True)
class Speak:
    """A head's logit: above 0, answer now. Dispider's code calls this head "silent".

    Attributes:
      gate: what keeps it from chattering; the plain sign by default.
    """

    gate: Gate = Gate(0.0, repeat=True)

    def begin(self) -> GateState:
        """Ready."""
        return self.gate.begin()

    def __call__(self, state: GateState, logit: float) -> tuple[GateState, bool]:
        """One clip's logit."""
        if logit == self.gate.on:  # the sign of nothing is silence
            logit = math.nextafter(logit, -math.inf)
        return self.gate(state, logit)


def _softmax(logits: np.ndarray) -> np.ndarray:
    own = np.asarray(logits, np.float64)
    p = np.exp(own - own.max())
    return p / p.sum()
