"""`streamzoo compress`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Annotated, Any

from ...zoo.ranges import Range, option
from .common import CliError
from .examples import demo_clip

SUMMARY = "write a model with quantised or pruned weights, and say what they change"
EXAMPLE = "streamzoo compress dsta-lite0/ucf11 --scheme w8a8 --out small.safetensors"
NOTES = """
The difference is that of the outputs on the frames of a video, state carried from frame to frame.
Of labelled data: streamzoo evaluate --config synth_student small.safetensors"""

Pruned = Annotated[float, Range(0, 1, above=True, below=True)]


def options(p: argparse.ArgumentParser) -> None:
    """Adds the options."""
    p.add_argument("model", metavar="NAME", help="model name, weights file or hub address")
    p.add_argument(
        "--scheme",
        help="int8, w8a8, w4a16-g32, w4a16-g64, w4a16-g128, w3a16-g32, w2a16-g32, nvfp4, or "
        "paretoq-1, -1.58, -2, -3, -4",
    )
    p.add_argument(
        "--prune",
        metavar="SHARE",
        type=option(Pruned),
        help="set this part of every kernel to zero first, the smallest weights: 0.2 to 0.3 of a "
        "model that was not trained for it",
    )
    p.add_argument(
        "--skip",
        metavar="PATTERN",
        action="append",
        default=[],
        help="kernels that stay floats, such as 'stem/*'; repeatable",
    )
    p.add_argument("--out", metavar="FILE", help="file to write, ending in .safetensors")
    p.add_argument("--overwrite", action="store_true", help="replace a file that is there already")
    p.add_argument("--video", metavar="FILE", help="frames to compare on (default: the demo clip)")
    p.add_argument("--frames", type=int, default=16, help="how many of them (default: 16)")


def run(args: argparse.Namespace) -> None:
    """Compresses, compares, writes."""
    from ...zoo import resolve, save
    from ...zoo.compress import bytes_of, header, kinds

    if args.scheme is None and args.prune is None:
        raise CliError("give --scheme, such as --scheme int8, or --prune 0.3, or both")
    if args.scheme is None and args.skip:
        raise CliError(f"--skip {args.skip[0]} is of a --scheme; give one")
    if args.frames < 1:
        raise CliError(f"--frames {args.frames}: give at least 1")
    out = None if args.out is None else Path(args.out)
    if out is not None and (out.suffix != ".safetensors" or out.is_dir()):
        raise CliError(f"--out {out}: give a file name that ends in .safetensors")
    if out is not None and out.exists() and not args.overwrite:
        raise CliError(f"--out {out}: is there already; --overwrite replaces it")
    whole = resolve(args.model)
    pruned = "" if args.prune is None else f"{args.prune:.0%} pruned"
    how = " and ".join(filter(None, (pruned, args.scheme)))
    small = _smaller(whole, args)
    before, after = bytes_of(whole.params), bytes_of(small.params)
    print(f"{small.card.name}: {before:,} bytes of parameters, {after:,} with {how}")
    counts = ", ".join(f"{name} {n}" for name, n in kinds(small.params).items())
    print(f"kernels: {counts}")
    if out is not None:
        facts = header(small.card, how)
        facts["scheme"] = args.scheme
        digest = save(out, small.params, {k: v for k, v in facts.items() if v is not None})
        print(f"wrote {out}, {out.stat().st_size:,} bytes, sha256 {digest}")
    for line in _differences(whole, small, args.video or str(demo_clip()), args.frames):
        print(line)


def _smaller(whole: Any, args: argparse.Namespace) -> Any:
    """The model with its weights pruned, then quantised, each where asked for."""
    import jax

    from ...zoo.compress import compress, running
    from ...zoo.pruning import prune

    params = whole.params if args.prune is None else prune(whole.params, args.prune)
    if args.scheme is None:
        return whole._replace(params=params)
    params = jax.device_put(compress(params, args.scheme, args.skip))
    return whole._replace(model=running(whole.model, params), params=params)


def _differences(whole: Any, small: Any, video: str, frames: int) -> list[str]:
    """One line for every output, over the first frames of a video."""
    import numpy as np

    from ...zoo import as_stream
    from ..session import Session, frame_size
    from ..sources.opening import open_source
    from ..step import Step

    if whole.card.task == "track":
        return ["difference: not measured, as this model tracks what it is shown (streamzoo track)"]
    source = open_source(video, size=frame_size(whole.card))
    sessions, kept = [], [[], []]
    with source:
        for image in (frame.image for _, frame in zip(range(frames), source, strict=False)):
            if not sessions:
                sessions = [
                    Session(Step(as_stream(model, card), params, card), image.shape[:2])
                    for model, params, card in (whole, small)
                ]
            for session, outputs in zip(sessions, kept, strict=True):
                outputs.append(session.push(image).output)
    lines = [f"difference over {len(kept[0])} frames of {Path(video).name}:"]
    for name, *pair in _arrays(*kept):
        a, b = (np.stack(one).astype(np.float64) for one in pair)
        spread = a.std() or 1.0
        line = (
            f"  {name}: largest {np.abs(a - b).max():.3g}, {np.abs(a - b).max() / spread:.2g} std"
        )
        if "logits" in name:
            kept_class = (a.argmax(-1) == b.argmax(-1)).mean()
            line += f", first class kept in {kept_class:.1%}"
        lines.append(line)
    return lines


def _arrays(first: list[Any], second: list[Any]) -> list[tuple[str, list[Any], list[Any]]]:
    import jax
    import numpy as np

    def floats(out: Any) -> dict[str, np.ndarray]:
        found = jax.tree_util.tree_flatten_with_path(out)[0]
        return {
            jax.tree_util.keystr(path).lstrip("."): leaf
            for path, leaf in found
            if np.issubdtype(leaf.dtype, np.floating)
        }

    a, b = [floats(out) for out in first], [floats(out) for out in second]
    return [(name, [one[name] for one in a], [one[name] for one in b]) for name in a[0]]
