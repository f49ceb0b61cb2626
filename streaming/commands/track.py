"""`streamzoo track`."""

from __future__ import annotations

import argparse
import math
from functools import partial
from typing import TYPE_CHECKING, Any

from ...zoo.ranges import Whole, option
from . import watching
from .common import CliError, default_tracker

if TYPE_CHECKING:  # loaded when it is run
    from ..sources import FrameSource
    from ..track import Prompt, TrackSession

SUMMARY = "follow objects that a point or a box shows, and write their masks"
EXAMPLE = "streamzoo track dog.mp4 --point 320,200"
NOTES = """
Points and boxes are in pixels of the video. Objects are told apart by NAME (default: 1); a later
prompt of a name corrects its object: --point car=200,120 --box dog=40,60,180,220 --point car=9,8@4
SECONDS count from the first frame; a prompt that no frame will see is refused, or told at the end.
The JSON lines hold the masks as COCO run lengths. Ctrl-C ends a run properly."""


def options(p: argparse.ArgumentParser) -> None:
    """Adds the options."""
    p.add_argument("source", metavar="SOURCE", help="file, camera number, rtsp:// or http address")
    p.add_argument(
        "--point",
        metavar="[NAME=]X,Y[,0][@S]",
        action="append",
        default=[],
        help="a pixel on the object (with ,0: beside it), from second S on; repeatable",
    )
    p.add_argument(
        "--box",
        metavar="[NAME=]X0,Y0,X1,Y1[@S]",
        action="append",
        default=[],
        help="a box around the object; repeatable",
    )
    watching.options(p, "tracker-lite0/davis")
    p.add_argument("--retries", metavar="N", type=option(Whole), help=watching.RETRIES)


def run(args: argparse.Namespace) -> None:
    """Tracks prompted objects and writes their masks."""
    from ...zoo import card_of
    from ..track import TrackSession, read_prompts
    from ..views import view_of

    prompts = read_prompts(args.point, args.box)
    if not prompts:
        raise CliError("nothing to track: --point X,Y or --box X0,Y0,X1,Y1, in pixels of the video")
    name = args.model or default_tracker()
    if card_of(name).task != "track":
        raise CliError(f"{name} is no tracker; `streamzoo list '*tam*'` and '*video*' are")

    def open_session(step: Any, source: Any) -> tuple[Any, Any]:
        session = TrackSession(step, source.original_size, prompts)
        return session, view_of(step.card, source.original_size)

    watching.run(args, name, open_session, partial(_check, args, prompts), _unreached)


def _check(args: argparse.Namespace, prompts: list[Prompt], source: FrameSource) -> None:
    """Raises ValueError: a prompt that is outside the picture, or that would never be reached."""
    end, why = math.inf, ""
    if source.frame_count and source.fps and not source.live:
        length = source.frame_count / source.fps
        # What a file announces is not exact: what is near its end is tried, and told after it.
        end, why = length + max(1.0, 0.05 * length), f"the video is {length:.1f} s long"
    if args.seconds is not None and args.seconds < end:
        end, why = args.seconds, f"--seconds {args.seconds:g} stops before it"
    for prompt in prompts:
        prompt.check(source.original_size)
        if prompt.at >= end:
            raise CliError(
                f"object {prompt.name}: its prompt for second {prompt.at:g} would never be "
                f"reached: {why}; give an earlier second after the @"
            )


def _unreached(session: TrackSession, end: float) -> str | None:
    late = [f"{p.name} at second {p.at:g}" for p in session.unreached]
    if not late:
        return None
    return (
        f"prompts that were not reached, and did nothing: {', '.join(late)}; the last frame was at "
        f"second {end:.2f}: give an earlier second after the @"
    )
