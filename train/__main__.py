"""``python -m streamzoo.train``: trains what a config file describes."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from pathlib import Path
from typing import Any

from . import settings
from .data.base import DataError
from .settings import SettingError

EXAMPLE = """\
example:
  python -m streamzoo.train --list
  python -m streamzoo.train --config configs/NAME.py --set loop.steps=500 --set loop.out=runs/mine
  python -m streamzoo.train --config configs/NAME.py --evaluate runs/mine/weights.safetensors

A run that was stopped goes on from its last checkpoint when the same command is given again; the
steps, the data and the random numbers are those of a run that was never stopped.

exit status: 0 done; 1 the run failed (not a number, diverged); 2 wrong input; 143 (SIGTERM) or
130 (SIGINT) stopped with a checkpoint, to be started again.
"""
# settings that change how a run is carried out, not what it computes
FREE = (
    "loop.log_every", "loop.checkpoint_every", "loop.eval_every", "loop.keep", "loop.out",
    "loop.profile", "loop.tensorboard", "loop.diverge", "loop.mesh.data", "loop.mesh.fsdp",
    "loop.mesh.tensor",
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m streamzoo.train", description=__doc__, epilog=EXAMPLE, formatter_class=layout
    )
    add = parser.add_argument
    add("--config", metavar="FILE", help="a config file, or the name of a shipped one")
    add(
        "--set", metavar="A.B=C", action="append", default=[], dest="settings", nargs="+",
        help="change a setting; may be given several times",
    )  # fmt: skip
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--resume", action="store_true",
        help="go on from the last checkpoint, which must exist, even if settings have changed",
    )  # fmt: skip
    again.add_argument("--fresh", action="store_true", help="delete an earlier run in loop.out")
    add("--distributed", action="store_true", help="one of several processes; see the README")
    add("--evaluate", metavar="WEIGHTS", help="only measure a file or name on the test data")
    add("--list", action="store_true", help="list the shipped configs")
    add("--show", action="store_true", help="print all settings and stop")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    options = parser().parse_args(argv)
    if options.list:
        width = max(map(len, settings.shipped()), default=0)
        for name, line in settings.shipped().items():
            print(f"{name:<{width}}  {line}")
        return 0
    try:
        if not options.config:
            raise SettingError("give a config: --config FILE (--list shows the shipped ones)")
        return _train(options)
    except (ValueError, OSError) as error:
        if not _expected(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if type(error).__name__ != "TrainingError":
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1


def _expected(error: Exception) -> bool:
    # raised by this package, with a text for its user; elsewhere a ValueError is a bug
    if isinstance(error, (DataError, SettingError, OSError)):
        return True
    *_, last = traceback.walk_tb(error.__traceback__)
    package = str(__package__).partition(".")[0]
    return last[0].f_globals.get("__name__", "").partition(".")[0] == package


def _train(options: argparse.Namespace) -> int:
    from . import sharding

    sharding.connect(options.distributed)  # before anything else of jax
    config = settings.load_config(options.config)
    config = settings.override(config, [one for group in options.settings for one in group])
    if options.show:
        print(settings.describe(config))
        return 0
    if options.evaluate:
        from .recipe import evaluate_file

        for name, value in evaluate_file(config, options.evaluate).items():
            print(f"{name:<24} {value:.4f}")
        return 0
    import jax

    from .checkpoints import Checkpoints

    first = jax.process_index() == 0
    say = (lambda text: print(text, flush=True)) if first else (lambda text: None)
    loop = config.loop
    out, text = Path(loop.out), settings.to_json(config)
    earlier = None if options.fresh else Checkpoints.find(out / "checkpoints")
    if options.resume and earlier is None:
        raise SettingError(f"--resume: there is no checkpoint in {out}")
    if earlier is not None:
        changed = settings.differences(json.dumps(earlier.settings), config, FREE)
        if changed and not options.resume:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise SettingError(
                f"{out} holds a run with other settings ({'; '.join(changed[:3])}{more}); give "
                "another loop.out, --fresh to start anew, or --resume to go on all the same"
            )
        if earlier.step >= loop.steps:
            say(f"{out}: all {earlier.step} steps are done; --fresh starts anew")
        else:
            say(f"{out}: going on from step {earlier.step}")
    kinds = sorted({d.device_kind for d in jax.devices()})
    say(f"config: {options.config}\n{settings.describe(config)}")
    say(
        f"devices: {jax.device_count()} x {', '.join(kinds)} ({jax.default_backend()}), "
        f"{jax.process_count()} process{'es' * (jax.process_count() > 1)}"
    )
    job = config.build()
    say(f"data: {_summary(job.source)}")
    from .loop import run

    if first:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text(text + "\n", encoding="utf-8")
    result = run(job, loop, settings=text, fresh=options.fresh)
    for name, why in (getattr(job.source, "skipped", None) or {}).items():
        say(f"skipped: {name}: {why}")
    if result.stopped:
        say(f"stopped at step {int(result.state.step)} of {loop.steps}; the same command goes on")
        return 128 + result.stopped
    if first:
        _finish(job, result, out, text)
    return 0


def _summary(source: Any) -> str:
    if source is None:
        return "generated"
    parts = [type(source).__name__]
    if getattr(source, "videos", None):
        parts.append(f"{len(source.videos)} videos")
    if getattr(source, "classes", None):
        parts.append(f"{len(source.classes)} classes")
    if getattr(source, "skipped", None):
        parts.append(f"{len(source.skipped)} skipped")
    return ", ".join(parts)


def _finish(job: Any, result: Any, out: Path, text: str) -> None:
    # the averaged weights, as the task's model takes them, and the plot
    from ..zoo.weights import save
    from .logs import plot

    variables = getattr(job.task, "variables", lambda params: {"params": params})(result.params)
    weights = out / "weights.safetensors"
    save(weights, variables, {**getattr(job.task, "header", {}), "training": text})
    drawn = plot(result.history, out / "curves.png")
    if result.scores:
        (out / "scores.json").write_text(json.dumps(result.scores, indent=1) + "\n", "utf-8")
        told = "  ".join(f"{name} {value:.4g}" for name, value in result.scores.items())
        print(f"evaluation: {told}")
    print(f"weights: {weights}\nlog: {out / 'log.csv'}" + (f"\ncurves: {drawn}" if drawn else ""))


if __name__ == "__main__":
    sys.exit(main())
