"""The text of one utterance: Moonshine's best token after the other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ....layers.streaming import Params
from ..hearing import RATE
from ..written import best_tokens
from .live import MoonshineLive
from .model import SHORTEST, Moonshine
from .tokens import Tokens

PACE = 6.5  # tokens per second that speech has at most; more are a loop (the authors' own limit)
LENGTHS = (3, 8, 16, 30)  # seconds that programs are compiled for; audio is padded to the next
LONGEST = LENGTHS[-1]  # seconds; of longer audio the model was seen to invent an end


class Heard(NamedTuple):
    """A text and the numbers of its tokens."""

    text: str
    tokens: list[int]


class Transcriber:
    """Text of utterances of up to 30 s, each by itself.

    Args:
      model, params: of Moonshine, offline or as a stream whose clip is heard.
      tokens: of its texts; None reads those of ``moonshine-base/en``.
    """

    longest = LONGEST

    def __init__(self, model: Moonshine | MoonshineLive, params: Params, tokens: Tokens | Path):
        self.model, self.params = model, params
        self.tokens = tokens if isinstance(tokens, Tokens) else Tokens.read(tokens)

    def prepare(self, longest: float) -> None:
        """Compiles what utterances of up to ``longest`` seconds need, so that none waits for it."""
        for length in LENGTHS:
            self(np.zeros(int(min(length, longest) * RATE), np.float32))
            if length >= longest:
                break

    def __call__(self, audio: Any) -> Heard:
        """audio [T] floats from -1 to 1 at 16 kHz -> its text.

        Raises:
          ValueError: another shape or type, a sample that is no number, or more than 30 s.
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
        if seconds > LONGEST:
            raise ValueError(
                f"an utterance of {seconds:.1f} s; Moonshine hears {LONGEST} s at once:"
                " streamzoo listen cuts longer audio where nobody speaks"
            )
        if len(audio) < SHORTEST:
            return Heard("", [])
        length = next(length for length in LENGTHS if length >= seconds)
        padded = np.zeros((1, length * RATE), np.float32)
        padded[0, : len(audio)] = audio
        lengths = np.asarray([len(audio)], np.int32)
        limit = np.asarray([math.ceil(PACE * seconds)], np.int32)
        room = math.ceil(PACE * length) + 1
        out, count = best_tokens(self.model, self.params, padded, lengths, limit, room)
        numbers = np.asarray(out)[0, : int(count[0])].tolist()
        return Heard(self.tokens.text(numbers), numbers)
