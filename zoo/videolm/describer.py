"""A picture in one sentence: a frozen encoder, a connector, and a language model that speaks."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...layers.streaming import Array, Params
from ..preprocess import preprocess
from ..registry import Card, model_card
from ..text.decoder.model import Decoder
from ..text.tokenizer import Tokenizer
from .connector.model import Connector

ENCODER, LANGUAGE = "efficientnet-lite0/imagenet", "smollm2-135m/instruct"
QUESTION = "What is in the picture?"


def encoded(frames: np.ndarray, part: int = 16) -> np.ndarray:
    """uint8 [N, 224, 224, 3] -> [N, 7, 7, 1280] float16 of the frozen encoder."""
    model, params, card = _encoder()
    look = lambda x: model.apply(params, preprocess(x, card), method="features")
    see = jax.jit(look)
    out = []
    for at in range(0, len(frames), part):
        own = frames[at : at + part]
        full = np.concatenate([own, np.repeat(own[-1:], part - len(own), axis=0)])
        out.append(np.asarray(see(full))[: len(own)].astype(np.float16))
    return np.concatenate(out)


@functools.cache
def _encoder() -> tuple[Any, Params, Card]:
    from .. import load

    return *load(ENCODER), model_card(ENCODER)


class Frame:
    """The words around a picture's tokens, in the language model's own form."""

    def __init__(self, tokenizer: Tokenizer, question: str = QUESTION):
        mark = "\ue000"
        asked = tokenizer.chat([{"role": "user", "content": f"{mark} {question}"}], reply=True)
        before, _, behind = asked.partition(mark)
        # the template's own system text says nothing of pictures, and costs a third of the time
        before = before[before.rindex("<|im_start|>") :] if "<|im_start|>" in before else before
        self.before, self.behind = tokenizer.tokens(before), tokenizer.tokens(behind)

    def embedded(self, model: Decoder, params: Params, seen: Array, said: Array) -> Array:
        """seen [B, N, D], said [B, L] token numbers -> [B, T, D]: before, seen, behind, said."""
        table = params["params"]["embed"]["embedding"]
        words = lambda ids: jnp.broadcast_to(
            table[jnp.asarray(ids, jnp.int32)][None], (len(seen), len(ids), table.shape[1])
        )
        del model
        return jnp.concatenate([words(self.before), seen, words(self.behind), table[said]], axis=1)


class Describer:
    """Says what pictures show.

    Args:
      connector, weights: of :class:`Connector`.
      model, params: of the language model, with a memory of ``full`` and room for an answer.
      tokenizer: of the language model.
      limit: tokens of an answer.
    """

    def __init__(
        self,
        connector: Connector,
        weights: Params,
        model: Decoder,
        params: Params,
        tokenizer: Tokenizer,
        limit: int = 16,
    ):
        self.connector, self.weights, self.limit = connector, weights, limit
        self.model, self.params, self.tokenizer = model, params, tokenizer
        self.frame = Frame(tokenizer)
        self._say = jax.jit(self._answer)

    @classmethod
    def load(cls, connector: str, language: str = LANGUAGE, limit: int = 16) -> Describer:
        """By names, or of a connector's file. Raises WeightsError as ``streamzoo.load`` does."""
        from .. import load, packages

        net, weights = load(connector)
        assert isinstance(net, Connector)
        file = packages.installed(model_card(language).source)
        model, params = load(language, policy="full", context=64)
        assert isinstance(model, Decoder)
        return cls(net, weights, model, params, Tokenizer.read(file), limit)

    def __call__(self, frames: np.ndarray) -> list[str]:
        """uint8 [N, 224, 224, 3] -> a sentence each."""
        return self.of_features(encoded(frames))

    def of_features(self, features: np.ndarray) -> list[str]:
        """[N, 7, 7, 1280] -> a sentence each."""
        words = np.asarray(self._say(self.weights, self.params, jnp.asarray(features)))
        return [self._text(row) for row in words]

    def _text(self, tokens: Sequence[int]) -> str:
        end = self.model.config.end
        row = list(tokens)
        return self.tokenizer.text(row[: row.index(end)] if end in row else row).strip()

    def _answer(self, weights: Params, params: Params, features: Array) -> Array:
        apply: Any = self.model.apply
        connect: Any = self.connector.apply
        seen = connect(weights, features.astype(jnp.float32))
        none = jnp.zeros((len(features), 0), jnp.int32)
        x = self.frame.embedded(self.model, params, seen, none)
        memory = self.model.init_carry(len(features))
        memory, y = apply(params, memory, None, features=x, method=Decoder.read)
        logits = apply(params, y[:, -1], method=Decoder.say)

        def step(state, _):
            memory, logits = state
            token = logits.argmax(axis=-1).astype(jnp.int32)
            memory, logits = apply(params, memory, token[:, None])
            return (memory, logits[:, -1]), token

        _, said = jax.lax.scan(step, (memory, logits), length=self.limit)
        return said.T
