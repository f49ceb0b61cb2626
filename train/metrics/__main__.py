"""Command line: frame-mAP of one file of detections, by any or all of AVA's evaluators."""

from __future__ import annotations

import argparse
import sys
import warnings

from ..data.base import DataError
from .ava import VARIANTS, FrameMap, frame_map
from .ava_files import read_csv, read_excluded, read_labels
from .average_precision import figure

EXAMPLE = """example:
  python -m streamzoo.train.metrics ava_val_v2.2.csv detections.csv --all-variants \\
    --labels ava_action_list_v2.2_for_activitynet_2019.pbtxt --lookahead 0

Detections are lines video,timestamp,x1,y1,x2,y2,action,score; corners are fractions of the frame.
The variants score the same detections up to a factor of two apart: state the name with the figure.
"""
LEFT_OUT = (
    "of other classes",
    "in excluded keyframes",
    "in keyframes that do not count",
    "over the cap",
    "without an area",
)


def parser(prog: str = "python -m streamzoo.train.metrics") -> argparse.ArgumentParser:
    """The argument parser."""
    p = argparse.ArgumentParser(
        prog=prog,
        description="Frame-mAP at IoU 0.5 in AVA's format, by named variant of the evaluator.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("truth", metavar="TRUTH.csv", help="ground truth; .csv.gz too")
    p.add_argument("detections", metavar="DETECTIONS.csv", help="what a model found")
    p.add_argument(
        "--variant",
        metavar="NAME",
        default="activitynet-head",
        help=f"one of {', '.join(VARIANTS)} (default: %(default)s)",
    )
    p.add_argument("--all-variants", action="store_true", help="every variant, in one table")
    p.add_argument(
        "--labels", metavar="MAP.pbtxt", help="classes to evaluate (default: the truth's)"
    )
    p.add_argument("--excluded", metavar="CSV", help="keyframes to leave out: video,timestamp")
    p.add_argument(
        "--keep-empty-frames",
        action="store_true",
        help="mmaction2 with ignore_empty_frames=False",
    )
    p.add_argument("--per-class", action="store_true", help="AP of every class too")
    p.add_argument(
        "--lookahead",
        type=float,
        metavar="SECONDS",
        help="future video the model saw beyond the keyframe; printed beside the figure",
    )
    return p


def main(argv: list[str] | None = None, **named: str) -> int:
    """Entry point; returns the exit code: 0, or 2 after one line that says what is wrong."""
    args = parser(**named).parse_args(argv)
    try:
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always", UserWarning)
            text = report(args)
    except (DataError, OSError) as error:
        print(f"streamzoo.train.metrics: {error}", file=sys.stderr)
        return 2
    for note in dict.fromkeys(str(n.message) for n in notes):
        print(f"note: {note}", file=sys.stderr)
    print(text)
    return 0


def report(args: argparse.Namespace) -> str:
    """The table, as text."""
    names = read_labels(args.labels) if args.labels else None
    truth = read_csv(args.truth, truth=True, classes=names)
    detections = read_csv(args.detections, classes=names)
    excluded = read_excluded(args.excluded) if args.excluded else []
    wanted = [(args.variant, not args.keep_empty_frames)]
    if args.all_variants:
        wanted = [(name, True) for name in VARIANTS] + [("mmaction2", False)]
    results: list[FrameMap] = []
    refused: list[str] = []
    for name, ignore in wanted:
        left_out = excluded
        if args.all_variants and not VARIANTS[name].exclusions and excluded:
            left_out = []
            warnings.warn(f"{name} takes no excluded timestamps: scored without them", stacklevel=1)
        try:
            if name == "slowfast":
                read_csv(args.detections, classes=names, need_score=True)
            results.append(
                frame_map(
                    truth,
                    detections,
                    variant=name,
                    classes=names,
                    excluded=left_out,
                    ignore_empty_frames=ignore,
                )
            )
        except DataError as error:
            if not args.all_variants:
                raise
            refused.append(f"{name} refused: {error}")
    if not results:
        raise DataError("; ".join(refused))
    look = "not stated" if args.lookahead is None else f"{args.lookahead:g} s"
    lines = [f"frame-mAP@0.5, look-ahead {look}", ""]
    width = max(len(r.variant) for r in results)
    lines.append(f"{'variant':{width}}     mAP  classes  true boxes  detections scored")
    for r in results:
        count = r.counts
        why = ", ".join(f"{count[k]:,} {k}" for k in LEFT_OUT if count[k])
        lines.append(
            f"{r.variant:{width}}  {figure(r.mean, '.4f'):>6}"
            f"  {count['classes scored']:>3}/{count['classes']:<3}  {count['true boxes']:>10,}"
            f"  {count['detections scored']:,} of {count['detections']:,}"
            + (f" (not: {why})" if why else "")
        )
    lines += refused + [f"n/a: {note}" for note in dict.fromkeys(r.note for r in results) if note]
    if args.per_class:
        title = lambda c: (names or {}).get(c, "")
        rows = list(results[0].per_class)
        wide = max([len("class"), *(len(title(c)) for c in rows)])
        lines += ["", f" id  {'class':{wide}}  " + "  ".join(f"{r.variant:>7}" for r in results)]
        for c in rows:
            figures = (
                f"{figure(r.per_class[c], '.4f'):>{max(7, len(r.variant))}}" for r in results
            )
            lines.append(f"{c:>3}  {title(c):{wide}}  " + "  ".join(figures))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
