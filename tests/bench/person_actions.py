"""What tracked persons do: three seeds with a memory along the track, and without.

    python -m tests.bench.person_actions --runs runs/person_actions

Runs ``streamzoo.train.person_actions`` for each seed and memory, with ``--decide`` for the first of
them, and writes tests/bench/results/person_actions.md with its picture of risk against coverage.
``--only-report`` writes the page of the reports that are there.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from streamzoo.train.person_actions.__main__ import main as train
from streamzoo.train.person_actions.__main__ import table

ROOT = Path(__file__).parents[2]
STEM = Path(__file__).parent / "results" / "person_actions"
SEEDS, MIXES = (0, 1, 2), ("lstm", "none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--runs", type=Path, default=Path("runs/person_actions"))
    parser.add_argument("--note", default="", help="a paragraph that the page begins with")
    parser.add_argument("--only-report", action="store_true", help="learn and measure nothing")
    args = parser.parse_args()
    if not args.only_report:
        for mix in MIXES:
            for seed in SEEDS:
                words = ["--data", str(args.data), "--out", str(args.runs), "--mix", mix]
                words += ["--seed", str(seed)]
                train([*words, "--decide"] if (mix, seed) == ("lstm", 0) else words)
    reports = sorted(args.runs.glob("*.json"))
    found = [(path, json.loads(path.read_text())) for path in reports]
    decided = next(((path, one) for path, one in found if "decision" in one), None)
    picture = decided is not None
    if decided is not None:
        shutil.copy(decided[0].with_suffix(".png"), STEM.with_suffix(".png"))
    STEM.with_suffix(".json").write_text(json.dumps([one for _, one in found], indent=1) + "\n")
    text = page(args.note, table(reports), found[0][1], decided[1]["decision"] if decided else None)
    if picture:
        text += "\n![risk against coverage](person_actions.png)\n"
    STEM.with_suffix(".md").write_text(text)
    print(text)


def page(note: str, rows: str, one: dict[str, Any], decision: dict[str, Any] | None) -> str:
    """The page of results; ``rows``: the table of seeds."""
    lines = [
        "# What tracked persons do", "",
        "`python -m tests.bench.person_actions`; the action part of `follow-act-nano`, on crops of "
        "YOLOX-nano's maps along the tracks.", "", *([note, ""] if note else []),
        f"Learned from {one['train_clips']} clips and measured on {one['test_clips']} of others: "
        f"other sequences of UT-Interaction ({one.get('ut_clips', 0)} clips; of fighting, "
        "hugging, shaking hands or pointing), other sources of surveillance video "
        f"({one.get('fight_clips', 0)} clips), another person of GMDCSA-24 ({one['falls']} falls).",
        "", rows, "",
        "`gait` is the share of frames in which who walks or stands by his track is called so, "
        "`fall_set` the share of labelled frames of GMDCSA-24 that are right, `event_f1` of falls.",
    ]  # fmt: skip
    if decision is not None:
        errors = " and ".join(f"{e:.3f}" for e in decision["calibration_error"])
        lines += [
            "", f"When it knows (seed 0): temperature {decision['temperature']:g}, on "
            f"{decision['on']:g}, off {decision['off']:g}, hold {decision['hold']}; calibration "
            f"error without and with the temperature {errors}; area under risk against coverage "
            f"{decision['area_plain']:.3f} by probability alone, {decision['area_decided']:.3f} "
            "with the decision.", "",
            "| tracks held back | tracks | minutes | something said of | all true | false alarms | "
            "a minute |", "|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for key, name in (("clips", "of its actions"), ("others", "of other videos")):
            f = decision[key]
            lines.append(
                f"| {name} | {f['videos']} | {f['minutes']:.2f} | {share(f['coverage'])} | "
                f"{share(f['right'])} | {f['alarms']} | {f['alarms_per_minute']:.2f} |"
            )
    return "\n".join([*lines, ""])


def share(value: float) -> str:
    """In percent; - where there is none."""
    return "-" if value != value else f"{100 * value:.0f} %"


if __name__ == "__main__":
    main()
