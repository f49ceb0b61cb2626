"""A model that finds what it is asked for, asked for something."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...registry import Card
from ...text.tokenizer import Tokenizer
from .model import GroundingDINO
from .phrases import prompt_tokens

VOCABULARY = "minilm-l6/sentence"  # whose package has BERT's uncased tokenizer


def takes_prompt(model: Any) -> bool:
    """Whether a model finds what a text names, and not classes of its own."""
    return isinstance(model, GroundingDINO)


def ask_for(
    model: Any, card: Card, phrases: Sequence[str], tokenizer: Tokenizer | None = None
) -> tuple[GroundingDINO, Card]:
    """The model, every new stream of which asks for these phrases, and its card with them as its
    classes. Parameters stay what they are.

    Args:
      model: one of this folder.
      card: of the model.
      phrases: such as ("person", "red bag").
      tokenizer: BERT's, uncased; by default that of the installed ``minilm-l6/sentence``.

    Raises:
      ValueError: another model, or phrases that :func:`~.phrases.prompt_tokens` refuses.
      WeightsError: with the remedy, where there is no tokenizer.
    """
    if not takes_prompt(model):
        raise ValueError(
            f"{card.name} finds classes of its own and takes no prompt; groundingdino-t takes one"
        )
    tokens = prompt_tokens(phrases, tokenizer or _installed(), model.config.length)
    config = dataclasses.replace(model.config, prompt=tuple(int(t) for t in tokens if t))
    classes = tuple(phrase.strip() for phrase in phrases)
    return model.clone(config=config), dataclasses.replace(card, classes=classes)


def _installed() -> Tokenizer:
    from ...packages import installed
    from ...registry import model_card

    return Tokenizer.read(Path(installed(model_card(VOCABULARY).source)).parent)
