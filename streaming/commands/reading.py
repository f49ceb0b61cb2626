"""Options of the commands that open sources: how FFmpeg reads them."""

from __future__ import annotations

import argparse

from ...layers.streaming import Fields
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


def reader_of(args: argparse.Namespace) -> Fields:
    """The options as keywords of `open_source`. Raises CliError: one is not NAME=VALUE."""
    pairs = dict[str, str]()
    for text in args.option:
        name, equals, value = text.partition("=")
        if not (name.strip() and equals):
            raise CliError(f"--option {text}: write it as NAME=VALUE, e.g. framerate=30")
        pairs[name.strip()] = value
    return {"rtsp_transport": args.rtsp_transport, "options": pairs or None}
