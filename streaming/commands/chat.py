"""`streamzoo chat`."""

from __future__ import annotations

import argparse
import contextlib
import queue
import sys
import threading
import time
from typing import Any

from ...zoo.ranges import Count, Positive, Weight, Whole, option
from . import reading
from .common import CliError, by, check_watchable, default_model, need, say

DEFAULT = "smollm2-135m/instruct"
SUMMARY = "talk about what a file or camera shows: remarks as things happen, answers when asked"
EXAMPLE = 'streamzoo chat street.mp4 --ask "How many people are there?" --at 30'
NOTES = """
A perception model sees; what it finds becomes words, and a small language model has no more than
these: it can be asked who was there, who came and left. Its memory has a constant size; --policy
says what that keeps. A question leaves no trace in it. In a terminal, questions can be typed.
A small model invents: remarks with words that nobody told it are withheld (--all-remarks shows
them), and answers with such words are marked. It counts and compares badly.
--recall looks for what a question is about among all rounds, also those that the memory lost.
The transcript (--out) is .jsonl with all that is known, or .txt to read."""


def options(p: argparse.ArgumentParser) -> None:
    """Adds the options."""
    p.add_argument("source", metavar="SOURCE", help="file, camera number, rtsp:// or http address")
    p.add_argument("--ask", metavar="TEXT", action="append", default=[], help="repeatable")
    p.add_argument(
        "--at",
        metavar="S",
        type=option(Weight),
        action="append",
        default=[],
        help="seconds at which the --ask before it is asked (default: at the end)",
    )
    p.add_argument(
        "--policy", metavar="NAME", default="streaming-llm", help="(default: streaming-llm)"
    )
    p.add_argument(
        "--memory", metavar="N", type=option(Count), default=1024, help="tokens (default: 1024)"
    )
    p.add_argument("--model", metavar="NAME", help="that sees (default: follow-nano/coco)")
    p.add_argument("--language", metavar="NAME", default=DEFAULT, help=f"(default: {DEFAULT})")
    p.add_argument(
        "--every", metavar="S", type=option(Positive), default=2.0, help="of rounds (default: 2)"
    )
    p.add_argument("--quiet", action="store_true", help="no remarks, answers alone")
    p.add_argument(
        "--relations", action="store_true", help="also tell who is beside, on, or holds what"
    )
    p.add_argument("--keep-remarks", action="store_true", help="remember what was remarked, too")
    p.add_argument("--all-remarks", action="store_true", help="also those with invented words")
    p.add_argument(
        "--recall", metavar="N", type=option(Whole), default=0,
        help="ask with the N past moments that a question is about (default: 0)",
    )  # fmt: skip
    p.add_argument("--limit", metavar="N", type=option(Count), default=40, help="tokens said")
    p.add_argument("--out", metavar="FILE", help="transcript: .jsonl or .txt")
    p.add_argument("--overwrite", action="store_true", help="replace a transcript that is there")
    p.add_argument("--seconds", metavar="S", type=option(Positive), help="stop after so many")
    reading.options(p)


def run(args: argparse.Namespace) -> int:
    """Talks; the exit code."""
    from ...layers.policies import create
    from ...zoo import card_of, load
    from ...zoo.text import Sentences
    from ..chat.conversation import Conversation
    from ..chat.loading import speaker_of, weights_of
    from ..chat.moments import Moments
    from ..chat.narrator import Narrator
    from ..chat.scene_graph import SceneGraph
    from ..chat.talk import Question, talk
    from ..chat.transcript import KINDS, Transcript, lines
    from ..results import Claim
    from ..session import Session, frame_size
    from ..sources import open_source
    from ..step import Step
    from ..triggers import Gate
    from ..watch import Board, size_text

    if len(args.at) > len(args.ask):
        raise CliError(f"--at {args.at[-1]:g}: there is no --ask for it")
    if any(not text.strip() for text in args.ask):
        raise CliError("--ask '': an empty question; there is nothing to answer")
    times = [*args.at, *[None] * (len(args.ask) - len(args.at))]
    questions = [Question(*q) for q in zip(args.ask, times, strict=True)]
    if args.out and not args.out.lower().endswith(KINDS):
        raise CliError(f"--out {args.out}: a transcript is one of {', '.join(KINDS)}")
    create(args.policy, args.memory)  # an unknown name is told before anything slow begins
    if sys.stderr.isatty():
        need("rich", "the live table", "demo")
    name = args.model or default_model()
    card = card_of(name)
    check_watchable(name, card, random_weights=False)
    # a package that is missing is told before anything is loaded
    words = weights_of(args.language)
    past = Moments(Sentences.load()) if args.recall else None
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(
            open_source(args.source, size=frame_size(card), **reading.reader_of(args))
        )
        claim = stack.enter_context(Claim(args.out, args.overwrite)) if args.out else None
        start = time.monotonic()
        say(
            f"watching {source.name} with {name} at {by(source.size)} pixels;"
            f" {args.language} talks: loading, and compiling ..."
        )
        speaker = speaker_of(args.language, words, args.policy, args.memory)
        gate = None if args.quiet else Gate(1.0, repeat=True, pause=1)
        conversation = Conversation(
            speaker, gate, limit=args.limit, keep=args.keep_remarks,
            grounded=not args.all_remarks, past=past, recall=args.recall,
        )  # fmt: skip
        model, params = load(name)
        session = stack.enter_context(Session(Step(model, params, card), source.size))
        transcript = Transcript(claim) if claim is not None else None
        if transcript is not None:
            stack.callback(transcript.close)

        def tell(told: Any, said: Any) -> None:
            for line in lines(told, said):
                print(line, flush=True)
            if transcript is not None:
                transcript.write(told, said)

        say(f"ready after {time.monotonic() - start:.1f} s; Ctrl-C stops")
        figures = talk(
            session, source, conversation, tell, questions=questions, every=args.every,
            narrator=Narrator(relations=SceneGraph() if args.relations else None),
            seconds=args.seconds, board=Board(f"{name} and {args.language}"), typed=_typed(),
        )  # fmt: skip
        if not figures["frames"]:
            raise CliError(f"{args.source}: ends before its first frame")
    say(
        f"{figures['frames']:.0f} frames at {figures['fps']:.1f} frames/s, {figures['rounds']:.0f}"
        f" rounds: {figures['remarks']:.0f} remarks, {figures['answers']:.0f} answers,"
        f" {figures['silent']:.0f} silent ({figures['withheld']:.0f} as invented),"
        f" {figures['dropped']:.0f} dropped; memory"
        f" {figures['held']:.0f} of {args.memory} tokens, {size_text(figures['memory_bytes'])};"
        f" first word p50 {figures['first_ms']:.0f} ms"
    )
    if figures["cut"]:
        say(f"{figures['cut']:.0f} tokens of rounds were cut: longer than half of --memory")
    if transcript is not None:
        say(f"wrote {transcript.path}")
    return 0


def _typed() -> Any:
    """Questions that a person types, a line each; none where nobody sits."""
    if not sys.stdin.isatty():
        return lambda: []
    found: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            if line.strip():
                found.put(line.strip())

    threading.Thread(target=listen, name="questions", daemon=True).start()

    def take() -> list[str]:
        lines = []
        with contextlib.suppress(queue.Empty):
            while True:
                lines.append(found.get_nowait())
        return lines

    return take
