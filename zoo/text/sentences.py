"""Texts to vectors with the tokenizer of the model's own file."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ...layers.streaming import Array, Params
from .sentence.model import SentenceEncoder
from .tokenizer import Tokenizer

LENGTHS = (16, 32, 64, 128, 256)  # tokens that programs are compiled for
BATCHES = (1, 16)
NAME = "minilm-l6/sentence"


@functools.partial(jax.jit, static_argnames="model")
def _encode(model: SentenceEncoder, params: Params, tokens: Array, valid: Array) -> Array:
    apply: Any = model.apply
    return apply(params, tokens, valid).pooled


class Sentences:
    """Texts to vectors of length 1, [N, D] float32: their product is how near two texts are.

    Args:
      model, params: of a :class:`~streamzoo.zoo.text.sentence.model.SentenceEncoder`.
      tokenizer: of the same model; it marks beginning and end.
      longest: tokens of a text; what is behind them is left out.

    Raises:
      ValueError: the tokenizer has more tokens than the model, or ``longest`` is above its
        positions.
    """

    def __init__(
        self, model: SentenceEncoder, params: Params, tokenizer: Tokenizer, longest: int = 256
    ):
        if tokenizer.size > model.config.vocabulary:
            raise ValueError(
                f"a tokenizer of {tokenizer.size} tokens and a model of {model.config.vocabulary}:"
                " they are of different models"
            )
        if not 2 < longest <= model.config.length:
            raise ValueError(f"texts of {longest} tokens; 3 to {model.config.length}")
        self.model, self.params, self.tokenizer, self.longest = model, params, tokenizer, longest
        tokenizer.inner.no_padding()
        tokenizer.inner.enable_truncation(longest)

    @classmethod
    def load(cls, name: str = NAME) -> Sentences:
        """By name. Raises WeightsError, with the remedy, where its package is not installed."""
        from .. import load
        from ..packages import installed
        from ..registry import model_card

        file = installed(model_card(name).source)
        model, params = load(name)
        assert isinstance(model, SentenceEncoder)
        return cls(model, params, Tokenizer.read(Path(file).parent))

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return self.model.config.dim

    def tokens(self, text: str) -> list[int]:
        """Of a text, with the marks around it, cut at ``longest``."""
        return self.tokenizer.inner.encode(text).ids

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """[N, D]; texts of like length share a program."""
        known = [self.tokens(text) for text in texts]
        out = np.zeros((len(texts), self.dim), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(known[i]))
        at = 0
        while at < len(order):
            size = BATCHES[-1] if len(order) - at > 1 else BATCHES[0]
            own = order[at : at + size]
            most = len(known[own[-1]])
            length = next((n for n in LENGTHS if n >= most), self.longest)
            tokens = np.zeros((size, min(length, self.longest)), np.int32)
            valid = np.zeros(tokens.shape, bool)
            for row, i in enumerate(own):
                tokens[row, : len(known[i])], valid[row, : len(known[i])] = known[i], True
            found = np.asarray(_encode(self.model, self.params, tokens, valid))
            out[own] = found[: len(own)]
            at += size
        return out
