"""`streamzoo run`."""

from __future__ import annotations

import argparse
import json

from ...zoo.ranges import Count, option

SUMMARY = "run an exported model on a video: a JSON line per frame"
EXAMPLE = "streamzoo run exported/tsa-lite0.synth.fp32.b1.256x256.onnx.json street.mp4"
NOTES = """
The same as python loop.py CARD VIDEO, the file that lies beside every exported model and that needs
neither JAX nor streamzoo."""


def options(p: argparse.ArgumentParser) -> None:
    """Adds the options."""
    p.add_argument("artefact", metavar="CARD", help="the JSON card of an exported model")
    p.add_argument("video", metavar="VIDEO", help="a video file")
    p.add_argument(
        "--runtime", choices=("onnxruntime", "openvino", "litert"), help="default: by the format"
    )
    p.add_argument("--frames", metavar="N", type=option(Count), help="stop after so many frames")


def run(args: argparse.Namespace) -> None:
    """Prints a line per frame."""
    from ..export.loop import Artefact, lines

    for line in lines(Artefact(args.artefact, args.runtime), args.video, args.frames):
        print(json.dumps(line), flush=True)
