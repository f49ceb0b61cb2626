"""Options of the commands that open sources: how FFmpeg reads them."""

from __future__ import annotations

import argparse

from ...layers.streaming import Fields
from ...zoo.ranges import Weight, option
from ..sources.jitter import MAX_DELAY, NETWORK_DELAY
from .common import CliError


def options(p: argparse.ArgumentParser) -> None:
    """Adds the options."""
    p.add_argument(
        "--rtsp-transport",
        choices=["auto", "tcp", "udp"],
        help="of an RTSP camera's pictures (default: auto, which is TCP unless the camera "
        "refuses it)",
    )
    p.add_argument(
        "--option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="an option of FFmpeg's reader, such as user_agent=me or framerate=30; repeatable",
    )
    delay_option(p)


def delay_option(p: argparse.ArgumentParser) -> None:
    """Adds the delay of the jitter buffer, which a server's cameras have too."""
    p.add_argument(
        "--delay",
        metavar="S",
        type=option(Weight),
        help="seconds for which live frames are held after their capture, so that a network that "
        f"jitters by less is not noticed (default: {NETWORK_DELAY:g} of an address, 0 of a camera "
        f"or file of this machine; below {MAX_DELAY:g})",
    )


def reader_of(args: argparse.Namespace) -> Fields:
    """The options as keywords of `open_source`. Raises CliError: one is not NAME=VALUE."""
    pairs = dict[str, str]()
    for text in args.option:
        name, equals, value = text.partition("=")
        if not (name.strip() and equals):
            raise CliError(f"--option {text}: write it as NAME=VALUE, e.g. framerate=30")
        pairs[name.strip()] = value
    transport = args.rtsp_transport
    return {"rtsp_transport": transport, "options": pairs or None, "delay": delay_of(args)}


def delay_of(args: argparse.Namespace) -> float | None:
    """Seconds of the jitter buffer, None: by the source. Raises CliError: too many."""
    if args.delay is not None and args.delay >= MAX_DELAY:
        raise CliError(f"--delay {args.delay:g}: give less than {MAX_DELAY:g} seconds")
    return args.delay
