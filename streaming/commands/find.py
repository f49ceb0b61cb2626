"""`streamzoo find`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ...zoo.ranges import Count, Weight, option
from .common import CliError

SUMMARY = "look for a moment in a transcript of chat, by what was seen and by time"
EXAMPLE = 'streamzoo find talk.jsonl "a car came" --after 30 --count 3'
NOTES = """
The transcript is of `streamzoo chat --out talk.jsonl`: what was seen in every round. Moments are
found by meaning, not by letters: a small encoder of sentences compares them (English). The score is
a cosine; it has no level above which a moment is what you meant, so look at the words."""


def options(p: argparse.ArgumentParser) -> None:
    """Adds the options."""
    p.add_argument("transcript", metavar="FILE", help="of streamzoo chat --out, .jsonl")
    p.add_argument("text", metavar="TEXT", help="what is looked for")
    p.add_argument("--after", metavar="S", type=option(Weight), default=0.0, help="seconds")
    p.add_argument("--before", metavar="S", type=option(Weight), help="seconds")
    p.add_argument("--count", metavar="N", type=option(Count), default=5, help="(default: 5)")
    p.add_argument(
        "--apart", metavar="S", type=option(Weight), default=0.0,
        help="of moments nearer to each other, tell the best alone",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Prints the moments, best first; the exit code is 1 where there is none."""
    from ...zoo.text import Sentences
    from ..chat.moments import moments_of
    from ..chat.narrator import clock

    if not args.text.strip():
        raise CliError("an empty text: there is nothing to look for")
    rounds = read_rounds(Path(args.transcript))
    moments = moments_of(rounds, Sentences.load())
    before = float("inf") if args.before is None else args.before
    found = moments.search(args.text, args.count, after=args.after, before=before, apart=args.apart)
    for moment in found:
        print(f"{clock(moment.time):>7}  {moment.score:.2f}  {moment.text}")
    return 0 if found else 1


def read_rounds(path: Path) -> list[tuple[float, str]]:
    """(seconds, what was seen) of every round of a transcript.

    Raises:
      CliError: no such file, or none of a transcript's lines in it.
    """
    if not path.is_file():
        raise CliError(f"{path}: no such file; streamzoo chat VIDEO --out {path.name} writes one")
    rounds = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            if "seen" in row:
                rounds.append((float(row["time"]), str(row["seen"])))
        except (ValueError, TypeError, KeyError):
            raise CliError(f"{path}:{number}: not a line of a transcript (.jsonl)") from None
    if not rounds:
        raise CliError(f"{path}: no rounds in it; a transcript of .jsonl has what was seen")
    return rounds
