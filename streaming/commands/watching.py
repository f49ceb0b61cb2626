"""A session over a source, as watch, demo and track run it: its options and its outputs."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ...zoo.ranges import Count, Positive, option
from ..results import Claim
from ..sources import FrameSource
from ..sources.redaction import label, redact
from . import reading
from .common import CliError, by, check_computed, check_watchable, need, runtime_options, say
from .examples import example_pictures

STEM = 100  # bytes of a result's name: file systems take 255, and its ending comes behind
RETRIES = "attempts in a row before a lost live source is given up (default: never)"


def options(p: argparse.ArgumentParser, default: str = "follow-nano/coco") -> None:
    """Adds the options that watch, demo and track share; ``default``: the model."""
    p.add_argument(
        "--model",
        metavar="NAME",
        help=f"model name, or a weights file of ours (default: {default})",
    )
    p.add_argument(
        "--out", metavar="FOLDER", default="out", help="folder for the results (default: out)"
    )
    p.add_argument(
        "--seconds",
        metavar="S",
        type=option(Positive),
        help="stop after so many seconds, of the recording or of the live stream",
    )
    p.add_argument("--frames", metavar="N", type=option(Count), help="stop after so many frames")
    p.add_argument(
        "--overwrite", action="store_true", help="replace results that are there already"
    )
    reading.options(p)
    p.add_argument("--no-video", action="store_true", help="write the JSON lines only")
    p.add_argument("--random-weights", action="store_true", help="run a model that has no weights")
    runtime_options(p)


def run(
    args: argparse.Namespace,
    name: str,
    open_session: Callable[..., Any],
    check: Callable[[FrameSource], None] = lambda _: None,
    after: Callable[[Any, float], str | None] = lambda _session, _end: None,
    open_sinks: Callable[..., Any] | None = None,
    asked: Callable[[Any, Any], tuple[Any, Any]] = lambda model, card: (model, card),
) -> None:
    """Runs ``open_session(step, source) -> (session, view or None)`` over the source.

    ``check``: raises for a source with which the rest makes no sense, before anything slow begins.
    ``after(session, time of the last frame)``: what the user is to be warned of at the end.
    ``open_sinks(source, lines)``: what else gets each frame; ``lines`` is the JSON-lines file.
    ``asked(model, card)``: both as the user wants them.
    """
    from ...zoo import card_of, init_params, load
    from ..choice import chosen_step
    from ..session import frame_size
    from ..sources import open_source
    from ..watch import Board, size_text, watch

    if not args.no_video:
        need("PIL", "drawing on video", "demo", "or pass --no-video")
    if sys.stderr.isatty():
        need("rich", "the live table", "demo")
    card = card_of(name)
    check_watchable(name, card, args.random_weights)
    check_computed(args)
    with ExitStack() as stack:
        source = stack.enter_context(
            open_source(
                args.source,
                size=frame_size(card),
                keep_original=True,
                max_retries=getattr(args, "retries", None),
                **reading.reader_of(args),
            )
        )
        check(source)
        video, lines = outputs(args, stack)
        say(f"watching {source.name}")
        say(f"with {name}: loading, and compiling for {by(source.size)} pixels ...")
        start = time.monotonic()
        model, params = init_params(name) if args.random_weights else load(name)
        model, card = asked(model, card)
        if late := model.latency:
            raise CliError(
                f"{name} answers {late} frames late and would be drawn on the wrong frames; "
                "watch with a model of latency 0"
            )
        step = chosen_step(
            model, params, card, runtime=args.runtime, precision=args.precision,
            pictures=example_pictures(card.input_size, args.source), say=say,
        )  # fmt: skip
        session, view = open_session(step, source)
        with session:
            say(f"ready after {time.monotonic() - start:.1f} s; Ctrl-C stops")
            try:
                figures = watch(
                    session,
                    source,
                    view=view,
                    video=video,
                    lines=lines,
                    max_frames=args.frames,
                    seconds=args.seconds,
                    board=Board(f"{name} on {Path(source.name).name}"),
                    sinks=open_sinks(source, lines.path) if open_sinks else (),
                )
            except BaseException:  # what was written until then is complete
                where(video, lines)
                raise
            warnings = source.warning, after(session, figures["end"])
        for warning in filter(None, warnings):
            say(f"warning: {warning}")
    if figures["stopped"]:
        say(f"stopped by {signal.Signals(int(figures['stopped'])).name}")
    live = ""
    if source.live:
        count = int(figures["reconnects"])
        live = f"; {figures['dropped']:.0f} dropped, {count} reconnect{'s' * (count != 1)}"
    held = f" (of them {1e3 * source.delay:.0f} in the jitter buffer)" if source.delay else ""
    count = round(figures["frames"])
    many = f"{count} frames at {figures['fps']:.1f} frames/s" if count != 1 else "1 frame"
    print(
        f"{many}; model "
        f"{figures['model_ms']:.1f} ms, latency p50 {figures['latency_p50']:.1f} ms, "
        f"p99 {figures['latency_p99']:.1f} ms{held}; "
        f"carry {size_text(figures['carry_bytes'])}{live}"
    )
    where(video, lines)


def outputs(args: argparse.Namespace, stack: ExitStack) -> tuple[Claim | None, Claim]:
    """The two files to write, ours before anything slow begins and until ``stack`` ends."""
    out = Path(args.out)
    if not out.exists():
        stack.callback(_remove_if_empty, out)  # a run that came to nothing leaves nothing
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise CliError(f"--out {out}: there is a file in the way; give a folder") from None
    except OSError as error:
        why = (error.strerror or "unknown reason").lower()
        raise CliError(f"--out {out}: cannot be made ({why}); give another folder") from None
    stem = stem_of(args.source)
    video, lines = out / f"{stem}.mp4", out / f"{stem}.jsonl"
    claims = []
    for path in (lines,) if args.no_video else (lines, video):
        source = Path(args.source.removeprefix("file://"))
        if path.exists() and source.exists() and path.samefile(source):
            raise CliError(f"{path} is the source itself; give another folder with --out")
        claims.append(stack.enter_context(Claim(path, args.overwrite)))
    return None if args.no_video else claims[1], claims[0]


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def stem_of(source: str) -> str:
    """A file name for what a source gave: at most 100 bytes, and nothing secret in it."""
    if source.isdecimal():
        return f"camera{source}"
    path = source.removeprefix("file://")
    name = label(path) if "://" in path else Path(redact(path)).stem.strip(".")
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in name) or "stream"
    if len(name.encode()) > STEM:  # cut, and still told from others that begin alike
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = name.encode()[: STEM - 9].decode(errors="ignore") + "-" + digest
    return name


def where(*claims: Claim | None) -> None:
    for path in [claim.path for claim in claims if claim is not None]:
        if path.exists() and path.stat().st_size:
            print(f"wrote {path}")
