"""`streamzoo export`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..precision import PRECISIONS
from .common import CliError, by, say

SUMMARY = "write a model for another runtime, or the JSON lines of watch as CSV and COCO"
EXAMPLE = "streamzoo export tsa-lite0/synth --to onnx --out exported"
NOTES = """
With --to: the model's step of one frame, its carry as named inputs and outputs, a JSON card beside
it, and loop.py, which runs it on a video without JAX (`streamzoo run` does the same).
Without: streamzoo export out/street.jsonl writes STEM.csv, one row per object and frame, and
STEM.coco.json, boxes in pixels, beside the JSON lines. Ids of tracks are the column id, and
track_id in COCO."""
FORMATS = ("stablehlo", "onnx", "openvino", "litert")


def options(p: argparse.ArgumentParser) -> None:
    """Adds the options."""
    p.add_argument(
        "lines", metavar="NAME", help="a model or a weights file; or a .jsonl file of watch"
    )
    p.add_argument("--to", choices=(*FORMATS, "coreml"), help="the format of a model")
    p.add_argument("--precision", choices=PRECISIONS, help="of a model (default: fp32)")
    p.add_argument("--batch", metavar="N", help="streams of a step, or dynamic (default: 1)")
    p.add_argument(
        "--stateful",
        action="store_true",
        help="keep the state inside of an OpenVINO model, which takes frames alone",
    )
    p.add_argument("--out", metavar="FOLDER", help="folder for a model (default: exported)")
    p.add_argument(
        "--video", metavar="FILE", help="to measure the difference from JAX on (default: noise)"
    )
    p.add_argument("--random-weights", action="store_true", help="a model that has no weights")
    p.add_argument(
        "--size",
        metavar="HxW",
        help="pixels: of a model's frames (default: its card's), of a video (default: as the lines"
        " say)",
    )
    p.add_argument("--overwrite", action="store_true", help="replace what is there already")


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise CliError(f"--size {text}: give HEIGHTxWIDTH in pixels, such as 272x640")
    return int(height), int(width)


def run(args: argparse.Namespace) -> None:
    """Writes the model, or both files."""
    size = _size(args.size)
    if args.to is not None:
        return _model(args, size)
    for name in ("precision", "batch", "stateful", "out", "video", "random_weights"):
        if getattr(args, name):
            raise CliError(
                f"--{name.replace('_', '-')} is for models: say the format too, "
                f"--to {', '.join(FORMATS)}"
            )
    _lines(args, size)


def _batch(text: str | None) -> int | None:
    if text == "dynamic":
        return None
    if text is not None and not (text.isdecimal() and int(text)):
        raise CliError(f"--batch {text}: give a number of streams, or dynamic")
    return int(text or 1)


def _model(args: argparse.Namespace, size: tuple[int, int] | None) -> None:
    from ...zoo import card_of, init_params, load
    from ...zoo.registry import is_registered
    from ..export import export
    from ..export.compare import FRAMES, pictures_of

    name: Any = args.lines
    card = card_of(name)
    if args.random_weights and not is_registered(name):
        raise CliError(f"--random-weights with the weights file {name}: leave one of them away")
    if name == card.name and not card.pretrained and not args.random_weights:
        raise CliError(f"{name} has no weights; --random-weights exports it untrained")
    out = Path(args.out or "exported")
    if out.is_dir() and any(out.iterdir()) and not args.overwrite:
        raise CliError(f"--out {out}: not empty; give another folder, or --overwrite")
    model, params = init_params(name) if args.random_weights else load(name)
    written = export(
        model, params, card, out,
        to=args.to, precision=args.precision or "fp32", batch=_batch(args.batch),
        stateful=args.stateful, size=size,
        pictures=pictures_of(args.video, size or card.input_size) if args.video else (), say=say,
    )  # fmt: skip
    print(f"wrote {written.card}, {written.bytes / 1e6:.1f} MB of {by(size or card.input_size)}")
    if (found := written.difference) is not None:
        shown = f"{found.pictures} of {args.video}" if args.video else "noise"
        print(
            f"largest difference from JAX over {FRAMES} frames ({shown}): {found.answers:.2g}, of "
            f"the state {found.state:.2g}"
        )
        if not found.change:
            print(
                "no answer ever changed, so this proves little: give a --video with something to "
                "find"
            )


def _lines(args: argparse.Namespace, size: tuple[int, int] | None) -> None:
    from ..exports import write_coco, write_csv

    lines = Path(args.lines)
    stem = lines.with_suffix("")
    for path, write in (
        (stem.with_suffix(".csv"), lambda path: write_csv(lines, path, overwrite=args.overwrite)),
        (
            stem.with_suffix(".coco.json"),
            lambda path: write_coco(lines, path, size, stem.name, overwrite=args.overwrite),
        ),
    ):
        count = write(path)
        print(f"wrote {path}, objects: {count}")
