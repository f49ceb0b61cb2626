"""What one stream says by beam search: final is what all texts that are kept begin with."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ....layers.streaming import Array, Params
from ..beam import CTCBeam, Prefix, TransducerBeam, agreed
from .model import FastConformer
from .recognise import Head, Recogniser


class Heard(NamedTuple):
    """final: tokens that stay. provisional: those of the best text behind them."""

    final: Prefix
    provisional: Prefix


@functools.partial(jax.jit, static_argnames="model")
def _hear(model: FastConformer, params: Params, carry: Any, audio: Array) -> Any:
    return model.apply(params, carry, audio)


@functools.partial(jax.jit, static_argnames="model")
def _end(model: FastConformer, params: Params, carry: Any) -> Any:
    return model.apply(params, carry, method="flush")[1]


@functools.partial(jax.jit, static_argnames=("model", "method"))
def _of(model: FastConformer, params: Params, x: Array, method: str) -> Array:
    apply: Any = model.apply
    return apply(params, x, method=method)


@functools.partial(jax.jit, static_argnames="model")
def _predict(model: FastConformer, params: Params, states: Any, last: Array) -> Any:
    return model.apply(params, states, last, method="predict")


@functools.partial(jax.jit, static_argnames="model")
def _join(model: FastConformer, params: Params, frame: Array, said: Array) -> Array:
    wide = jnp.broadcast_to(frame, (said.shape[0], *frame.shape[1:]))
    apply: Any = model.apply
    return jax.nn.log_softmax(apply(params, wide, said, method="join"))


@dataclasses.dataclass
class BeamRecogniser:
    """Tokens of one stream: ``push`` its audio, ``flush`` at its end.

    Attributes:
      model, params: with this head.
      head: ``ctc`` or ``transducer``.
      beam: texts that are kept.

    Raises:
      ValueError: a head that the model has not, or no text is kept.
    """

    model: FastConformer
    params: Params
    head: Head = "transducer"
    beam: int = 4

    def __post_init__(self):
        Recogniser(self.model, self.head)  # refuses
        c = self.model.config
        self.carry: Any = self.model.init_carry(1)
        self._after: dict[Prefix, tuple[Any, Array]] = {}  # the predictor behind each prefix
        if self.head == "ctc":
            self.search: CTCBeam | TransducerBeam = CTCBeam(self.beam, c.blank)
        else:
            self.search = TransducerBeam(self.beam, self._ask, c.most, c.blank)

    def push(self, audio: Any) -> Heard:
        """audio [T] floats from -1 to 1 at 16 kHz -> all that was said so far."""
        audio = jnp.asarray(audio)[None]
        self.carry, out = _hear(self.model, self.params, self.carry, audio)
        return self._take(out)

    def flush(self) -> Heard:
        """All that was said, all of it final; nothing is heard after it."""
        rest = _end(self.model, self.params, self.carry)
        if rest is not None:
            self._take(rest)
        best = next(iter(self.search.scores()))
        return Heard(best, ())

    def _take(self, out: Any) -> Heard:
        there = np.asarray(out.valid[0])
        if there.any():
            ctc = self.head == "ctc"
            rows = _of(self.model, self.params, out.x, "ctc" if ctc else "heard")[0]
            rows = np.asarray(jax.nn.log_softmax(rows) if ctc else rows)[there]
            for row in rows:
                self.search.push(row if ctc else row[None])
                kept = self.search.prefixes
                self._after = {p: s for p, s in self._after.items() if p in kept}
        texts = [*self.search.scores()]
        final = agreed(texts)
        return Heard(final, texts[0][len(final) :])

    def _ask(self, frame: np.ndarray, prefixes: Sequence[Prefix]) -> np.ndarray:
        """Log-probabilities [N, V] behind prefixes; each new one is a step of the predictor."""
        said = jnp.concatenate([self._state(p)[1] for p in prefixes])
        room = -len(said) % self.beam  # one program for all counts
        said = jnp.pad(said, ((0, room), (0, 0)))
        return np.asarray(_join(self.model, self.params, frame, said))[: len(prefixes)]

    def _state(self, prefix: Prefix) -> tuple[Any, Array]:
        if prefix not in self._after:
            c = self.model.config
            before = self._state(prefix[:-1])[0] if prefix else self.model.said_nothing(1)
            last = jnp.full((1, 1), prefix[-1] if prefix else c.blank, jnp.int32)
            states, y = _predict(self.model, self.params, before, last)
            self._after[prefix] = (states, y[:, 0])
        return self._after[prefix]
