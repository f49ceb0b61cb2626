"""A prompt as tokens: which of them are one phrase, and where they stand in it.

A prompt is phrases with a full stop behind each, such as "a person. a red bag.": the tokens of a
phrase see each other and nothing of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...asking import named
from ...text.tokenizer import Tokenizer

Array = jax.Array
PAD, BEGIN, END, STOP, QUESTION = 0, 101, 102, 1012, 1029  # of BERT's uncased vocabulary
MARKS = (BEGIN, END, STOP, QUESTION)


class Phrases(NamedTuple):
    """What the tokens [B, N] of prompts are."""

    valid: Array  # [B, N] bool: there is a token
    sees: Array  # [B, N, N] bool: query, key
    place: Array  # [B, N] int32, tokens since the mark before
    label: Array  # [B, N] int32, number of the phrase, -1 for a mark


def read_phrases(tokens: Array) -> Phrases:
    """Of tokens [B, N], 0 where there is none.

    As transformers' ``generate_masks_with_special_tokens_and_transfer_map`` for prompts whose last
    phrase has its full stop; what is in no phrase sees itself alone.
    """
    count = tokens.shape[1]
    at = jnp.arange(count, dtype=jnp.int32)[None]
    mark = (tokens[..., None] == np.asarray(MARKS, np.int32)[None, None]).any(axis=-1)
    valid = tokens != PAD
    before = jax.lax.cummax(jnp.where(mark, at, -1), axis=1)
    before = jnp.pad(before[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    after = jax.lax.cummin(jnp.where(mark, at, count), axis=1, reverse=True)
    inside = (after != 0) & (after != count - 1) & (after != count)
    same = (after[:, :, None] == after[:, None]) & inside[:, :, None]
    word = valid & ~mark
    starts = word & jnp.pad(~word[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    label = jnp.where(word, jnp.cumsum(starts, axis=1, dtype=jnp.int32) - 1, -1)
    place = jnp.where(inside, jnp.maximum(at - before - 1, 0), 0)
    return Phrases(valid, same | jnp.eye(count, dtype=bool)[None], place, label)


def prompt_tokens(phrases: Sequence[str], tokenizer: Tokenizer, length: int) -> np.ndarray:
    """The tokens [length] of a prompt for these phrases, int32, zeros behind it.

    Raises:
      ValueError: no phrase, one that is empty or has a full stop or question mark inside, a
        tokenizer of another vocabulary, or more tokens than ``length``.
    """
    said = [phrase.lower() for phrase in named(phrases)]
    if bad := [p for p in said if "." in p or "?" in p]:
        raise ValueError(f"phrase {bad[0]!r}: a full stop or question mark ends a phrase")
    marks = [tokenizer.tokens(mark) for mark in (".", "?")]
    if marks != [[STOP], [QUESTION]]:
        raise ValueError("this tokenizer is not BERT's (uncased), whose marks the network knows")
    tokens = [BEGIN]
    for phrase in said:
        tokens += [*tokenizer.words(phrase), STOP]
    tokens.append(END)
    if len(tokens) > length:
        raise ValueError(f"a prompt of {len(tokens)} tokens, there is room for {length}")
    return np.pad(np.asarray(tokens, np.int32), (0, length - len(tokens)))
