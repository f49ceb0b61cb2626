"""A language model that talks, by name, with the tokenizer of its file."""

from __future__ import annotations

from pathlib import Path

from ...zoo import card_of, load, packages
from ...zoo.registry import model_card
from ...zoo.text import Decoder, Speaker, Tokenizer
from .conversation import policy_for


def weights_of(language: str) -> Path:
    """The file of a language model, which holds its tokenizer too.

    Raises:
      ValueError: it is no language model.
      ImportError: with the remedy, the package that brings it is not installed.
    """
    if card_of(language).task != "text":
        raise ValueError(
            f"--language {language} is no language model; smollm2-135m/instruct is one"
        )
    path = Path(language).expanduser()
    return path if path.exists() else packages.installed(model_card(language).source)


def speaker_of(language: str, path: Path, policy: str, memory: int) -> Speaker:
    """The language model under a policy with ``memory`` tokens.

    Args:
      language: its name, or its file.
      path: of :func:`weights_of`.

    Raises:
      ValueError: an unknown policy, one that needs frames, or a model that does not speak.
    """
    tokenizer = Tokenizer.read(path)
    kept = policy_for(policy, memory, tokenizer)
    model, params = load(language, policy=kept, context=memory)
    if not isinstance(model, Decoder):
        raise ValueError(f"--language {language} does not speak; smollm2-135m/instruct does")
    return Speaker(model, params, tokenizer)
