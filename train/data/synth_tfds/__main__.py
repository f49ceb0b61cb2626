"""Writes the synthetic persons as ArrayRecord files."""

from __future__ import annotations

import argparse
import sys

from .records import build


def main(
    argv: list[str] | None = None, prog: str = "python -m streamzoo.train.data.synth_tfds"
) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the data set")
    parser.add_argument("--videos", type=int, default=256, help="videos to train on")
    parser.add_argument("--test-videos", type=int, default=64, help="videos of the test split")
    parser.add_argument("--seconds", type=float, default=12.0, help="length of a video")
    parser.add_argument("--frame-rate", type=float, default=5.0, help="frames per second")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(96, 96), metavar=("H", "W"), help="pixels"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all videos")
    arguments = vars(parser.parse_args(argv))
    arguments["size"] = tuple(arguments["size"])
    try:
        print(build(**arguments))
    except (ValueError, ImportError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
