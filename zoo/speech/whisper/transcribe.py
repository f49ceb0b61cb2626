"""The text of one utterance: Whisper's best token after the other, without time stamps."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ....layers.install import how_to_install
from ....layers.streaming import Params
from ...errors import WeightsError
from ..hearing import RATE
from ..written import Prompt, best_tokens
from .model import CarelessWhisper, Whisper

PACE = 6.5  # tokens per second that speech has at most; more are a loop
SPACE = "\u0120"  # how byte-level tokens write a space
ENGLISH = 51_864  # tokens of the models that know English alone


def prompt(vocabulary: int, language: int = 0) -> tuple[int, ...]:
    """Start, language (its number in Whisper's order, English 0), transcription, no time stamps;
    without language and task for the models that know English alone."""
    many = vocabulary > ENGLISH
    start = 50_257 + many
    languages = vocabulary - 51_765 - many
    plain = start + languages + 6
    return (start, start + 1 + language, start + languages + 2, plain) if many else (start, plain)


def read_prompt(config: Path, vocabulary: int) -> Prompt:
    """The prompt with what a CTranslate2 model's config.json suppresses.

    Raises:
      WeightsError: no such file.
    """
    try:
        told = json.loads(config.read_text(encoding="utf-8"))
        never, first = (tuple(told[key]) for key in ("suppress_ids", "suppress_ids_begin"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{config}: does not say what Whisper never says ({error})") from None
    return Prompt(prompt(vocabulary), never, first)


class Heard(NamedTuple):
    """A text and the numbers of its tokens."""

    text: str
    tokens: list[int]


class Transcriber:
    """Text of utterances of up to 30 s, each by itself.

    Args:
      model, params: of Whisper, as ``streamzoo.load`` gives them; of CarelessWhisper for its
        words.
      tokens: the published tokenizer.json, read by the package ``tokenizers``; None gives tokens
        without a text.
      prompt: None: English, with nothing suppressed.

    Raises:
      ImportError: ``tokenizers`` is not installed.
    """

    def __init__(
        self,
        model: Whisper | CarelessWhisper,
        params: Params,
        tokens: Path | None = None,
        prompt_: Prompt | None = None,
    ):
        self.model, self.params = model, params
        self.longest = model.config.samples / RATE
        self.prompt = prompt_ or Prompt(prompt(model.config.vocabulary))
        self.tokenizer: Any = None
        if tokens is not None:
            try:
                from tokenizers import Tokenizer
            except ImportError:
                raise ImportError(f"texts are read by: {how_to_install('speech')}") from None
            self.tokenizer = Tokenizer.from_file(str(tokens))

    def __call__(self, audio: Any) -> Heard:
        """audio [T] floats from -1 to 1 at 16 kHz -> its text.

        Raises:
          ValueError: another shape or type, a sample that is no number, or more than a window.
        """
        audio = np.asarray(audio)
        if audio.ndim != 1 or audio.dtype.kind != "f":
            raise ValueError(
                f"an utterance is floats [samples] from -1 to 1 at {RATE} Hz, got {audio.dtype}"
                f" {list(audio.shape)}; one channel is audio.mean(axis=-1), 16 bits are / 32768"
            )
        if not np.isfinite(audio).all():
            raise ValueError("an utterance with samples that are no numbers (nan or inf)")
        seconds = len(audio) / RATE
        if seconds > self.longest:
            raise ValueError(
                f"an utterance of {seconds:.1f} s; Whisper hears {self.longest:g} s at once:"
                " streamzoo listen cuts longer audio where nobody speaks"
            )
        if not len(audio):
            return Heard("", [])
        c = self.model.config
        padded = np.zeros((1, c.samples), np.float32)
        padded[0, : len(audio)] = audio
        room = min(math.ceil(PACE * self.longest) + 1, c.room - len(self.prompt.tokens))
        limit = np.asarray([min(math.ceil(PACE * seconds), room)], np.int32)
        lengths = np.asarray([len(audio)], np.int32)
        told = np.asarray(self.prompt.tokens, np.int32)
        never = self._banned(self.prompt.never)
        first = self._banned(self.prompt.never_first)
        args: Any = (self.model, self.params, padded, lengths, limit, room, told, never, first)
        out, count = best_tokens(*args)
        numbers = np.asarray(out)[0, : int(count[0])].tolist()
        text = self.tokenizer.decode(numbers).strip() if self.tokenizer is not None else ""
        return Heard(text, numbers)

    def words(self, numbers: Sequence[int]) -> list[tuple[str, int, int]]:
        """(word, its first token, the one behind its last) of tokens; a token that begins with a
        space begins a word.

        Raises:
          ValueError: there is no tokenizer.
        """
        if self.tokenizer is None:
            raise ValueError("words of tokens need the published tokenizer.json")
        spaced = lambda n: str(self.tokenizer.id_to_token(int(n))).startswith(SPACE)
        starts = [i for i, n in enumerate(numbers) if not i or spaced(n)]
        ends = [*starts[1:], len(numbers)] if starts else []
        found = [
            (self.tokenizer.decode(list(numbers[i:j])).strip(), i, j)
            for i, j in zip(starts, ends, strict=True)
        ]
        return [word for word in found if word[0]]

    def _banned(self, tokens: tuple[int, ...]) -> np.ndarray:
        mask = np.zeros(self.model.config.vocabulary, bool)
        mask[list(tokens)] = True
        return mask
