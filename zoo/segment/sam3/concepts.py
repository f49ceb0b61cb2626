"""Concepts as tokens, each a short noun phrase such as "red bag"."""

from __future__ import annotations

from collections.abc import Sequence

from ...asking import named
from ...text.tokenizer import Tokenizer

NONE = -1  # where there is no token: 0 is one of CLIP's words
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def concept_tokens(
    phrases: Sequence[str], tokenizer: Tokenizer, length: int
) -> tuple[tuple[int, ...], ...]:
    """The tokens of each phrase, with the marks of beginning and end.

    Raises:
      ValueError: no phrase, or one that is empty, a tokenizer that is not CLIP's, or more tokens
        than ``length``.
    """
    said = named(phrases)
    begin, end = (tokenizer.inner.token_to_id(mark) for mark in (BEGIN, END))
    if begin is None or end is None:
        raise ValueError(f"this tokenizer is not CLIP's: it has no {BEGIN} or {END}")
    found = tuple((begin, *tokenizer.words(phrase), end) for phrase in said)
    if (longest := max(map(len, found))) > length:
        raise ValueError(f"a concept of {longest} tokens, there is room for {length}")
    return found
