"""`streamzoo list`."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap

from .common import CliError

SUMMARY = "list model names"
EXAMPLE = "streamzoo list '*tsa*' --pretrained"


def options(p: argparse.ArgumentParser) -> None:
    """Adds the options."""
    p.add_argument("pattern", nargs="?", default="*", help="word, or shell pattern (default: all)")
    p.add_argument("--pretrained", action="store_true", help="only models with weights")
    p.add_argument("--streaming", action="store_true", help="only models with a carry")


def run(args: argparse.Namespace) -> None:
    """Prints names that match, with a line each."""
    from ...zoo import list_models, model_card

    # a plain word is looked for in the names
    plain = not any(sign in args.pattern for sign in "*?[")
    names = list_models(
        f"*{args.pattern}*" if plain else args.pattern,
        streaming=args.streaming or None,
        pretrained=args.pretrained or None,
    )
    if not names:
        kinds = [k for k in ("pretrained", "streaming") if getattr(args, k)]
        raise CliError(
            " ".join(["no", *kinds, "model matches"])
            + f" {args.pattern!r}; `streamzoo list` shows all"
        )
    width = max(16, *map(len, names))
    room = max(width + 32, shutil.get_terminal_size((100, 24)).columns)
    fold = textwrap.TextWrapper(room, subsequent_indent=" " * (width + 12)).wrap
    print(f"{'NAME (* = weights)':{width + 2}} KIND     SUMMARY")
    for name in names:
        card = model_card(name)
        kind = "stream" if card.streaming else "offline"
        line = f"{name:{width}} {'*' if card.pretrained else ' '} {kind:7}  {card.summary}"
        # whole for a program that reads it; folded under its own column for a person
        print("\n".join(fold(line)) if sys.stdout.isatty() else line)
