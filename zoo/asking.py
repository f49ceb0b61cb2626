"""A model that finds what it is asked for, asked for something."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from . import hub
from .errors import WeightsError
from .registry import Card, UnknownModelError
from .resolve import find
from .text.tokenizer import Tokenizer

FILE = "tokenizer.json"


class Asked:
    """Base of a model that finds what phrases name, and not classes of its own."""

    def with_phrases(self, phrases: Sequence[str], tokenizer: Tokenizer) -> Any:
        """The model, every new stream of which asks for these. Raises ValueError for others."""
        raise NotImplementedError

    def own_tokenizer(self, weights: str) -> Tokenizer:
        """The tokenizer of the model: by default the one that is published beside the
        ``weights`` (a name, path or address). Raises WeightsError, with the remedy."""
        return beside(weights)


def takes_prompt(model: Any) -> bool:
    """Whether a model finds what a text names, and not classes of its own."""
    return isinstance(model, Asked)


def ask_for(
    model: Any,
    card: Card,
    phrases: Sequence[str],
    tokenizer: Tokenizer | None = None,
    weights: str = "",
) -> tuple[Any, Card]:
    """The model, every new stream of which asks for these phrases, and its card with them as its
    classes. Parameters stay what they are.

    Args:
      model: one that takes phrases: Grounding DINO, SAM 3.
      card: of the model.
      phrases: such as ("person", "red bag").
      tokenizer: that of the model; by default found for it.
      weights: from where the model was loaded, where the tokenizer is to be looked for beside.

    Raises:
      ValueError: another model, or phrases that it refuses.
      WeightsError: with the remedy, where there is no tokenizer.
    """
    if not takes_prompt(model):
        raise ValueError(
            f"{card.name} finds classes of its own and takes no prompt; groundingdino-t takes one"
        )
    classes = named(phrases)  # before a tokenizer is looked for
    tokenizer = tokenizer or model.own_tokenizer(weights or card.name)
    return model.with_phrases(phrases, tokenizer), dataclasses.replace(card, classes=classes)


def named(phrases: Sequence[str]) -> tuple[str, ...]:
    """The phrases, without spaces around them. Raises ValueError: none, or one that is empty."""
    said = tuple(phrase.strip() for phrase in phrases)
    if not said or not all(said):
        raise ValueError(f"phrases {list(phrases)}: give at least one, and none that is empty")
    return said


def beside(weights: str) -> Tokenizer:
    """The tokenizer that is published beside weights. Raises WeightsError where there is none."""
    try:
        found = find(weights)
    except UnknownModelError:
        raise WeightsError(
            f"{weights}: a prompt is read by the tokenizer that is published beside the weights,"
            " and this is an architecture without weights; give a file of them, or a name that"
            " has some"
        ) from None
    file = found.path.with_name(FILE)
    if found.source is not None:
        file = hub.download_config(found.source, FILE) or file
    if not file.is_file():
        raise WeightsError(f"{file}: not there; fetch it from the repository of the weights")
    return Tokenizer.read(file)
