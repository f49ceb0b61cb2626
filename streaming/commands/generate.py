"""`streamzoo generate`."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from typing import Any

from ...zoo.ranges import Count, Positive, option
from .common import CliError, say

DEFAULT = "balls-tiny/bounce"
SUMMARY = "make a video of any length, frame by frame, in memory of constant size"
EXAMPLE = "streamzoo generate balls-tiny/bounce --seconds 60 --class tiny --at 20 huge"
NOTES = """
The video is written while it is made and plays at any moment. A class holds from a whole block of
frames on; where --at falls inside of one, the next block has it, and the command says so."""


def options(p: argparse.ArgumentParser) -> None:
    """Adds the options."""
    p.add_argument(
        "model", metavar="NAME", nargs="?", default=DEFAULT, help=f"(default: {DEFAULT})"
    )
    p.add_argument(
        "--out", metavar="FILE", default="out/generated.mp4", help="(default: %(default)s)"
    )
    p.add_argument("--overwrite", action="store_true", help="replace a video that is there")
    p.add_argument("--seconds", metavar="S", type=option(Positive), default=10.0,
                   help="of video (default: 10)")  # fmt: skip
    p.add_argument("--class", dest="name", metavar="CLASS", help="what is shown; none: as it comes")
    p.add_argument("--at", nargs=2, action="append", default=[], metavar=("S", "CLASS"),
                   help="another class from so many seconds on; once or more")  # fmt: skip
    p.add_argument("--size", metavar="PIXELS", type=option(Count), default=256,
                   help="a side of the picture (default: 256)")  # fmt: skip
    p.add_argument("--seed", type=int, default=0, help="another one, another video (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Makes the video; the exit code."""
    from ...zoo.generate.balls import picture
    from ...zoo.generate.balls.names import stream
    from ...zoo.generate.generator import Generator
    from ...zoo.generate.wan.model import Wan
    from ...zoo.resolve import card_of, load
    from ..generating import Costs, blocks, switches
    from ..video_writer import VideoWriter

    card = card_of(args.model)
    if card.task != "generate" or tuple(card.classes) != picture.CLASSES:
        raise CliError(f"{args.model} makes no video by a class; {DEFAULT} does")
    rollout, fps = stream(), float(card.frame_rate or picture.FRAME_RATE)
    per_block = rollout.block / fps
    try:
        plan = switches(args.name, args.at, args.seconds, per_block, picture.condition)
    except ValueError as error:
        raise CliError(str(error)) from None
    for change in plan:
        if (late := change.late(per_block)) > 1e-9:
            say(
                f"--at {change.at:g} {change.name} falls inside of a block of {rollout.block}"
                f" frames; it is held until the next one, {change.at + late:g} s"
            )
    module: Any
    module, variables = load(args.model)
    if not isinstance(module, Wan):
        raise CliError(f"{args.model} makes no video by a class; {DEFAULT} does")
    generator = Generator(module, variables, rollout)
    count = max(1, round(args.seconds / per_block))
    names = {change.block: change.name for change in plan}
    shown: list[str | None] = [args.name]

    def condition(block: int):
        new = block in names
        if new:
            shown[0] = names[block]
        return picture.condition(shown[0], module.config.text_dim), new

    costs, stop, began = Costs(rollout.block), [], time.perf_counter()
    with contextlib.ExitStack() as stack:
        # Claimed before anything is compiled: a path that cannot be written is told at once.
        writer = VideoWriter(args.out, fps, (args.size, args.size), overwrite=args.overwrite)
        stack.callback(writer.close)
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.signal(number, lambda number, _: stop.append(number))
            stack.callback(signal.signal, number, before)
        table = stack.enter_context(_table())
        for block, latents, seconds in blocks(generator, condition, count, args.seed):
            drawing = time.perf_counter()
            for image in picture.draw(latents.reshape(rollout.block, -1), args.size):
                writer.write(image)
            costs.made.append(seconds)
            costs.drawn.append(seconds + time.perf_counter() - drawing)
            if costs.cold is None:
                costs.cold = time.perf_counter() - began
                again = time.perf_counter()
                next(blocks(generator, condition, 1, args.seed + 1))
                costs.warm = time.perf_counter() - again
            table(costs, (block + 1) * per_block, shown[0])
            if stop:
                break
    say(costs.line())
    made = costs.frames / fps
    cut = f"; stopped before the {args.seconds:g} s that were asked for" if stop else ""
    say(f"wrote {writer.path}: {made:.1f} s of video, {fps:g} frames/s{cut}")
    return 0


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
