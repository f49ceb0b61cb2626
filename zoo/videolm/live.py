"""A model that is shown frames and says by itself when there is something to say.

Source: Chen et al., "VideoLLM-online: Online Video Large Language Model for Streaming Video" (arXiv
2406.11816), section 3.3, and its code, showlab/videollm-online (demo/inference.py): after every
frame the next token is the token of silence, which stays before the next frame, or a reply begins.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from ...layers.memory import Slots
from ...layers.streaming import Array, DType, Params
from ...layers.transformer import ACTIVATIONS
from ..text.decoder.model import Decoder


class Connector(nn.Module):
    """Features of a frame [..., V] -> tokens [..., D]: two layers."""

    dim: int
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.Dense(self.dim, dtype=self.dtype, name="up")(x)
        return nn.Dense(self.dim, dtype=self.dtype, name="down")(ACTIVATIONS["gelu"](x))


class LiveState(NamedTuple):
    """memory: of the model; pending: tokens that were chosen and are not in it yet."""

    memory: Slots
    pending: tuple[int, ...]


class Heard(NamedTuple):
    """logits [V] behind the frame; reply: the tokens of what was said, () for silence."""

    logits: np.ndarray
    reply: tuple[int, ...]


@functools.partial(jax.jit, static_argnames="model")
def _read(model: Decoder, params: Params, memory: Slots, tokens: Array, features: Array, seen):
    apply: Any = model.apply
    words = apply(params, tokens, method=lambda m, ids: m.embed(ids))
    x = jax.numpy.where(seen[..., None], features, words)
    memory, logits = apply(params, memory, None, features=x)
    return memory, logits[0, -1]


@dataclass(frozen=True)
class Live:
    """The loop of one stream.

    Attributes:
      model, params: of a :class:`Decoder`.
      decide: logits [V] behind a frame -> the token that follows (``Interval`` of the triggers).
      silence: the token that says nothing yet.
      start: tokens before the first frame.
      again: tokens between a reply that ended and the next frame.
      prompt: tokens that a reply begins with.
      limit: tokens of a reply.
    """

    model: Decoder
    params: Params
    decide: Callable[[np.ndarray], int]
    silence: int
    start: Sequence[int] = ()
    again: Sequence[int] = ()
    prompt: Sequence[int] = ()
    limit: int = 64

    def begin(self) -> LiveState:
        """Nothing was shown."""
        return LiveState(self.model.init_carry(1), tuple(self.start))

    def push(self, state: LiveState, frame: np.ndarray) -> tuple[LiveState, Heard]:
        """One frame's tokens [N, D], embedded -> what is said."""
        pending = state.pending
        if pending[-1:] == (self.model.config.end,):
            pending = (*pending, *self.again)
        memory, logits = self._read(state.memory, pending, frame)
        token = self.decide(logits)
        if token == self.silence:
            return LiveState(memory, (token,)), Heard(logits, ())
        words, fed = list[int](), tuple(self.prompt)
        for _ in range(self.limit):
            memory, behind = self._read(memory, fed, frame[:0])
            words.append(int(behind.argmax()))
            fed = (words[-1],)
            if words[-1] == self.model.config.end:
                break
        return LiveState(memory, fed), Heard(logits, tuple(words))

    def _read(
        self, memory: Slots, words: Sequence[int], frame: np.ndarray
    ) -> tuple[Slots, np.ndarray]:
        count = len(words) + len(frame)
        tokens, seen = np.zeros((1, count), np.int32), np.zeros((1, count), bool)
        features = np.zeros((1, count, self.model.config.dim), np.float32)
        tokens[0, : len(words)] = words
        features[0, len(words) :], seen[0, len(words) :] = frame, True
        memory, logits = _read(self.model, self.params, memory, tokens, features, seen)
        return memory, np.asarray(logits)
