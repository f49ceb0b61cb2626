"""What writes down the utterances of a stream, by the name of a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..layers.streaming import keeps_state
from ..zoo import packages
from ..zoo.registry import model_card
from ..zoo.resolve import card_of, resolve
from ..zoo.speech.agreed import Again, Agreeing
from ..zoo.speech.moonshine.live import MoonshineLive
from ..zoo.speech.moonshine.model import Moonshine
from ..zoo.speech.moonshine.tokens import Tokens
from ..zoo.speech.moonshine.transcribe import PACE
from ..zoo.speech.moonshine2.words import Moonshine2
from ..zoo.speech.saying import Saying
from ..zoo.speech.whisper.model import Whisper
from ..zoo.speech.whisper.transcribe import ENGLISH, Transcriber, read_prompt

DEFAULT = "moonshine-base/en"
RATE = 16_000


def writer(
    name: str, longest: float, every: float | None, shown: bool = False, beam: int = 1
) -> Callable[[], Saying]:
    """() -> what hears the next utterance, by the model of this name, of up to ``longest`` seconds.

    every: seconds between two texts; None: as the model is, and whether they are ``shown``.

    Raises:
      ValueError: a model that does not write.
    """
    refusal = f"{name} does not write what is said; --model {DEFAULT} does"
    if card_of(name).task != "speech":
        raise ValueError(refusal)
    model, params, _ = resolve(name)
    whole = isinstance(model, Moonshine | Whisper) and not keeps_state(model)
    if not whole and not isinstance(model, MoonshineLive | Moonshine2):
        raise ValueError(refusal)
    # a lead, blocks and a pause may come on top
    room = longest + 1.0
    if whole:
        every = 0.5 * shown if every is None else every
        every, kind = every or room, Again
    else:
        every, kind = every or 0.48, Agreeing
    prompt = None
    if isinstance(model, Whisper):
        if room > (most := model.config.samples / RATE):
            raise ValueError(f"{name} hears {most:g} s at once: longest at most {most - 1:g} s")
        words, prompt = _whisper(name, model, params)
    else:
        words = _moonshine(name).words
    return lambda: Saying(kind(model, params, every, room, PACE, prompt, beam), words)


def _moonshine(name: str) -> Any:
    """The tokens of Moonshine: beside the weights, or those of the installed model."""
    beside = Path(name).expanduser().parent / "tokenizer.bin"
    if not beside.is_file():
        beside = packages.installed(model_card(DEFAULT).source).with_name("tokenizer.bin")
    return Tokens.read(beside)


def _whisper(name: str, model: Any, params: Any) -> Any:
    """(words of tokens, what a text begins with), by the tokenizer of Whisper's published files."""
    beside = Path(name).expanduser().parent / "tokenizer.json"
    told = None
    if not beside.is_file():
        english = "whisper-tiny/en"
        if model.config.vocabulary != ENGLISH:
            raise ValueError(f"{beside}: not there; it makes texts of the tokens of {name}")
        beside = packages.installed(model_card(english).source).with_name("tokenizer.json")
        told = read_prompt(beside.with_name("config.json"), model.config.vocabulary)
    transcribe = Transcriber(model, params, beside, told)
    return transcribe.words, transcribe.prompt
