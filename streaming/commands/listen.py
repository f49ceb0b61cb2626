"""`streamzoo listen`."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...zoo.ranges import Count, Positive, option
from .common import CliError, say

RATE = 16_000
DEFAULT = "moonshine-base/en"
SUMMARY = "write down what is said in a recording, a live stream or a microphone"
EXAMPLE = "streamzoo listen meeting.wav --out meeting.srt"
NOTES = """
Words are printed when they are final and are never taken back; in a terminal, what may still change
stands in grey. A model that hears while somebody speaks (moonshine-live-*, moonshine2-*,
carelesswhisper-*, fastconformer-*, also a file of weights) says each word soon after it was spoken;
one that hears whole utterances (moonshine-base/en, whisper-*) says them at their end, or with
--every S as soon as two texts S seconds apart begin alike.
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
        help="between two texts of an utterance that goes on, 0 for none; words that both begin"
        " with are final (default: 0.48; of a model of whole utterances 0.5 in a terminal, else 0)",
    )

    p.add_argument(
        "--beam",
        metavar="N",
        type=option(Count),
        default=1,
        help="texts that are kept while the best is looked for (default: 1)",
    )


def run(args: argparse.Namespace) -> int:
    """Listens; the exit code."""
    from ..captions import Captions, check
    from ..listening import Cutting, Listener
    from ..sources.base import SourceError
    from ..sources.sound import sound_of
    from ..writers import while_spoken, writer

    shown = sys.stdout.isatty()
    try:
        cutting = Cutting(longest=args.longest, every=args.every or 0.0)
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
        begin = writer(args.model, args.longest, args.every, shown, args.beam)
        begin().prepare()
        if not while_spoken(args.model):
            say(_whole(args.model, shown if args.every is None else args.every > 0))
        listener = Listener(cutting=cutting, begin=begin)
        say(f"ready after {time.perf_counter() - began:.1f} s; Ctrl-C stops")
        with _refusing(args.out):
            if args.out:
                captions = stack.enter_context(Captions(args.out, args.overwrite))
        stop: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.signal(number, lambda number, _: stop.append(number))
            stack.callback(signal.signal, number, before)
        began, told = time.perf_counter(), Told(shown, captions)
        hear = told.all
        left = np.inf if args.seconds is None else args.seconds * RATE
        chunk: Any = first
        lost = None  # a source that breaks off: what was said until then is told first
        while chunk is not None and left > 0 and not stop:
            chunk = chunk[: int(min(left, len(chunk)))]
            left -= len(chunk)
            hear(listener.push(chunk))
            try:
                chunk = next(sound, None)
            except SourceError as error:
                chunk, lost = None, error
        hear(listener.flush())
        seconds, wall = listener.samples / RATE, time.perf_counter() - began
    say(told.table(seconds, wall))
    if captions is not None:
        say(f"wrote {captions.path}")
    if lost is not None:
        raise lost
    return 0


def _whole(name: str, again: bool) -> str:
    """What is to be expected of a model that does not hear while somebody speaks."""
    from ..writers import LIVE

    early = "when two texts of all that was heard agree"
    when = early if again else f"at their end, or with --every 0.5 {early}"
    return f"{name} hears whole utterances: words are final {when}; {LIVE} hears as it is said"


@contextlib.contextmanager
def _refusing(path: str | None) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise CliError(f"{path} is there already; --overwrite replaces it") from None
    except (OSError, ValueError) as error:
        raise CliError(str(error)) from None


CLEAR, GREY, PLAIN = "\r\x1b[K", "\x1b[90m", "\x1b[0m"


class Told:
    """What was heard, on the screen and in a file of captions.

    In a terminal an utterance's line is written anew with every news: final words plain, behind
    them in grey what may change. Where there is no terminal, the words of a line come as they
    become final.
    """

    def __init__(self, terminal: bool, captions: Any = None):
        self.terminal, self.captions = terminal, captions
        self.utterances = self.changed = 0
        self.late: list[float] = []  # of words: from their end until they were final
        self.latest: list[float] = []  # of utterances: from their end to their text
        self._open: int | None = None  # the utterance whose line is not ended
        self._maybe = ""

    def all(self, found: Any) -> None:
        """Tells utterances as they come."""
        for said in found:
            self(said)

    def __call__(self, said: Any) -> None:
        self.late += said.late()
        # what was told in grey, and is not what came of it
        fresh = " ".join(w.text for w in said.words[len(said.words) - said.fresh :])
        self.changed += not (f"{fresh} {said.maybe}".strip()).startswith(self._maybe)
        self._maybe = said.maybe
        if self.terminal:
            self._line(said)
        else:
            self._words(said, fresh)
        if said.final:
            self.utterances += 1
            self.latest.append(said.latency)
            self._maybe = ""
            if self.captions is not None:
                self.captions.write(said)

    def _line(self, said: Any) -> None:
        width = shutil.get_terminal_size().columns - 1
        kept = " ".join(w.text for w in said.words)
        head = f"{stamp(said.start)}  "
        if said.final:
            print(f"{CLEAR}{head}{said.text}", flush=True)
            return
        room = max(0, width - len(head))
        line = f"{kept} {said.maybe}".strip()[-room:] if room else ""
        grey = min(len(said.maybe), len(line))
        print(f"{CLEAR}{head}{line[: len(line) - grey]}{GREY}{line[len(line) - grey :]}{PLAIN}",
              end="", flush=True)  # fmt: skip

    def _words(self, said: Any, fresh: str) -> None:
        if fresh:
            begins = self._open != said.number
            print(f"{stamp(said.start)}  {fresh}" if begins else f" {fresh}", end="", flush=True)
            self._open = said.number
        if said.final and self._open == said.number:
            print(flush=True)
            self._open = None

    def table(self, seconds: float, wall: float) -> str:
        """Lines of figures."""
        lines = [
            f"{seconds:.1f} s of sound in {wall:.1f} s: {seconds / wall:.1f} times real time"
            f" (real-time factor {wall / seconds:.2f}); utterances: {self.utterances},"
            f" words: {len(self.late)}, grey words that changed: {self.changed} times"
        ]
        rows = (("end of a word to final", self.late), ("end of speech to its text", self.latest))
        lines += [f"{'seconds from':27} {'p50':>6} {'p95':>6} {'p99':>6}"] * bool(self.latest)
        for name, late in rows:
            if late:
                values = " ".join(f"{float(np.percentile(late, q)):6.2f}" for q in (50, 95, 99))
                lines.append(f"  {name:25} {values}")
        return "\n".join(lines if self.latest else [*lines, "nobody was heard to speak"])


def stamp(seconds: float) -> str:
    """Seconds as 01:02.3."""
    return f"{int(seconds // 60):02}:{seconds % 60:04.1f}"
