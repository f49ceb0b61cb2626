"""A language model that hears text and speaks it, token by token, with its memory as a carry."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...layers.memory import Slots
from ...layers.streaming import Array, Params
from .decoder.model import Decoder
from .tokenizer import Tokenizer, Writer

LENGTHS = (16, 64, 256)  # tokens that programs are compiled for; a longer text comes in parts
Messages = Sequence[Mapping[str, str]]


class State(NamedTuple):
    """Where a conversation stands; never changed in place, so a question can be asked of a copy.

    memory: of the model, one stream.
    logits: [1, V] of the token that follows.
    """

    memory: Slots
    logits: Array


Told = Mapping[
    str, int
]  # notes of a text for the policy of the memory, as ``segment`` and ``turn``


def _notes(told: dict[str, Array], steps: int) -> dict[str, Array]:
    return {name: jnp.full((1, steps), value, jnp.int32) for name, value in told.items()}


@functools.partial(jax.jit, static_argnames="model")
def _hear(
    model: Decoder,
    params: Params,
    memory: Slots,
    tokens: Array,
    count: Array,
    told: dict[str, Array],
) -> State:
    apply: Any = model.apply
    valid = jnp.arange(tokens.shape[1])[None] < count
    notes = _notes(told, tokens.shape[1])
    memory, x = apply(params, memory, tokens, valid, told=notes, method=Decoder.read)
    # the head is a third of a small model: the last token alone needs it
    last = jax.lax.dynamic_index_in_dim(x, count - 1, axis=1, keepdims=False)
    return State(memory, apply(params, last, method=Decoder.say))


@functools.partial(jax.jit, static_argnames="model", donate_argnums=2)
def _say(
    model: Decoder, params: Params, memory: Slots, token: Array, told: dict[str, Array]
) -> State:
    apply: Any = model.apply
    memory, logits = apply(params, memory, token[None], told=_notes(told, 1))
    return State(memory, logits[:, -1])


class Speaker:
    """Hears texts and says the most likely answer.

    Args:
      model, params: of a :class:`Decoder`, as ``streamzoo.load`` gives them.
      tokenizer: of the same model.

    Raises:
      ValueError: the tokenizer has more tokens than the model, so it is another model's.
    """

    def __init__(self, model: Decoder, params: Params, tokenizer: Tokenizer):
        if tokenizer.size > model.config.vocabulary:
            raise ValueError(
                f"a tokenizer of {tokenizer.size} tokens and a model of {model.config.vocabulary}:"
                " they are of different models"
            )
        self.model, self.params, self.tokenizer = model, params, tokenizer

    def begin(self) -> State:
        """A conversation in which nothing was said."""
        logits = jnp.zeros((1, self.model.config.vocabulary), jnp.float32)
        return State(self.model.init_carry(1), logits)

    def hear(self, state: State, text: str | Messages) -> State:
        """The state after a text, or after messages in the model's own form.

        Raises:
          ValueError: nothing was said, more tokens than the memory has slots, or no messages.
        """
        tokens = self._tokens(text)
        if not tokens:
            raise ValueError("an empty text: there is nothing to answer")
        return self.read(state, tokens)

    def read(self, state: State, tokens: Sequence[int], told: Told | None = None) -> State:
        """The state after tokens, which have the notes ``told``. Raises as :meth:`hear`."""
        notes = {name: np.int32(value) for name, value in (told or {}).items()}
        room = self.model.config.keeps.capacity
        if len(tokens) > room:
            raise ValueError(
                f"{len(tokens)} tokens at once and a memory of {room}: the first"
                f" {len(tokens) - room} would be forgotten before the last are read; shorten the"
                f" text, or load the model with context={len(tokens)}, if it learned texts as long"
            )
        at = 0
        while at < len(tokens):
            left = len(tokens) - at
            length = next((n for n in LENGTHS if n >= left), LENGTHS[-1])
            part = np.zeros((1, length), np.int32)
            count = min(left, length)
            part[0, :count] = tokens[at : at + count]
            state = _hear(self.model, self.params, state.memory, part, np.int32(count), notes)
            at += count
        return state

    def answer(
        self, state: State, limit: int = 256, told: Told | None = None
    ) -> Iterator[tuple[int, State]]:
        """The most likely tokens, one by one, each with the state after it.

        The end token is the last, unless ``limit`` tokens came first. A state is used up when the
        next one is asked for; ``state`` itself stays as it is. Raises ValueError: no tokens.
        """
        if limit < 1:
            raise ValueError(f"limit {limit}: at least 1 token")
        memory, logits = jax.tree.map(jnp.copy, state.memory), state.logits
        notes = {name: np.int32(value) for name, value in (told or {}).items()}
        for _ in range(limit):
            token = int(np.argmax(np.asarray(logits)[0]))
            said = np.asarray([token], np.int32)
            memory, logits = _say(self.model, self.params, memory, said, notes)
            yield token, State(memory, logits)
            if token == self.model.config.end:
                return

    def __call__(self, text: str | Messages, limit: int = 256) -> str:
        """What follows a text, word for word; or the answer to messages, in the model's own form:
        a question is ``[{"role": "user", "content": "..."}]``."""
        return "".join(self.stream(text, limit))

    def stream(self, text: str | Messages, limit: int = 256) -> Iterator[str]:
        """The answer in pieces, as they come. Raises as :meth:`hear`."""
        writer = Writer(self.tokenizer)
        for token, _ in self.answer(self.hear(self.begin(), text), limit):
            if piece := writer(token):
                yield piece
        if rest := writer.end():
            yield rest

    def _tokens(self, text: str | Messages) -> list[int]:
        known = self.tokenizer
        return known.tokens(text) if isinstance(text, str) else known.chat_tokens(text)
