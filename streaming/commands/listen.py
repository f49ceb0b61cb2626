"""`streamzoo listen`."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...zoo.ranges import Positive, option
from .common import CliError, say

DEFAULT = "moonshine-base/en"
SUMMARY = "write down what is said in a recording, a live stream or a microphone"
EXAMPLE = "streamzoo listen meeting.wav --out meeting.srt"
NOTES = """
What is said is printed when it is final; in a terminal, what is not yet final stands in grey.
`streamzoo listen mic` hears a microphone, `streamzoo listen -` 16-bit PCM at 16 kHz from a pipe."""


def options(p: argparse.ArgumentParser) -> None:
    """Adds the options."""
    p.add_argument("source", metavar="SOURCE", help="file, rtsp:// or http:// address, mic, or -")
    p.add_argument("--model", metavar="NAME", default=DEFAULT, help=f"(default: {DEFAULT})")
    p.add_argument("--out", metavar="FILE", help="captions: .srt, .vtt or .jsonl")
    p.add_argument("--overwrite", action="store_true", help="replace captions that are there")
    p.add_argument("--seconds", metavar="S", type=option(Positive), help="stop after so many")
    p.add_argument(
        "--longest",
        metavar="S",
        type=option(Positive),
        default=15.0,
        help="cut what is said without a pause after so many seconds (default: 15)",
    )
    p.add_argument(
        "--every",
        metavar="S",
        type=float,
        help="between provisional texts, 0 for none (default: 0.5 in a terminal, else 0)",
    )


def run(args: argparse.Namespace) -> int:
    """Listens; the exit code."""
    from ..captions import Captions, check
    from ..listening import Cutting, Listener
    from ..sources.sound import RATE, sound_of

    shown = sys.stdout.isatty()
    every = args.every if args.every is not None else 0.5 * shown
    try:
        cutting = Cutting(longest=args.longest, every=every)
    except ValueError as error:
        raise CliError(f"--longest or --every: {error}") from None
    sound = sound_of(args.source, say)
    first = next(sound, None)  # a source that is wrong is told before the model is loaded
    if first is None:
        raise CliError(f"{args.source}: ends before its first sample")
    with contextlib.ExitStack() as stack:
        # what will be written is refused before the model is loaded, and made after it: a command
        # that fails leaves no empty file
        captions = None
        with _refusing(args.out):
            if args.out:
                check(args.out, args.overwrite)
        began = time.perf_counter()
        say(f"{args.model}: loading, and compiling ...")
        listener = Listener(recogniser(args.model, args.longest), cutting)
        say(f"ready after {time.perf_counter() - began:.1f} s; Ctrl-C stops")
        with _refusing(args.out):
            if args.out:
                captions = stack.enter_context(Captions(args.out, args.overwrite))
        stop: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.signal(number, lambda number, _: stop.append(number))
            stack.callback(signal.signal, number, before)
        began, took, late, provisional = time.perf_counter(), [], [], 0

        def hear(found: Any) -> None:
            nonlocal provisional
            for said in found:
                took.append(said.milliseconds)
                if not said.final:
                    provisional += 1
                    show(said.text, shown)
                    continue
                late.append(said.latency)
                print(f"{CLEAR * shown}{stamp(said.start)}  {said.text}", flush=True)
                if captions is not None:
                    captions.write(said)

        left = np.inf if args.seconds is None else args.seconds * RATE
        chunk: Any = first
        while chunk is not None and left > 0 and not stop:
            chunk = chunk[: int(min(left, len(chunk)))]
            left -= len(chunk)
            hear(listener.push(chunk))
            chunk = next(sound, None)
        hear(listener.flush())
        seconds, wall = listener.samples / RATE, time.perf_counter() - began
    told = f"{seconds:.1f} s of sound in {wall:.1f} s: {seconds / wall:.1f} times real time"
    say(f"{told}; utterances: {len(late)}, provisional texts: {provisional}")
    if late:
        p50, p95, p99 = (float(np.percentile(late, q)) for q in (50, 95, 99))
        say(f"from the end of speech to its text: p50 {p50:.2f} s, p95 {p95:.2f}, p99 {p99:.2f}")
    else:
        say("nobody was heard to speak")
    if captions is not None:
        say(f"wrote {captions.path}")
    return 0


@contextlib.contextmanager
def _refusing(path: str | None) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise CliError(f"{path} is there already; --overwrite replaces it") from None
    except (OSError, ValueError) as error:
        raise CliError(str(error)) from None


CLEAR = "\r\x1b[K"


def show(text: str, terminal: bool) -> None:
    """A provisional text, grey, on the terminal's last line."""
    if terminal:
        width = shutil.get_terminal_size().columns - 1
        print(f"{CLEAR}\x1b[90m{text[-width:]}\x1b[0m", end="", flush=True)


def stamp(seconds: float) -> str:
    """Seconds as 01:02.3."""
    return f"{int(seconds // 60):02}:{seconds % 60:04.1f}"


def _whisper(name: str, model: Any, params: Any) -> Any:
    """float32 [T] at 16 kHz -> its text, by Whisper with the tokenizer of its published files."""
    from ...zoo import packages
    from ...zoo.registry import model_card
    from ...zoo.speech.hearing import RATE
    from ...zoo.speech.whisper.transcribe import ENGLISH, Transcriber, read_prompt

    beside = Path(name).expanduser().parent / "tokenizer.json"
    told = None
    if not beside.is_file():
        english = "whisper-tiny/en"
        if model.config.vocabulary != ENGLISH:
            raise CliError(f"{beside}: not there; it makes texts of the tokens of {name}")
        beside = packages.installed(model_card(english).source).with_name("tokenizer.json")
        told = read_prompt(beside.with_name("config.json"), model.config.vocabulary)
    transcribe = Transcriber(model, params, beside, told)
    transcribe(np.zeros(RATE, np.float32))  # so that no utterance waits for the compiler
    return lambda audio: transcribe(audio).text


def recogniser(name: str, longest: float) -> Any:
    """float32 [T] at 16 kHz -> its text, by the model of this name, ready for ``longest`` seconds.

    Raises:
      CliError: a model that does not write.
    """
    from ...layers.streaming import keeps_state
    from ...zoo import packages
    from ...zoo.registry import model_card
    from ...zoo.resolve import card_of, resolve
    from ...zoo.speech.moonshine.live import MoonshineLive
    from ...zoo.speech.moonshine.model import Moonshine
    from ...zoo.speech.moonshine.transcribe import Transcriber
    from ...zoo.speech.whisper.model import Whisper

    if card_of(name).task != "speech":
        raise CliError(f"{name} does not write what is said; --model {DEFAULT} does")
    model, params, _ = resolve(name)
    if isinstance(model, Whisper) and not keeps_state(model):
        return _whisper(name, model, params)
    if not isinstance(model, Moonshine | MoonshineLive):
        raise CliError(f"{name} does not write what is said; --model {DEFAULT} does")
    beside = Path(name).expanduser().parent / "tokenizer.bin"
    if not beside.is_file():
        source = model_card(DEFAULT).source
        beside = packages.installed(source).with_name("tokenizer.bin")
    transcribe = Transcriber(model, params, beside)
    transcribe.prepare(longest)
    return lambda audio: transcribe(audio).text
