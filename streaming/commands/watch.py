"""`streamzoo watch`."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any

from ...zoo.ranges import Positive, Whole, option
from . import watching
from .common import CliError, default_model, say

SUMMARY = "follow persons and cars in a file, camera (0) or rtsp/http address; or run any model"
EXAMPLE = "streamzoo watch street.mp4 --line gate=320,0,320,272 --out out"
NOTES = """
Ctrl-C (or SIGTERM) ends a run properly: the files are complete and the exit code is 0; a second
Ctrl-C gives up at once. The video plays even after kill -9. A camera or address that falls silent
is connected again, with growing pauses, until --retries attempts in a row have failed.
Results are named after SOURCE: of an address after the end of its path, or its host, and with no
secret in it. What is there already stays, and the run is refused, unless --overwrite is given.
Zones and lines are in pixels of the video; objects count by where they stand. Across a line drawn
from left to right, upwards is in. Events (a visit's start and end, a crossing) are written to
STEM.events.jsonl; `streamzoo export` makes CSV and COCO of the JSON lines."""


def options(p: argparse.ArgumentParser) -> None:
    """Adds the options."""
    p.add_argument("source", metavar="SOURCE", help="file, camera number, rtsp:// or http address")
    watching.options(p)
    p.add_argument(
        "--prompt",
        metavar="TEXT",
        help='what a model such as groundingdino-t or sam3-l14 is to find, in English: "person. '
        'red bag."',
    )
    p.add_argument("--retries", metavar="N", type=option(Whole), help=watching.RETRIES)
    p.add_argument(
        "--zone",
        metavar="[NAME=]X,Y,X,Y,X,Y...",
        action="append",
        default=[],
        help="corners of a polygon whose visitors are counted; repeatable",
    )
    p.add_argument(
        "--line",
        metavar="[NAME=]X,Y,X,Y",
        action="append",
        default=[],
        help="a line whose crossings are counted, in and out; repeatable",
    )
    p.add_argument(
        "--notify",
        metavar="URL",
        action="append",
        default=[],
        help="where each event goes as JSON: http(s)://... or mqtt(s)://HOST/TOPIC; repeatable",
    )
    p.add_argument(
        "--target-ms",
        metavar="MS",
        type=option(Positive),
        help="milliseconds that a frame may take in the mean: smaller pictures, narrower numbers "
        "and left-out frames are compared on the first frames, and the most accurate way that is "
        "fast enough is chosen as it goes",
    )
    p.add_argument(
        "--record-events", action="store_true", help="write a clip around each event, +- 3 seconds"
    )


def run(args: argparse.Namespace) -> None:
    """Watches a source and writes what was seen."""
    from ...zoo import card_of
    from ..regions import read_regions
    from ..session import Session
    from ..views import view_class, view_of

    name = args.model or default_model()
    task = card_of(name).task
    if task == "track":
        raise CliError(f"{name} tracks what it is shown: streamzoo track SOURCE --point X,Y")
    target = getattr(args, "target_ms", None)
    zones, lines = getattr(args, "zone", []), getattr(args, "line", [])  # the demo has none
    for given in ("notify", "record_events"):
        if getattr(args, given, None) and not (zones or lines):
            flag = given.replace("_", "-")
            raise CliError(f"--{flag}: there are no events without a --zone or a --line")

    def regions(source: Any) -> Any:
        found = read_regions(zones, lines, source.original_size)
        if found is not None and not view_class(task).ids:
            raise CliError(
                f"{name} gives objects no ids, which zones and lines need; watch with "
                "follow-nano/coco, the default"
            )
        return found

    def session(step: Any, source: Any) -> tuple[Any, Any]:
        view = view_of(step.card, source.original_size, regions(source))
        if target is not None:
            return _adaptive(step, source, target, args.source), view
        return Session(step, source.size, fps=source.fps if source.live else None), view

    def after(session: Any, _: float) -> None:
        if target is not None:
            say(session.told())

    sinks = functools.partial(_sinks, args) if zones or lines else None
    asked = functools.partial(_asked, getattr(args, "prompt", None), weights=name)
    watching.run(args, name, session, check=regions, after=after, open_sinks=sinks, asked=asked)


def _asked(prompt: str | None, model: Any, card: Any, weights: str = "") -> tuple[Any, Any]:
    """The model and its card, with what it is to find where it finds what it is told."""
    from ...zoo.asking import ask_for, takes_prompt
    from ...zoo.errors import WeightsError

    if prompt is None:
        if takes_prompt(model):
            raise CliError(f'{card.name} finds what it is told to: --prompt "person. red bag."')
        return model, card
    try:
        return ask_for(model, card, prompt.strip().rstrip(".").split("."), weights=weights)
    except (ValueError, WeightsError) as error:
        raise CliError(f"--prompt: {error}") from None


def _adaptive(step: Any, source: Any, target: float, given: str) -> Any:
    from ..adaptive import AdaptiveSession
    from ..ways import branches_of
    from .examples import example_pictures

    size = tuple(source.size)
    branches = branches_of(step, size, example_pictures(size, given), say=say)
    return AdaptiveSession(step, size, target / 1e3, branches, fps=source.fps)


def _sinks(args: argparse.Namespace, source: Any, lines: Path) -> list[Any]:
    """What gets the events."""
    from ..notify import notifier
    from ..recording import EventRecorder
    from ..sinks import EventLog

    notifiers = [notifier(address) for address in args.notify]
    sinks: list[Any] = [
        EventLog(
            lines.with_suffix(".events.jsonl"), source.name, notifiers, overwrite=args.overwrite
        )
    ]
    if args.record_events:
        sinks.append(
            EventRecorder(
                lines.parent, f"{lines.stem}-event", source.fps or 25.0, overwrite=args.overwrite
            )
        )
    return sinks
