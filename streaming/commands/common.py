"""What the commands have in common: the default models, what may be watched, lines for the user."""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
from typing import Any, NoReturn

from ...layers.install import how_to_install
from ..precision import PRECISIONS, TAKES, check


class CliError(ValueError):
    """Wrong use of the command line."""


class Parser(argparse.ArgumentParser):
    """Whose errors are one line, like those of the commands themselves."""

    def error(self, message: str) -> NoReturn:
        # "argument --slots: 0: give ..." is said as "--slots 0: give ..."
        text = re.sub(r"^argument (?:-\w/)?(\S+): (?=\S+: give )", r"\1 ", message)
        raise CliError(f"{text}; see {self.prog} --help")


def default_model() -> str:
    """What `watch`, `demo` and `serve` use: a pipeline that follows persons, else a student; with
    weights here, and of students one that finds persons, first.

    Raises:
      CliError: no model has weights.
    """
    from ...zoo import list_models, model_card, model_config
    from ...zoo.registry import BUNDLED
    from ...zoo.traits import finds_persons
    from ..one_call import DEFAULT

    names = list_models(streaming=True, pretrained=True)
    names = [n for n in names if does(n, "follow") or does(n, "action")]
    if not names:
        raise CliError(
            "no model comes with weights in this installation; name one of `streamzoo list "
            "--streaming` with --model and add --random-weights, or give a weights file"
        )

    def here(name: str) -> bool:
        return (BUNDLED / (model_card(name).weights or "-")).is_file()

    def finds(name: str) -> bool:
        return finds_persons(model_config(name))

    rank = lambda n: (not here(n), not does(n, "follow"), n != DEFAULT, not finds(n))
    return min(names, key=rank)


def default_tracker() -> str:
    """The tracker that `track` uses. Raises CliError: none has weights."""
    from ...zoo import list_models, model_card
    from ...zoo.registry import BUNDLED

    names = [n for n in list_models(streaming=True, pretrained=True) if does(n, "track")]
    if not names:
        raise CliError(
            "no tracker comes with weights in this installation: give a weights file with --model "
            "(`streamzoo convert` makes one of a published checkpoint)"
        )
    return min(names, key=lambda name: not (BUNDLED / (model_card(name).weights or "-")).is_file())


def does(name: str, task: str) -> bool:
    """True if the registered model's card says this task."""
    from ...zoo import model_card

    return model_card(name).task == task


def runtime_options(p: argparse.ArgumentParser) -> None:
    """Adds the options of what computes a step."""
    p.add_argument(
        "--runtime",
        choices=tuple(TAKES),
        help="what computes (default: jax; of precision auto, any)",
    )
    p.add_argument(
        "--precision",
        choices=(*PRECISIONS, "auto"),
        help="of what it computes; all but fp32 change the answers (default: the model's own); "
        "auto: the fastest whose answers stay what they are, measured once on this machine",
    )


def check_computed(args: argparse.Namespace) -> None:
    """Raises RuntimeRefused: a runtime or precision that cannot be had here."""
    if args.precision != "auto":
        check(args.runtime or "jax", args.precision)


def check_watchable(name: str, card: Any, random_weights: bool) -> None:
    from ...zoo.registry import list_models

    if card.task == "generate":
        raise CliError(
            f"{name} makes video and finds nothing in one; `streamzoo list --streaming` shows"
            " models to watch with"
        )
    if not card.streaming:
        window = card.arch.replace("-", "-window-", 1)
        remedy = "`streamzoo list --streaming` shows models to watch with"
        if list_models(window):
            remedy = f"its stream is {window}, and {remedy}"
        raise CliError(f"{name} is offline and reads whole clips; {remedy}")
    if random_weights and name != card.name:
        raise CliError(f"--random-weights with the weights file {name}: leave one of them away")
    if name == card.name and not card.pretrained and not random_weights:
        raise CliError(
            f"{name} has no weights; `streamzoo list --pretrained` shows models that have, "
            "--random-weights runs it untrained"
        )


def by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def need(module: str, what: str, extra: str, instead: str = "") -> None:
    if importlib.util.find_spec(module) is None:
        raise CliError(f"{what} needs: {how_to_install(extra)}{instead and f', {instead}'}")
