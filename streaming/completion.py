"""A script by which a shell completes ``streamzoo``: commands, options, files and model names.

Written once by shtab, so that TAB starts no Python; what completes at run time (argcomplete) would
import JAX at every press, which takes seconds.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import shtab

from ..layers.streaming import Json

SHELLS = ("bash", "zsh", "fish")
# what the value of an argument is, by the word that its help shows for it
VALUES = {
    "FILE": shtab.FILE,
    "SOURCE": shtab.FILE,
    "[NAME=]URL": shtab.FILE,
    "VIDEO": shtab.FILE,
    "CARD": shtab.FILE,
    "CHECKPOINT": shtab.FILE,
    "FOLDER": shtab.DIRECTORY,
}
MODELS = ("model", "models", "teacher", "lines")  # a registered name or a file, by attribute


class PrintCompletion(argparse.Action):
    """Prints the script of the named shell, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *values: Any) -> None:
        from ..zoo import list_models  # imports all of the zoo

        print(script(parser, values[1], list_models()))
        parser.exit(0)


def script(parser: argparse.ArgumentParser, shell: str, models: Sequence[str]) -> str:
    """The completion script of ``parser`` for one of :data:`SHELLS`; it offers ``models``."""
    names = _names(models)
    for action in _arguments(parser):
        if action.dest in MODELS:
            action.complete = names  # type: ignore[attr-defined]  # how shtab is told
        elif action.metavar in VALUES:
            action.complete = VALUES[str(action.metavar)]  # type: ignore[attr-defined]
    return shtab.complete(parser, shell)


def _arguments(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All arguments, those of the sub-commands too."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _arguments(command)


def _names(models: Sequence[str]) -> Json:
    """What shtab is told where one of ``models`` or a file is wanted."""
    words = shlex.join(models)
    function = "_streamzoo_model_or_file"  # "file": shtab then lets bash treat paths as paths
    return {
        "bash": function,
        "zsh": function,
        "fish": f"({function})",
        "preamble": {
            "bash": f"{function}() {{\n  compgen -W {shlex.quote(words)} -- $1\n"
            "  compgen -f -- $1\n}",
            "zsh": f"{function}() {{\n  _alternative {shlex.quote(f'models:model:({words})')} "
            "'files:file:_files'\n}",
            "fish": f"function {function}\n  printf '%s\\n' {words}\n"
            "  __fish_complete_path (commandline -ct)\nend",
        },
    }
