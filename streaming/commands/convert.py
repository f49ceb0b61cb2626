"""`streamzoo convert`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import CliError

SUMMARY = "turn a published checkpoint into our safetensors"
EXAMPLE = "streamzoo convert videomae/model.safetensors --out videomae-b16.safetensors"


def options(p: argparse.ArgumentParser) -> None:
    """Adds the options."""
    p.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a .safetensors file, a folder with one and config.json, or a published graph: .onnx, "
        "a .json of TensorFlow.js",
    )
    p.add_argument(
        "--out", metavar="FILE", required=True, help="file to write, ending in .safetensors"
    )
    p.add_argument("--overwrite", action="store_true", help="replace a file that is there already")
    p.add_argument(
        "--converter", metavar="TABLE", help="name of the table (default: recognised by the keys)"
    )


def run(args: argparse.Namespace) -> None:
    """Converts a checkpoint and writes safetensors."""
    from ...zoo import model_config
    from ...zoo.convert import convert_checkpoint
    from ...zoo.files import save
    from ...zoo.published import facts

    if not Path(args.checkpoint).exists():
        raise CliError(f"{args.checkpoint}: no such file or folder; check the path")
    if Path(args.out).suffix != ".safetensors" or Path(args.out).is_dir():
        raise CliError(f"--out {args.out}: give a file name that ends in .safetensors")
    if Path(args.out).exists() and not args.overwrite:
        raise CliError(f"--out {args.out}: is there already; --overwrite replaces it")
    plan, params = convert_checkpoint(args.checkpoint, args.converter)
    # what the files beside it say of classes, mean and std travels in ours
    given = Path(args.checkpoint)
    config = model_config(plan.model, **plan.overrides)
    told = facts(given / "weights" if given.is_dir() else given, None, config)
    metadata = {"model": plan.model, "config": dict(plan.overrides), **told}
    digest = save(args.out, params, metadata, dtype=plan.dtype)
    changed = ", ".join(f"{key}={value!r}" for key, value in plan.overrides.items())
    print(f"wrote {args.out}, sha256 {digest}")
    print(f"model {plan.model}" + (f" with {changed}" if changed else ""))
    print(f"load it with: model, params = streamzoo.load({args.out!r})")
