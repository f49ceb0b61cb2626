"""Words of one stream of audio while it goes on: CarelessWhisper's encoder and stable prefixes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ....layers.streaming import Array, Params
from .model import CarelessWhisper
from .stable import Logits, Text, grown
from .transcribe import Prompt


class Spoken(NamedTuple):
    """final: tokens that stay; provisional: the last ones, which may still be withdrawn."""

    final: tuple[int, ...]
    provisional: tuple[int, ...]


@functools.partial(jax.jit, static_argnames="model")
def _hear(model: CarelessWhisper, params: Params, carry: Any, audio: Array) -> Any:
    return model.apply(params, carry, audio)


@functools.partial(jax.jit, static_argnames="model")
def _end(model: CarelessWhisper, params: Params, carry: Any) -> Any:
    return model.apply(params, carry, method="flush")[1]


@functools.partial(jax.jit, static_argnames="model")
def _ask(model: CarelessWhisper, params: Params, heard: Array, count: Array, tokens: Array) -> Any:
    apply: Any = model.apply
    seen = jnp.arange(heard.shape[1])[None] < count
    memory = apply(params, heard, seen, tokens.shape[1], method="begin")
    return apply(params, memory, tokens, method="write")[1][0]


class Live:
    """Tokens of one stream, asked for anew when a chunk is complete, however the audio is cut.

    A window that is full is final, and the next begins with the prompt.

    Args:
      model, params: of CarelessWhisper.
      prompt: what a text begins with and never says.
      look: tokens that may still be withdrawn.
      most: tokens of a chunk at most.
    """

    def __init__(
        self, model: CarelessWhisper, params: Params, prompt: Prompt, look: int = 3, most: int = 20
    ):
        c = model.config
        if look < 1 or len(prompt.tokens) >= c.room:
            raise ValueError(
                f"look {look} should be at least 1, and a prompt below {c.room} tokens"
            )
        self.model, self.params, self.prompt = model, params, prompt
        self.look, self.most = look, most
        self.carry = model.init_carry(1)
        self.heard = np.zeros((1, c.window, c.dim), np.float32)
        self.count = 0
        self.done: tuple[int, ...] = ()
        self.text = Text(prompt.tokens)
        self.asked = c.chunk * (1 + c.extra)  # features at which the text is asked for next

    def push(self, audio: Any) -> Spoken:
        """audio [T] floats from -1 to 1 at 16 kHz -> all that was said so far."""
        self.carry, out = _hear(self.model, self.params, self.carry, jnp.asarray(audio)[None])
        self._add(out)
        return self.spoken()

    def flush(self) -> Spoken:
        """All that was said; nothing is heard after it."""
        rest = _end(self.model, self.params, self.carry)
        if rest is not None:
            self._add(rest)
        if self.count:
            self._grow()
        self._finish()
        return self.spoken()

    def spoken(self) -> Spoken:
        """All that was said so far."""
        own = self.text.tokens[len(self.prompt.tokens) :]
        kept = max(0, len(own) - self.look)
        return Spoken(self.done + own[:kept], own[kept:])

    def _add(self, out: Any) -> None:
        c = self.model.config
        for feature in np.asarray(out.x[0])[np.asarray(out.valid[0])]:
            self.heard[0, self.count] = feature
            self.count += 1
            if self.count == self.asked:
                self._grow()
                self.asked += c.chunk
            if self.count == c.window:
                self._finish()

    def _grow(self) -> None:
        room = self.model.config.room - len(self.text.tokens)
        if room > 0:
            most = min(self.most, room)
            self.text = grown(self.text, self._logits, self.model.config.end, self.look, most)

    def _finish(self) -> None:
        """The window's text is final, and another begins."""
        c = self.model.config
        self.done += self.text.tokens[len(self.prompt.tokens) :]
        self.text, self.count = Text(self.prompt.tokens), 0
        self.asked = c.chunk * (1 + c.extra)

    def _logits(self, tokens: Sequence[int]) -> Logits:
        padded = np.zeros((1, self.model.config.room), np.int32)
        padded[0, : len(tokens)] = tokens
        logits = _ask(self.model, self.params, self.heard, self.count, padded)
        found = np.array(logits[: len(tokens)])
        found[:, list(self.prompt.never)] = -np.inf
        if len(tokens) >= len(self.prompt.tokens):
            found[len(self.prompt.tokens) - 1, list(self.prompt.never_first)] = -np.inf
        return found
