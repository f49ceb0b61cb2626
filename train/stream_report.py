"""Accuracy and speed of a live model after the article's protocol, as one HTML page and JSON.

    python -m streamzoo.train.stream_report dsta-lite0/ucf11 --config ucf11_student --out report

Streams of random frames run through the serving engine on the wall clock, first one, then more,
until more than one frame in a hundred is later than the budget or a frame is dropped.
"""

# The one file of ``train`` that looks into ``streaming``: what it reports needs both.

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from .. import zoo
from ..layers.streaming import Json
from ..streaming.engine import EngineError
from ..streaming.engine.trial import Plan, Trial, run_trial
from ..streaming.results import Claim, OutputError
from ..streaming.step import Step
from ..zoo.registry import UnknownOverrideError
from ..zoo.resolve import card_of
from . import settings
from .data.base import DataError
from .metrics.stream import most_that_hold
from .settings import SettingError
from .stream_figures import about, closely, device, row
from .stream_page import page

EXAMPLE = """\
examples:
  python -m streamzoo.train.stream_report dsta-lite0/ucf11 --config ucf11_student --out report
  python -m streamzoo.train.stream_report live-mi-lite0 --config live_hrm \\
      --weights runs/live_hrm/weights.safetensors --fps 10 --out report
  python -m streamzoo.train.stream_report tsa-ti16 --streams 4 --seconds 5 --out report

It writes FOLDER/report.json and FOLDER/report.html. Speed is of this machine, as busy as it is; the
page says how busy. Without --config accuracy is not measured.

exit status: 0 done; 1 the model failed; 2 wrong input; 130 stopped (Ctrl-C)
"""

WRONG = (
    SettingError, DataError, zoo.UnknownModelError, zoo.WeightsError, UnknownOverrideError, OSError,
    OutputError,
)  # fmt: skip
FAILED = (EngineError, jax.errors.JaxRuntimeError)
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is measured: a model with weights, and where they are from."""

    name: str
    weights: str  # a name or file for ``zoo.load``; "" for random ones
    step: Step


def parser(prog: str = "python -m streamzoo.train.stream_report") -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog,
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = p.add_argument
    add("model", metavar="MODEL", help="a registered name (`streamzoo list --streaming`) or a file")
    add("--weights", metavar="FILE", help="weights of MODEL (default: its own, else random ones)")
    add("--config", metavar="RECIPE", help="measure accuracy on the test data of this config")
    add(
        "--set", metavar="A.B=C", action="append", default=[], dest="settings", nargs="+",
        help="change a setting of the config, such as test.path=ZIP",
    )  # fmt: skip
    add("--fps", type=float, default=15.0, help="frames/s of a stream (default: %(default)g)")
    add("--budget-ms", type=float, default=120.0, metavar="MS",
        help="from a frame to its answer (default: %(default)g)")  # fmt: skip
    add("--streams", type=int, metavar="N",
        help="look at N streams closely (default: as many as are held, at least 1)")  # fmt: skip
    add("--max-streams", type=int, default=64, metavar="N",
        help="look for no more than N that are held (default: %(default)d)")  # fmt: skip
    add("--seconds", type=float, default=10.0, help="length of a trial (default: %(default)g)")
    add("--seed", type=int, default=0, help="of the frames and phases (default: %(default)d)")
    add("--out", metavar="FOLDER", required=True, help="folder for the two files")
    add("--overwrite", action="store_true", help="replace a report that is there already")
    return p


def main(argv: list[str] | None = None, **named: str) -> int:
    """Runs the command line; returns the exit status."""
    options = parser(**named).parse_args(argv)
    say: Say = lambda text: print(text, file=sys.stderr, flush=True)
    try:
        plans = _plans(options)
        folder = _folder(options.out)
        names = ("report.json", "report.html")
        with contextlib.ExitStack() as claims:
            data, html = [
                claims.enter_context(Claim(folder / name, options.overwrite)) for name in names
            ]
            found = report(options, plans, say)
            data.path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            html.path.write_text(page(found), encoding="utf-8")
    except WRONG as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FAILED as error:
        print(f"error: the model failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; nothing is written", file=sys.stderr)
        return 130
    print(f"{folder / 'report.html'}\n{folder / 'report.json'}")
    return 0


def _plans(options: argparse.Namespace) -> Callable[[int], Plan]:
    """Number of streams -> plan of their trial. Raises SettingError: impossible values."""
    wrong = [
        f"--{name.replace('_', '-')} {value:g}"
        for name in ("fps", "budget_ms", "streams", "max_streams", "seconds")
        if (value := getattr(options, name)) is not None and not (0 < value < math.inf)
    ]
    if wrong:
        raise SettingError(f"{', '.join(wrong)}: give a finite number above 0")
    plan = lambda streams: Plan(
        streams, options.fps, options.seconds, options.seed, options.budget_ms / 1e3
    )
    try:
        plan(1)
    except ValueError as error:
        raise SettingError(f"--seconds, --fps or --seed: {error}") from None
    return plan


def _folder(out: str) -> Path:
    """The folder, there and writable before anything slow begins. Raises SettingError."""
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = (error.strerror or "unknown reason").lower()
        raise SettingError(f"--out {out}: cannot be written to ({why}); give another") from None
    return folder


def report(options: argparse.Namespace, plans: Callable[[int], Plan], say: Say) -> Json:
    """Measures; everything that the page shows, ready for JSON."""
    busy = os.getloadavg()[0]  # before this process adds to it
    config = _config(options)
    subject = load(options.model, options.weights, say)
    accuracy = None
    if config is not None:
        say(f"accuracy: {subject.weights} on the test data of {options.config} ...")
        measured = config.evaluate_file(subject.weights)
        accuracy = {k: float(v) if math.isfinite(v) else None for k, v in measured.items()}
    most, trials, failed = search(subject.step, plans, options.max_streams, say)
    shown = options.streams or max(most, 1)
    if shown not in trials:
        trials[shown] = _try(subject.step, plans(shown), say)
    return {
        "model": about(subject.step, subject.name, subject.weights),
        "device": device(busy),
        "protocol": {
            "fps": options.fps, "budget_ms": options.budget_ms, "seconds": options.seconds,
            "seed": options.seed, "max_streams": options.max_streams,
            "steps_ahead": trials[shown].plan.depth,
        },
        "streams_within_budget": most,
        "limited_by_max_streams": most == options.max_streams,
        "trial": closely(trials[shown]),
        "trials": [row(trials[n]) for n in sorted(trials)],
        "failed": {str(n): why for n, why in sorted(failed.items())},
        "accuracy": accuracy,
        "accuracy_config": " ".join([options.config or "", *_flat(options.settings)]).strip(),
    }  # fmt: skip


def _flat(settings: list[list[str]]) -> list[str]:
    return [one for group in settings for one in group]


def _config(options: argparse.Namespace) -> Any:
    """The config, if one is named and of this model. Raises SettingError, UnknownModelError."""
    card = card_of(options.weights or options.model)
    if options.config is None:
        if options.settings:
            raise SettingError("--set changes a config: name it with --config")
        return None
    config = settings.override(settings.load_config(options.config), _flat(options.settings))
    chosen = getattr(config, "model", None)  # a name, or a part of the config that has one
    name = chosen if chosen is None or isinstance(chosen, str) else chosen.name
    if name != card.arch:
        raise SettingError(
            f"--config {options.config} is of {name or 'no model'} and {options.model} is a "
            f"{card.arch}: give the config that it was trained with"
        )
    if not (options.weights or card.pretrained or Path(options.model).is_file()):
        raise SettingError(
            f"--config {options.config}: {options.model} has no weights, so there is no accuracy "
            "to measure; give --weights FILE, or leave --config away"
        )
    return config


def load(name: str, weights: str | None, say: Say) -> Subject:
    """The model of a name or file. Raises SettingError, UnknownModelError, WeightsError."""
    card = card_of(name)
    if not card.streaming:
        raise SettingError(
            f"{name} is offline and reads whole clips: `streamzoo list --streaming` shows models "
            "that answer frame by frame"
        )
    if card.task == "generate":
        raise SettingError(f"{name} makes video, and this report is of what a video shows")
    if card.task == "track":
        raise SettingError(f"{name} tracks what it is shown, and this report shows it nothing")
    if weights is not None:
        theirs = card_of(weights).name
        if theirs not in (card.name, card.arch):
            raise SettingError(f"--weights {weights} are of {theirs}, not of {name}")
    source = weights or (name if card.pretrained or Path(name).is_file() else "")
    say(f"{name}: loading {source or 'it with random weights'} ...")
    found = zoo.resolve(source) if source else (*zoo.init_params(card.name), card)
    return Subject(card.name, source, Step(*found))


def search(
    step: Step, plans: Callable[[int], Plan], limit: int, say: Say
) -> tuple[int, dict[int, Trial], dict[int, str]]:
    """(the most streams that are held, every trial that was needed by its streams, why others
    failed, such as for want of memory). Raises as :func:`run_trial` where one stream fails."""
    trials: dict[int, Trial] = {}
    failed: dict[int, str] = {}

    def holds(streams: int) -> bool:
        try:
            trials[streams] = _try(step, plans(streams), say)
        except FAILED as error:
            if streams == 1:
                raise
            failed[streams] = str(error).strip().split("\n")[0]
            say(f"  failed: {failed[streams]}")
            return False
        return trials[streams].holds()

    return most_that_hold(holds, limit), trials, failed


def _try(step: Step, plan: Plan, say: Say) -> Trial:
    many = f"{plan.streams} stream{'s' * (plan.streams > 1)}"
    say(f"{many} at {plan.fps:g} frames/s: compiling, then {plan.seconds:g} s ...")
    trial = asyncio.run(run_trial(step, plan))
    got = row(trial)
    say(
        f"  p50 {got['p50_ms']:.1f}, p99 {got['p99_ms']:.1f} ms, {got['dropped']} of "
        f"{got['received']} frames dropped: {'held' if got['held'] else 'not held'}"
    )
    return trial


if __name__ == "__main__":
    sys.exit(main())
