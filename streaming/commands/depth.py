"""`streamzoo depth`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...zoo.ranges import Whole, option
from . import watching
from .common import CliError, say

if TYPE_CHECKING:  # loaded when it is run
    import numpy as np

    from ..measured_depth import DepthSession
    from ..sources import FrameSource
    from ..views.base import View

DEFAULT = "depth-nano/worlds"
BETTER = "temporaldepth-s14/v2"
SCENES = {"indoor": "temporaldepth-s14/v2-indoor", "outdoor": "temporaldepth-s14/v2-outdoor"}
SUMMARY = "how far every pixel of a file, camera or stream is, as a video in colours"
EXAMPLE = "streamzoo depth street.mp4 --scene outdoor"
NOTES = """
The video shows the picture and beside it its depth: bright is near. Without --scene depth is
relative: an inverse distance of unknown scale. The default model comes with the package and learned
from drawn worlds alone; --model temporaldepth-s14/v2 (99 MB, downloaded once) knows real ones. A
line of the JSON lines has the nearest, the median and the farthest, and how much of the frame
agrees with the one before (`confidence`).
A model that says cameras (weights of vggtstream-l14, made by `streamzoo convert` of VGGT's) also
writes STEM.cameras.jsonl, the path of the camera, and STEM.ply, the points."""


def options(p: argparse.ArgumentParser) -> None:
    """Adds the options."""
    p.add_argument("source", metavar="SOURCE", help="file, camera number, rtsp:// or http address")
    p.add_argument(
        "--scene",
        choices=tuple(SCENES),
        help="say metres, with the model for rooms (up to 20 m) or for streets (up to 80 m)",
    )
    watching.options(p, DEFAULT)
    p.add_argument("--retries", metavar="N", type=option(Whole), help=watching.RETRIES)


def run(args: argparse.Namespace) -> None:
    """Writes the depth of a source."""
    from ...zoo import card_of
    from ..measured_depth import DepthSession
    from ..views.depth import DepthView

    if args.scene and args.model:
        raise CliError("--scene chooses a model, and --model is one: give one of them")
    name = SCENES[args.scene] if args.scene else args.model or DEFAULT
    if card_of(name).task != "depth":
        raise CliError(f"{name} says no depth; `streamzoo list '*depth*'` shows models that do")
    if not args.random_weights:
        _weights(name)
    if name == DEFAULT:
        say(
            f"{name} learned from drawn worlds, not from real ones: take its depths as a hint; "
            f"--model {BETTER} knows real ones"
        )
    stem = Path(args.out) / watching.stem_of(args.source)

    class Beside(DepthView):
        """The picture, and its depth at its right."""

        def canvas(self, size: tuple[int, int]) -> tuple[int, int]:
            return size[0], 2 * size[1]

        def draw(self, image: np.ndarray, result: Any, line: Any) -> np.ndarray:
            return beside(image, super().draw(image, result, line))

    def check(_: FrameSource) -> None:
        for path in (stem.with_suffix(".cameras.jsonl"), stem.with_suffix(".ply")):
            if path.exists() and not args.overwrite:
                raise CliError(f"{path} is there already; --overwrite replaces it")

    def open_session(step: Any, source: Any) -> tuple[DepthSession, View[Any]]:
        return DepthSession(step, source.size), Beside(source.original_size)

    def after(session: DepthSession, _: float) -> None:
        told = session.told()
        say(
            f"random weights: depths and flicker mean nothing ({told})"
            if args.random_weights
            else told
        )
        for path in session.write(stem):
            print(f"wrote {path}")

    watching.run(args, name, open_session, check, after)


def _weights(name: str) -> None:
    """Raises CliError, in one short line, where a published model's weights cannot be had."""
    from ...zoo import card_of
    from ...zoo.errors import WeightsError
    from ...zoo.resolve import find_weights

    if not card_of(name).source.startswith("hf:"):
        return  # what else is wrong with a name is told where it is opened
    try:
        find_weights(name)
    except WeightsError as error:
        why = str(error).rpartition("; ")[2].rpartition(", and not in")[0].partition(" (")[2]
        raise CliError(
            f"{name}: its weights are not on this machine and could not be downloaded"
            f"{why and f' ({why})'}; {DEFAULT} comes with the package"
        ) from None


def beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two pictures of one height side by side."""
    import numpy as np

    return np.concatenate([left, right], axis=1)
