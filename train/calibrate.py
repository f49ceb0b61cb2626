"""What an action model knows, fitted and written into its weights file.

A temperature makes its probabilities as often right as they say, a gate on its features tells
videos of the kind that it learned from others, and thresholds keep it silent on those others, at no
more false alarms per minute than asked for. A part of the clips is held back and measured on.

    python -m streamzoo.train.calibrate dsta-lite0/ucf11 --config ucf11_student \\
        --others STREETS --out known.safetensors
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import jax

from .. import zoo
from ..zoo import traits
from ..zoo.action.decision import Decision
from ..zoo.files import read_tensors
from ..zoo.registry import UnknownOverrideError
from ..zoo.resolve import find
from ..zoo.trees import nest
from . import settings
from .calibration import PENALTY, WANTED, calibrate, report
from .data.base import DataError
from .data.box_cache import told
from .decision_plot import draw
from .seen import Seen, Video, keep, kept, looker, split
from .seen_videos import of_classes, of_others, of_source, read_shown
from .settings import SettingError

EXAMPLE = """\
examples:
  streamzoo calibrate dsta-lite0/ucf11 --config ucf11_student --set test.path=ucf11.zip \\
      --others STREETS ROOMS --out known.safetensors --plot known.png
  streamzoo calibrate runs/mine/weights.safetensors --in-domain CLIPS --others STREETS \\
      --keep seen.npz --out known.safetensors
  streamzoo calibrate runs/mine/weights.safetensors --features seen.npz --alarms 0.1 \\
      --out quieter.safetensors

CLIPS has a folder per class, named as the model names it. Give clips that the model did not learn
from. Others are whatever it may meet that is none of its actions: the more kinds, the better.
"""
WRONG = (
    SettingError, DataError, zoo.UnknownModelError, zoo.WeightsError, UnknownOverrideError, OSError,
)  # fmt: skip


def parser(prog: str = "python -m streamzoo.train.calibrate") -> argparse.ArgumentParser:
    """The command line."""
    layout = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(prog, description=__doc__, epilog=EXAMPLE, formatter_class=layout)
    add = p.add_argument
    add("model", metavar="NAME", help="an action model: registered name or weights file")
    add("--in-domain", metavar="CLIPS", type=Path, nargs="+", default=[],
        help="folders of clips of the model's actions, in a folder per class")  # fmt: skip
    add("--config", metavar="RECIPE", help="clips of its actions: the test data of this config")
    add("--set", metavar="A.B=C", action="append", default=[], dest="settings", nargs="+",
        help="change a setting of the config, such as test.path=ZIP")  # fmt: skip
    add("--others", metavar="FOLDER", type=Path, nargs="+", default=[],
        help="folders of other videos and pictures, searched to the bottom")  # fmt: skip
    add("--shown", metavar="CSV", type=Path,
        help="lines FILE NAME,CLASS: what the others show after all; no false alarm")  # fmt: skip
    add("--nothing", metavar="CLASS", nargs="+", default=[],
        help="classes that are no action, such as background: never known")  # fmt: skip
    add("--jpeg", metavar="HEIGHT,WIDTH",
        help="show the others also as JPEG pictures of this size, that of the clips")  # fmt: skip
    add("--frames", type=int, default=80, metavar="N",
        help="of a video at most (default: %(default)d)")  # fmt: skip
    add("--held-back", type=float, default=0.5, metavar="SHARE",
        help="of the clips of each class and of the others (default: %(default)g)")  # fmt: skip
    add("--clip", metavar="PATTERN", default="",
        help="what in a name says of which recording it is; its parts stay together")  # fmt: skip
    add("--keep", metavar="FILE", type=Path, help="keep what the model saw, as .npz")
    add("--features", metavar="FILE", type=Path, help="what --keep kept, in place of videos")
    add("--alarms", type=float, default=WANTED.alarms, metavar="N",
        help="false alarms per minute of others, at most (default: %(default)g)")  # fmt: skip
    add("--risk", type=float, default=WANTED.risk, metavar="SHARE",
        help="of the clips named, those with a wrong word (default: %(default)g)")  # fmt: skip
    add("--hold", type=int, nargs="+", default=list(WANTED.holds), metavar="N",
        help="frames in a row that are tried (default: 2 3 4)")  # fmt: skip
    add("--penalty", type=float, default=PENALTY,
        help="of the gate's weights (default: %(default)g)")  # fmt: skip
    add("--out", metavar="FILE", type=Path, required=True,
        help="weights to write, ending in .safetensors; the card of a name beside it")  # fmt: skip
    add("--plot", metavar="FILE", type=Path, help="draw risk against coverage, as .png or .svg")
    add("--overwrite", action="store_true", help="replace files that are there already")
    return p


def main(argv: list[str] | None = None, **named: str) -> int:
    """Runs the command line; returns the exit status."""
    options = parser(**named).parse_args(argv)
    try:
        _check(options)
        model = undecided(options.model)
        nothing = [_number(model.card, name) for name in options.nothing]
        seen = _seen(options, model)
        wanted = dataclasses.replace(
            WANTED, alarms=options.alarms, risk=options.risk, holds=tuple(options.hold)
        )
        found = calibrate(seen, model.card.multi_label, nothing, wanted, options.penalty)
        written = write(options.out, options.model, found.decision)
        if options.plot:
            draw(options.plot, *found.answers, title=f"{model.card.name}, held back")
            written.append(options.plot)
    except WRONG as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; no weights are written", file=sys.stderr)
        return 130
    print(report(found, wanted.alarms, wanted.risk))
    print("\n".join(f"wrote {path}" for path in written))
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuses what cannot be, before anything slow. Raises SettingError."""
    named = lambda name: f"--{name.replace('_', '-')} {getattr(options, name)}"
    for name in ("alarms", "risk", "penalty", "held_back"):
        value = getattr(options, name)
        most = 1 if name in ("risk", "held_back") else math.inf
        if not (0 <= value <= most and math.isfinite(value)):
            raise SettingError(f"{named(name)}: give a number from 0{' to 1' if most == 1 else ''}")
    if options.frames < 1 or min(options.hold) < 1:
        raise SettingError(f"{named('frames')}, {named('hold')}: give whole numbers from 1")
    videos = [name for name in ("in_domain", "config", "others") if getattr(options, name)]
    if options.features and (videos or options.keep):
        raise SettingError("--features is in place of videos: leave out the one or the others")
    if not options.features and not (options.others and (options.in_domain or options.config)):
        raise SettingError(
            "give clips of its actions (--in-domain or --config) and --others, or --features"
        )
    for name, ends in (("out", (".safetensors",)), ("keep", (".npz",)), ("plot", (".png", ".svg"))):
        path = getattr(options, name)
        if path is not None and (path.suffix not in ends or path.is_dir()):
            raise SettingError(f"{named(name)}: give a file name that ends in {' or '.join(ends)}")
        beside = [] if path is None or options.overwrite else [path]
        for file in [*beside, *(one.with_suffix(".json") for one in beside if name == "out")]:
            if file.exists():
                raise SettingError(f"{file}: is there already; --overwrite replaces it")
    try:
        re.compile(options.clip)
    except re.error as error:
        raise SettingError(f"--clip {options.clip!r}: no regular expression ({error})") from None
    if options.jpeg and not re.fullmatch(r"[1-9]\d*,[1-9]\d*", options.jpeg):
        raise SettingError(f"--jpeg {options.jpeg}: give HEIGHT,WIDTH in pixels")


def undecided(name: str) -> zoo.Resolved:
    """An action model without its decision. Raises DataError where it cannot have one, and the
    errors of ``zoo.resolve``."""
    model, params, card = zoo.resolve(name)
    plain = traits.undecided(model)
    if plain is None:
        raise DataError(
            f"{name} ({card.task}) has no action head that decides: `streamzoo list '*lite0*'` "
            "shows the streaming students, which have"
        )
    if not traits.classes_of_frame(model):
        raise DataError(
            f"{name} has no classes of the whole frame (heads {', '.join(plain.config.heads)}): "
            "clips with one label cannot say when it is right; take one with a frame head or "
            "frame_box"
        )
    return zoo.Resolved(plain, params, card)


def _number(card: zoo.Card, name: str) -> int:
    if name not in card.classes:
        raise SettingError(f"--nothing {name}: no class of {card.name}: {', '.join(card.classes)}")
    return card.classes.index(name)


def _seen(options: argparse.Namespace, model: zoo.Resolved) -> list[Seen]:
    if options.features:
        return kept(options.features, model.params)
    videos = _videos(options, model.card)
    shown, look = [], looker(model)
    for one in told(videos, len(videos), "videos"):
        try:
            shown.append(look(one))
        except DataError as error:  # one broken file is no reason to lose the others
            print(f"left out: {error}", file=sys.stderr)
    pattern = re.compile(options.clip)
    clip = lambda name: found[0] if options.clip and (found := pattern.search(name)) else name
    seen = split(shown, options.held_back, clip)
    if options.keep and seen:
        keep(options.keep, seen, model.params)
    return seen


def _videos(options: argparse.Namespace, card: zoo.Card) -> list[Video]:
    """Everything that is shown to the model. Raises DataError."""
    found: list[Video] = []
    for folder in options.in_domain:
        found += of_classes(folder, card, options.frames)
    if options.config:
        changes = [one for group in options.settings for one in group]
        recipe: Any = settings.override(settings.load_config(options.config), changes)
        data = getattr(recipe, "test", None)
        if data is None or not data.whole_frame or not data.labelled:
            raise DataError(f"--config {options.config}: its test data have no labels of clips")
        alone = {"detector": "", "max_boxes": 1, "size": card.input_size}  # nobody is looked for
        data = dataclasses.replace(data, **{k: v for k, v in alone.items() if hasattr(data, k)})
        data.check("test")
        found += of_source(data.open(recipe.cache), card, options.frames)
    shown = read_shown(options.shown, card.classes) if options.shown else {}
    height, _, width = (options.jpeg or "0,0").partition(",")
    jpeg = (int(height), int(width)) if options.jpeg else None
    for folder in options.others:
        found += of_others(folder, card, options.frames, shown, jpeg)
    return found


def write(out: Path, name: str, decision: Decision) -> list[Path]:
    """The weights of ``name`` as ``out`` with this decision in the header, and the card beside them
    where ``name`` has one of its own, a tag. What was written."""
    rule = dataclasses.asdict(decision)
    arrays, header = read_tensors(find(name).path)
    config = json.loads(header.get("config", "{}")) | {"decision": rule}
    digest = zoo.save(out, nest(arrays), {**header, "config": config})
    model, _, _ = zoo.resolve(out)
    card = zoo.card_of(name)
    if not card.tag:
        return [out]
    carry = jax.eval_shape(lambda: model.init_carry(1))
    card = dataclasses.replace(
        card,
        weights=out.name,
        sha256=digest,
        overrides={**card.overrides, "decision": rule},
        carry_bytes=sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(carry)),
    )
    beside = out.with_suffix(".json")
    beside.write_text(card.to_json(), encoding="utf-8")
    return [out, beside]


if __name__ == "__main__":
    sys.exit(main())
