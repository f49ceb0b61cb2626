"""``python -m streamzoo.train``: trains what a config file describes."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import settings
from .data.base import DataError
from .failures import AGAIN, library_of, one_line
from .settings import SettingError

EXAMPLE = """\
example:
  python -m streamzoo.train --list
  python -m streamzoo.train --config configs/NAME.py --set loop.steps=500 --set loop.out=runs/mine
  python -m streamzoo.train --config configs/NAME.py --evaluate runs/mine/weights.safetensors

A run that was stopped goes on from its last checkpoint when the same command is given again; the
steps, the data and the random numbers are those of a run that was never stopped.

exit status: 0 done; 1 the run failed (not a number, diverged, no memory); 2 wrong input: these two
come back at every start. 75 broken off by a disk, another process or a folder in use, and 143
(SIGTERM) or 130 (SIGINT) stopped with a checkpoint: the same command goes on.
"""
# settings that change how a run is carried out, not what it computes
FREE = (
    "loop.log_every", "loop.checkpoint_every", "loop.eval_every", "loop.keep", "loop.out",
    "loop.profile", "loop.tensorboard", "loop.diverge", "loop.mesh.data", "loop.mesh.fsdp",
    "loop.mesh.tensor",
)  # fmt: skip


def parser(prog: str = "python -m streamzoo.train") -> argparse.ArgumentParser:
    """The command line."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog, description=__doc__, epilog=EXAMPLE, formatter_class=layout
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


def evaluate(argv: list[str] | None = None, prog: str = "streamzoo evaluate") -> int:
    """``streamzoo evaluate WEIGHTS --config NAME``; returns the exit status."""
    layout = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(
        prog, formatter_class=layout,
        description="Metrics of weights on the test data of a config.",
        epilog="example:\n  streamzoo evaluate runs/mine/weights.safetensors --config smoke",
    )  # fmt: skip
    p.add_argument("weights", metavar="WEIGHTS", help="a file, or a name with weights")
    p.add_argument("--config", metavar="FILE", required=True, help="a file, or a shipped config")
    p.add_argument(
        "--set", metavar="A.B=C", action="append", default=[], dest="settings", nargs="+",
        help="change a setting, such as test.path=ZIP",
    )  # fmt: skip
    given = p.parse_args(argv)
    words = ["--config", given.config, "--evaluate", given.weights]
    for group in given.settings:
        words += ["--set", *group]
    return main(words)


def main(argv: list[str] | None = None, **named: str) -> int:
    """Runs the command line; returns the exit status."""
    options = parser(**named).parse_args(argv)
    if options.list:
        width = max(map(len, settings.shipped()), default=0)
        for name, line in settings.shipped().items():
            print(f"{name:<{width}}  {line}")
        return 0
    try:
        if not options.config:
            raise SettingError("give a config: --config FILE (--list shows the shipped ones)")
        return _train(options)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:
        status = _status(error)
        if status is None:
            raise
        print(f"error: {one_line(error) if status[1] else error}", file=sys.stderr)
        return status[0]


def _status(error: Exception) -> tuple[int, bool] | None:
    """(exit status, whether the text is a library's), or None for a bug, which is shown whole."""
    from .checkpoints import CheckpointError, WriteError
    from .loop import Interrupted, TrainingError
    from .owner import FolderInUse

    if isinstance(error, (WriteError, Interrupted, FolderInUse)):
        return AGAIN, False
    if isinstance(error, TrainingError):
        return 1, False
    if isinstance(error, (DataError, SettingError, CheckpointError)):
        return 2, False
    if isinstance(error, (OSError, ImportError)):
        return 2, True
    if isinstance(error, ValueError):
        # raised by this package, with a text for its user; elsewhere a ValueError is a bug
        *_, last = traceback.walk_tb(error.__traceback__)
        package = str(__package__).partition(".")[0]
        if last[0].f_globals.get("__name__", "").partition(".")[0] == package:
            return 2, False
    if library_of(error) or "Unable to initialize backend" in str(error):
        return AGAIN, True
    return None


def _train(options: argparse.Namespace) -> int:
    from . import sharding

    # Before anything else of jax: a config of one's own may compute when it is imported.
    sharding.connect(options.distributed)
    config = settings.load_config(options.config)
    config = settings.override(config, [one for group in options.settings for one in group])
    if options.show:
        print(settings.describe(config))
        return 0
    if options.evaluate:
        from .metrics import figure

        for name, value in config.evaluate_file(options.evaluate).items():
            print(f"{name:<24} {figure(value, '.4f')}")
        return 0
    config.check()  # before data is opened
    import jax

    from .checkpoints import Checkpoints
    from .owner import Owner

    first = jax.process_index() == 0
    sharding.make_mesh(config.loop.mesh, config.loop.batch, config.loop.accumulate)  # fits or not
    say = (lambda text: print(text, flush=True)) if first else (lambda _: None)
    loop = config.loop
    out = Path(loop.out)
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
    with Owner(out, say) if first else contextlib.nullcontext() as owner:
        return _run(config, out, options.fresh, owner, say)


def _run(config: Any, out: Path, fresh: bool, owner: Any, say: Callable[[str], None]) -> int:
    # with the folder held, from the first file that is written to the last
    from .loop import run

    text, loop, first = settings.to_json(config), config.loop, owner is not None
    job = config.build()
    say(f"data: {_summary(job.source)}")
    if first:
        (out / "config.json").write_text(text + "\n", encoding="utf-8")
    result = run(job, loop, settings=text, fresh=fresh, owner=owner)
    for name, why in (getattr(job.source, "skipped", None) or {}).items():
        say(f"skipped: {name}: {why}")
    if result.stopped:
        say(f"stopped at step {int(result.state.step)} of {loop.steps}; the same command goes on")
        return 128 + result.stopped
    if first:
        _finish(config, job, result, out, text)
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


def _finish(config: Any, job: Any, result: Any, out: Path, text: str) -> None:
    # the averaged weights, as the task's model takes them, and the plot
    from ..zoo.files import save
    from .logs import plot
    from .metrics import figure

    variables = getattr(job.task, "variables", lambda params: {"params": params})(result.params)
    weights = out / "weights.safetensors"
    save(weights, variables, {**getattr(job.task, "header", {}), "training": text})
    drawn = plot(result.history, out / "curves.png")
    if result.scores:
        scores = {k: None if math.isnan(v) else v for k, v in result.scores.items()}
        (out / "scores.json").write_text(json.dumps(scores, indent=1) + "\n", "utf-8")
        told = "  ".join(f"{name} {figure(value)}" for name, value in result.scores.items())
        print(f"evaluation: {told}")
    print(f"weights: {weights}\nlog: {out / 'log.csv'}" + (f"\ncurves: {drawn}" if drawn else ""))
    for command in config.next_commands(weights):
        print(f"next: {command}")


if __name__ == "__main__":
    sys.exit(main())
