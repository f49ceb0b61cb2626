"""What writes down the utterances of a stream, by the name of a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ..layers.streaming import keeps_state
from ..zoo import packages
from ..zoo.errors import WeightsError
from ..zoo.registry import is_registered, model_card
from ..zoo.resolve import card_of, find_weights, resolve
from ..zoo.speech.agreed import Again, Agreeing
from ..zoo.speech.fastconformer.model import FastConformer
from ..zoo.speech.fastconformer.pieces import Pieces
from ..zoo.speech.fastconformer.talk import Telling
from ..zoo.speech.moonshine.live import MoonshineLive
from ..zoo.speech.moonshine.model import Moonshine
from ..zoo.speech.moonshine.tokens import Tokens
from ..zoo.speech.moonshine.transcribe import PACE
from ..zoo.speech.moonshine2.words import Moonshine2
from ..zoo.speech.saying import Saying
from ..zoo.speech.whisper.model import CarelessWhisper, Whisper
from ..zoo.speech.whisper.standing import Standing
from ..zoo.speech.whisper.transcribe import ENGLISH, Transcriber, read_prompt
from .utterances import Talk

DEFAULT = "moonshine-base/en"
LIVE = "moonshine-live-base/en"
RATE = 16_000


class Writing(Talk, Protocol):
    """What hears one utterance, and can compile what it needs before one comes."""

    def prepare(self) -> None: ...


def writer(
    name: str, longest: float, every: float | None, shown: bool = False, beam: int = 1
) -> Callable[[], Writing]:
    """() -> what hears the next utterance, by the model of this name, of up to ``longest`` seconds.

    every: seconds between two texts; None: as the model is, and whether they are ``shown``.

    Raises:
      ValueError: a model that does not write, or not so.
      WeightsError: its weights or its tokens are not there.
    """
    refusal = f"{name} does not write what is said; --model {DEFAULT} does, and {LIVE} while"
    refusal += " somebody speaks"
    if card_of(name).task != "speech":
        raise ValueError(refusal)
    try:
        model, params, _ = resolve(name)
    except WeightsError as error:
        if is_registered(name) and not model_card(name).pretrained:
            raise ValueError(f"{error}. {DEFAULT} and {LIVE} have some") from None
        raise
    room = longest + 1.0  # a lead, blocks and a pause may come on top
    if isinstance(model, FastConformer):
        return _framewise(name, model, params, every, beam)
    whole = isinstance(model, Moonshine | Whisper) and not keeps_state(model)
    if whole:
        every = 0.5 * shown if every is None else every
        every, kind = every or room, Again
    elif isinstance(model, CarelessWhisper):
        every, kind = every or model.config.chunk * model.stride / RATE, Standing
    elif isinstance(model, MoonshineLive | Moonshine2):
        every, kind = every or 0.48, Agreeing
    else:
        raise ValueError(refusal)
    if beam > 1 and kind is Standing:
        raise ValueError(f"--beam {beam}: {name} writes by stable prefixes, which are of one text")
    prompt = None
    if isinstance(model, Whisper | CarelessWhisper):
        if room > (most := model.config.samples / RATE):
            raise ValueError(f"{name} hears {most:g} s at once: longest at most {most - 1:g} s")
        words, prompt = _whisper(name, model, params)
    else:
        words = _moonshine(name).words
    return lambda: Saying(kind(model, params, every, room, PACE, prompt, beam), words)


def while_spoken(name: str) -> bool:
    """Whether a recogniser hears while somebody speaks, not utterance by utterance."""
    return card_of(name).streaming


def _framewise(
    name: str, model: FastConformer, params: Any, every: float | None, beam: int
) -> Callable[[], Writing]:
    """A FastConformer says tokens frame by frame."""
    if beam > 1:
        raise ValueError(
            f"--beam {beam}: {name} is heard with the best token at each frame; more texts are"
            " kept by streamzoo.zoo.speech.fastconformer.beam.BeamRecogniser"
        )
    words = Pieces.beside(find_weights(name), model.config.vocabulary).words
    return lambda: Telling(model, params, words, every=every or 0.32)


def _moonshine(name: str) -> Any:
    """The tokens of Moonshine: beside the weights, or those of the installed model."""
    beside = Path(name).expanduser().parent / "tokenizer.bin"
    if not beside.is_file():
        beside = packages.installed(model_card(DEFAULT).source).with_name("tokenizer.bin")
    return Tokens.read(beside)


def _whisper(name: str, model: Whisper | CarelessWhisper, params: Any) -> Any:
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
