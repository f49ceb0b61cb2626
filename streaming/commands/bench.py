"""`streamzoo bench`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from ...zoo.ranges import Count, option
from .common import CliError, say

SUMMARY = "ms per frame, frames/s, FLOPs and carry bytes, against a teacher in the same run"
EXAMPLE = "streamzoo bench tsa-s16 --teacher videomae-window-s16 --batch 1 2 4"


def options(p: argparse.ArgumentParser) -> None:
    """Adds the options."""
    p.add_argument("models", nargs="+", metavar="NAME", help="names, or weights files of ours")
    p.add_argument("--teacher", metavar="NAME", help="sliding-window teacher to compare with")
    p.add_argument(
        "--batch",
        metavar="N",
        type=option(Count),
        nargs="+",
        default=[1],
        help="batch sizes (default: 1)",
    )
    p.add_argument("--dtype", choices=["float32", "bfloat16"], help="compute type")
    p.add_argument(
        "--runtimes",
        action="store_true",
        help="every runtime and precision that there is here, with the difference from fp32 in JAX",
    )
    p.add_argument(
        "--repeats", metavar="N", type=option(Count), default=20, help="timed rounds (default: 20)"
    )


def run(args: argparse.Namespace) -> None:
    """Measures and prints a table."""
    from ..bench import measure, table
    from ..bench_runtimes import runtimes_table

    if args.runtimes:
        for given in ("teacher", "dtype"):
            if getattr(args, given):
                raise CliError(f"--{given} with --runtimes: one comparison at a time")
        with Progress() as progress:
            tables = [
                runtimes_table(name, batch, repeats=args.repeats, progress=progress)
                for name in args.models
                for batch in args.batch
            ]
        print("\n\n".join(tables))
        return
    with Progress() as progress:
        rows = measure(
            args.models,
            args.batch,
            teacher=args.teacher,
            dtype=args.dtype,
            repeats=args.repeats,
            progress=progress,
        )
    print(table(rows))


class Progress:
    """Lines on stderr: overwritten in a terminal, elsewhere the news of every two seconds."""

    def __init__(self):
        self._tty = sys.stderr.isatty()
        self._next, self._kind = 0.0, ""

    def __call__(self, line: str) -> None:
        if self._tty:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        elif (kind := line.split()[0]) != self._kind or time.monotonic() >= self._next:
            self._kind, self._next = kind, time.monotonic() + 2.0
            say(line)

    def __enter__(self) -> Callable[[str], None]:
        return self

    def __exit__(self, *_: object) -> None:
        if self._tty:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
