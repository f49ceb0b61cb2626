"""`streamzoo generate`."""

from __future__ import annotations

import argparse
import contextlib
import math
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from ...zoo.ranges import Count, Positive, option
from ...zoo.registry import UnknownModelError
from . import reading
from .common import CliError, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..sources import Frame, FrameSource

DEFAULT = "balls-tiny/bounce"
SUMMARY = "make a video of any length, frame by frame, in memory of constant size"
EXAMPLE = "streamzoo generate balls-tiny/bounce --seconds 60 --class tiny --at 20 huge"
NOTES = """
The video is written while it is made and plays at any moment. A class holds from a whole block of
frames on; where --at falls inside of one, the next block has it, and the command says so.
With --source the video of a file or a camera is made anew: what moves in it becomes a ball. More
--strength leaves less of it. Where a camera is faster than the network, its oldest frames are left
out."""


def options(p: argparse.ArgumentParser) -> None:
    """Adds the options."""
    p.add_argument(
        "model", metavar="NAME", nargs="?", default=DEFAULT, help=f"(default: {DEFAULT})"
    )
    p.add_argument(
        "--out", metavar="FILE", default="out/generated.mp4", help="(default: %(default)s)"
    )
    p.add_argument("--overwrite", action="store_true", help="replace a video that is there")
    p.add_argument("--seconds", metavar="S", type=option(Positive),
                   help="of video (default: 10; with --source until it ends)")  # fmt: skip
    p.add_argument("--source", metavar="VIDEO",
                   help="a file, an address or a camera (0) that is made anew")  # fmt: skip
    p.add_argument("--strength", metavar="SHARE", type=option(Positive), default=0.5,
                   help="of --source: share made anew, 0.25 to 0.75 (default: 0.5)")  # fmt: skip
    reading.options(p)
    p.add_argument("--class", dest="name", metavar="CLASS", help="what is shown; none: as it comes")
    p.add_argument("--at", nargs=2, action="append", default=[], metavar=("S", "CLASS"),
                   help="another class from so many seconds on; once or more")  # fmt: skip
    p.add_argument("--size", metavar="PIXELS", type=option(Count), default=256,
                   help="a side of the picture (default: 256)")  # fmt: skip
    p.add_argument("--seed", type=int, default=0, help="another one, another video (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Makes the video; the exit code."""
    from ...zoo.generate.balls.names import stream
    from ...zoo.generate.balls.source import Motion
    from ..generating import Costs, at_rate, blocks, in_blocks, loaded, look_of, switches
    from ..video_writer import VideoWriter

    anew = args.source is not None
    length = args.seconds or (math.inf if anew else 10.0)
    try:
        look = look_of(args.model)
        per_block, fps = stream().block / look.fps, look.fps
        plan = switches(args.name, args.at, length, per_block, look.condition)
        if anew and args.strength >= 1:
            raise ValueError("--strength 1 leaves nothing of a source: give 0.25 to 0.75")
        for change in plan:
            if (late := change.late(per_block)) > 1e-9:
                say(
                    f"--at {change.at:g} {change.name} falls inside of a block of {stream().block}"
                    f" frames; it is held until the next one, {change.at + late:g} s"
                )
        generator = loaded(look, args.strength if anew else 1.0)
    except UnknownModelError:
        raise
    except ValueError as error:
        raise CliError(str(error)) from None
    rollout = generator.rollout
    count = -1 if math.isinf(length) else max(1, round(length / per_block))
    names = {change.block: change.name for change in plan}
    shown: list[str | None] = [args.name]

    def condition(block: int):
        new = block in names
        if new:
            shown[0] = names[block]
        return look.condition(shown[0]), new

    costs, stop, began = Costs(rollout.block), [], time.perf_counter()
    with contextlib.ExitStack() as stack:
        given = None
        if anew:
            video = stack.enter_context(_opened(args))
            given = in_blocks(map(Motion(), at_rate(_frames(video, stop), fps)), rollout.block)
        # Claimed before anything is compiled: a path that cannot be written is told at once.
        writer = VideoWriter(args.out, fps, (args.size, args.size), overwrite=args.overwrite)
        stack.callback(writer.close)
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.signal(number, lambda number, _: stop.append(number))
            stack.callback(signal.signal, number, before)
        table = stack.enter_context(_table())
        for block, latents, seconds in blocks(generator, condition, count, args.seed, given):
            drawing = time.perf_counter()
            for image in look.draw(latents, args.size):
                writer.write(image)
            costs.made.append(seconds)
            costs.drawn.append(seconds + time.perf_counter() - drawing)
            if costs.cold is None:
                costs.cold = time.perf_counter() - began
                again = time.perf_counter()
                once = iter([latents]) if given is not None else None
                next(blocks(generator, condition, 1, args.seed + 1, once))
                costs.warm = time.perf_counter() - again
            table(costs, (block + 1) * per_block, shown[0])
            if stop:
                break
    if anew and not costs.made and not stop:
        raise CliError(f"--source {args.source}: shorter than a block of {per_block:g} s")
    say(costs.line())
    made = costs.frames / fps
    cut = f"; stopped before the {length:g} s that were asked for" if stop and count > 0 else ""
    say(f"wrote {writer.path}: {made:.1f} s of video, {fps:g} frames/s{cut}")
    return 0


def _frames(video: FrameSource, stop: list[int]) -> Iterator[Frame]:
    """The frames until the video ends, or a signal has come."""
    while not stop:
        frame = video.read(timeout=0.5)
        if frame is not None:
            yield frame
        elif video.over:
            return


def _opened(args: argparse.Namespace) -> FrameSource:
    """The video that is made anew, small. Raises CliError: it cannot be read."""
    from ...zoo.generate.balls.source import FINE
    from ..sources import SourceError, open_source

    try:
        return open_source(args.source, size=(FINE, FINE), **reading.reader_of(args))
    except SourceError as error:
        raise CliError(f"--source {error}") from None


@contextlib.contextmanager
def _table():
    """A live table in a terminal where rich is installed; a line every few seconds where not."""
    said = [time.monotonic()]

    def line(costs: Any, seconds: float, _: str | None) -> None:
        if time.monotonic() - said[0] > 5:
            said[0] = time.monotonic()
            say(f"{seconds:.1f} s of video, {costs.rate(costs.drawn):.0f} frames/s with the file")

    if not sys.stderr.isatty():
        yield line
        return
    try:
        from rich.console import Console
        from rich.live import Live
        from rich.table import Table
    except ImportError:
        yield line
        return
    with Live(console=Console(stderr=True), refresh_per_second=4) as live:

        def show(costs: Any, seconds: float, name: str | None) -> None:
            table = Table("video", "class", "frames/s made", "with file", "first frame")
            first = f"{costs.cold:.2f} s cold, {costs.warm:.3f} warm"
            made, drawn = (f"{costs.rate(of):.0f}" for of in (costs.made, costs.drawn))
            table.add_row(f"{seconds:.1f} s", name or "any", made, drawn, first)
            live.update(table)

        yield show
