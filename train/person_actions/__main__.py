"""``python -m streamzoo.train.person_actions --data ../shared/data --seed 0``: what persons do.

Follows everybody in the clips once, learns the action part of ``follow-act-nano`` (both are kept
under ``--out``, and not made again), and measures it on clips held back; with ``--decide`` it fits
when the model knows. ``--table`` prints what the reports of all seeds say, ``--ship NAME`` writes
the weights as a named model.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ... import zoo
from ...layers.mixers import Mix
from ...zoo.files import load_file
from ..decision import risk_coverage
from ..decision_plot import draw
from . import clips as data
from .learn import LearnConfig, learn
from .measure import Decided, classified, decided, falls, sayer
from .ship import ship

ARCH = "follow-act-nano"
ROWS = ("ut_top1", "fight_auc", "gait", "fall_set", "event_f1", "median_delay_s")


def main(argv: list[str] | None = None) -> int:
    """Learns, measures and writes a report; the exit code."""
    p = argparse.ArgumentParser(
        prog="python -m streamzoo.train.person_actions", description=__doc__
    )
    add = p.add_argument
    add("--data", type=Path, default=Path("../shared/data"), help="folder of the sets")
    add("--out", type=Path, default=Path("runs/person_actions"), help="default: %(default)s")
    add("--seed", type=int, default=0)
    add("--mix", default="lstm", help="the memory: a mixer, or none (default: %(default)s)")
    add("--steps", type=int, default=LearnConfig.steps, help="default: %(default)s")
    add("--subject", default="s1", help="of the falls, who is tested (default: %(default)s)")
    add("--kept", action="store_true", help="only videos that were followed before")
    add("--decide", action="store_true", help="fit when it knows, and draw risk against coverage")
    add("--ship", metavar="NAME", help=f"write the weights as {ARCH}/TAG")
    add("--table", action="store_true", help="print the reports that are there")
    args = p.parse_args(argv)
    if args.table:
        print(table(sorted(args.out.glob("*.json"))))
        return 0
    say = lambda text: print(text, flush=True)
    found = data.labelled(args.data, args.out / "tracks", args.subject, kept=args.kept)
    pipeline: Any = zoo.model_config(ARCH)
    config = dataclasses.replace(pipeline.person, mix=Mix(args.mix))
    part = lambda name: [clip for clip in found if clip.part == name]
    stem = args.out / f"{args.mix}-seed{args.seed}-{args.subject}"
    weights = stem.with_suffix(".safetensors")
    if weights.is_file():  # learned before
        params = load_file(weights)[0]
    else:
        params = learn(part(data.TRAIN), config, LearnConfig(steps=args.steps), args.seed, say)
        zoo.save(weights, params, {"steps": args.steps})
    speaks = sayer(config, params)
    test = part(data.TEST)
    report: dict[str, Any] = {"mix": args.mix, "seed": args.seed, "subject": args.subject}
    report |= classified(test, speaks) | falls(test, speaks)
    report |= {"train_clips": len(part(data.TRAIN)), "test_clips": len(test)}
    if args.decide or args.ship:
        others = data.others(args.data, args.out / "tracks", kept=args.kept)
        result = _decided(part(data.HELD), test, others, speaks)
        report["decision"] = _told(result)
        draw(stem.with_suffix(".png"), *result.curve, title="persons: frames of held-out tracks")
        if args.ship:
            ship(args.ship, params, dataclasses.replace(config, decision=result.decision), report)
    stem.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    say(json.dumps(report))
    return 0


def _decided(
    held: Sequence[data.Labelled],
    test: Sequence[data.Labelled],
    others: Sequence[tuple[Any, str]],
    say: Callable[..., Any],
) -> Decided:
    away = {part: [v for v, p in others if p == part] for part in (data.TRAIN, data.TEST)}
    return decided(held, test, away[data.TRAIN], away[data.TEST], say)


def _told(found: Decided) -> dict[str, Any]:
    rule = found.decision
    return {
        "temperature": rule.temperature, "on": rule.on, "off": rule.off, "hold": rule.hold,
        "calibration_error": found.errors,
        "clips": found.clips._asdict(), "others": found.others._asdict(),
        "area_plain": _area(found.curve[0], found.curve[2]),
        "area_decided": _area(found.curve[1], found.curve[2]),
    }  # fmt: skip


def _area(score: np.ndarray, right: np.ndarray) -> float:
    return float(risk_coverage(score, right)[1].mean())


def table(reports: Sequence[Path]) -> str:
    """Mean and spread over the seeds of each memory (of the falls: over subjects too)."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for path in reports:
        one = json.loads(path.read_text())
        rows.setdefault(one["mix"], []).append(one)
    lines = ["| memory | runs | " + " | ".join(ROWS) + " |", "|---|---|" + "---|" * len(ROWS)]
    for mix, ones in sorted(rows.items()):
        cells = []
        for key in ROWS:
            values = [one[key] for one in ones if one.get(key) is not None]
            cells.append(f"{np.mean(values):.3f} ± {np.std(values):.3f}" if values else "-")
        lines.append(f"| {mix} | {len(ones)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
