"""The command line: ``streamzoo COMMAND ...``, a file of ``commands`` each, and what trains."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable
from types import ModuleType

from .commands import (
    bench,
    chat,
    cluster,
    compress,
    convert,
    demo,
    depth,
    export,
    find,
    generate,
    info,
    listen,
    run,
    serve,
    track,
    watch,
)
from .commands import list as list_
from .commands.common import CliError, Parser, default_model, default_tracker, say
from .commands.examples import demo_clip
from .commands.watching import stem_of as _stem  # its old name; scripts of users import it
from .completion import SHELLS, PrintCompletion
from .sources.redaction import scrub_error

__all__ = ["CliError", "default_model", "default_tracker", "demo_clip", "main", "_stem"]

COMMANDS: dict[str, ModuleType] = {
    "list": list_,
    "info": info,
    "demo": demo,
    "watch": watch,
    "track": track,
    "depth": depth,
    "listen": listen,
    "generate": generate,
    "chat": chat,
    "find": find,
    "export": export,
    "run": run,
    "bench": bench,
    "serve": serve,
    "cluster": cluster,
    "convert": convert,
    "compress": compress,
}
# they keep what they compile
COMPILING = (
    "watch",
    "track",
    "depth",
    "listen",
    "generate",
    "chat",
    "find",
    "demo",
    "export",
    "bench",
    "serve",
    "compress",
)
# Command lines of their own, in a room that this one does not import: name -> (module, function,
# what it does). The function takes the words after the name, and the name to call itself by.
ELSEWHERE = {
    "train": ("train.__main__", "main", "train what a config describes"),
    "evaluate": ("train.__main__", "evaluate", "metrics of weights on a config's test data"),
    "metrics": ("train.metrics.__main__", "main", "frame-mAP of a file of detections"),
    "calibrate": ("train.calibrate", "main", "when an action model knows, fitted on videos"),
    "ship": ("train.ship", "main", "a finished run as a named model with its card"),
    "synth": ("train.data.synth_tfds.__main__", "main", "write the synthetic videos as records"),
    "report": ("train.stream_report", "main", "accuracy and speed of a model, as a page"),
}

EXAMPLES = """examples:
  streamzoo list '*tsa*'
  streamzoo info tsa-s16
  streamzoo demo
  streamzoo watch street.mp4
  streamzoo watch street.mp4 --model dsta-lite0/ucf11
  streamzoo watch rtsp://127.0.0.1:8554/cam --seconds 60
  streamzoo export out/street.jsonl
  streamzoo export tsa-lite0/synth --to onnx
  streamzoo track dog.mp4 --point 320,200
  streamzoo depth street.mp4 --scene outdoor
  streamzoo listen meeting.wav --out meeting.srt
  streamzoo generate balls-tiny/bounce --seconds 60 --class tiny --at 20 huge
  streamzoo chat street.mp4 --ask "How many people are there?" --at 30
  streamzoo find talk.jsonl "a car came" --after 30
  streamzoo bench tsa-s16 dsta-s16 --teacher videomae-window-s16 --batch 1 2 4
  streamzoo serve --model dsta-lite0/ucf11 --stream rtsp://127.0.0.1:8554/cam
  streamzoo convert checkpoint.safetensors --out weights.safetensors
  streamzoo compress dsta-lite0/ucf11 --scheme w8a8 --out small.safetensors
  streamzoo calibrate WEIGHTS --in-domain CLIPS --others STREETS --out known.safetensors
  streamzoo train --config smoke --set loop.out=runs/mine
"""


def version() -> str:
    """The versions of this package and of what its numbers depend on, one line."""

    def of(name: str) -> str:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return "not installed"

    parts = [f"{name} {of(name)}" for name in ("jax", "flax")]
    return f"streamzoo {of('streamzoo')} ({', '.join(parts)}, Python {platform.python_version()})"


def parser() -> argparse.ArgumentParser:
    """The argument parser, one sub-command each."""

    def general(target: argparse.ArgumentParser, default: str | bool) -> None:
        target.add_argument(
            "--debug", action="store_true", default=default, help="show the stack trace of an error"
        )
        target.add_argument(
            "--no-compile-cache",
            action="store_true",
            default=default,
            help="compile everything anew",
        )

    raw = argparse.RawDescriptionHelpFormatter
    top = Parser(
        prog="streamzoo",
        description="Causal, real-time video models: list, watch, serve, measure, train.",
        epilog=EXAMPLES,
        formatter_class=raw,
    )
    general(top, False)
    top.add_argument("--version", action="version", version=version())
    top.add_argument(
        "--print-completion",
        choices=SHELLS,
        action=PrintCompletion,
        help="print a script by which this shell completes commands, options and model names",
    )
    sub = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        p = sub.add_parser(
            name,
            help=command.SUMMARY,
            description=command.SUMMARY,
            epilog=f"example:\n  {command.EXAMPLE}\n{getattr(command, 'NOTES', '')}",
            formatter_class=raw,
        )
        general(p, argparse.SUPPRESS)  # before the command or after it
        command.options(p)
    for name, (_, _, summary) in ELSEWHERE.items():
        sub.add_parser(name, help=summary)  # for the list of commands; see `_elsewhere`
    return top


def _elsewhere(words: list[str]) -> Callable[[], int] | None:
    """The call of a command of :data:`ELSEWHERE`, where ``words`` name one."""
    rest = list(words)
    while rest and rest[0] in ("--debug", "--no-compile-cache"):
        rest.pop(0)
    if not rest or rest[0] not in ELSEWHERE:
        return None
    module, function, _ = ELSEWHERE[rest[0]]
    room = str(__package__).rpartition(".")[0]

    def call() -> int:
        run = getattr(importlib.import_module(f"{room}.{module}"), function)
        return run(rest[1:], prog=f"streamzoo {rest[0]}")

    return call


def _compile_cache() -> None:
    from .step import enable_compile_cache

    try:
        enable_compile_cache()
    except OSError as error:  # a home that cannot be written must not stop the work
        say(f"warning: no compile cache ({_one_line(error)}); starting takes longer")


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}"
    return " ".join(str(error).split()) or type(error).__name__


def _for_the_user(error: Exception) -> bool:
    """True where the text says it all; anything else is a defect and keeps its stack trace."""
    if isinstance(error, RuntimeError):  # jax: no such platform here, or its memory is full
        return any(w in str(error) for w in ("Unable to initialize backend", "RESOURCE_EXHAUSTED"))
    return isinstance(error, (ValueError, OSError, ImportError))


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code.

    0: done, also when SIGINT or SIGTERM ended a watch. 2: one clear line on stderr says what is
    wrong. 130: Ctrl-C before or instead of a proper end.
    """
    words = sys.argv[1:] if argv is None else argv
    call = _elsewhere(words)
    try:
        if call is not None:
            return call()
        args = parser().parse_args(words)
        if not args.no_compile_cache and args.command in COMPILING:
            _compile_cache()
        code = COMMANDS[args.command].run(args)
        sys.stdout.flush()
        return code or 0
    except BrokenPipeError:  # `streamzoo list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        say("stopped")
        return 130
    except Exception as error:
        # Whoever raised it may have repeated the address that it was given.
        scrub_error(error, *[w for word in words for w in (word, word.partition("=")[2]) if w])
        if call is not None or "--debug" in words or not _for_the_user(error):
            raise
        say(f"streamzoo: {_one_line(error)}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
