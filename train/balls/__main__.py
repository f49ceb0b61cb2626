"""``python -m streamzoo.train.balls --seed 0 --out runs/balls``: the chain, and how it drifts.

``--table`` prints what the reports of all seeds in the folder say, as the page of results has it.
``--measure balls-tiny/bounce`` measures named weights, with several noises, and trains nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from .chain import Chain, ChainConfig
from .report import noises, report, table
from .self_forcing import student


def main(argv: list[str] | None = None) -> int:
    """Trains what is not there yet and measures it; the exit code."""
    p = argparse.ArgumentParser(prog="python -m streamzoo.train.balls", description=__doc__)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument(
        "--out", default="runs/balls", help="folder of the stages (default: %(default)s)"
    )
    p.add_argument("--until", choices=("teacher", "causal", "student"), default="student")
    p.add_argument("--streams", type=int, default=256, help="rollouts that are measured")
    settings = [field for field in dataclasses.fields(ChainConfig) if field.name != "model"]
    for field in settings:
        p.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default),
                           default=field.default, help=f"(default: {field.default})")  # fmt: skip
    p.add_argument("--table", action="store_true", help="print the reports that are there")
    p.add_argument("--measure", metavar="NAME", help="weights that are measured, not trained")
    p.add_argument("--noises", type=int, default=3, help="of --measure (default: %(default)s)")
    args = p.parse_args(argv)
    if args.measure:
        noises(args.measure, args.streams, args.noises, lambda text: print(text, flush=True))
        return 0
    if args.table:
        print(table(sorted(Path(args.out).glob("seed*/report.json"))))
        return 0
    given = {field.name: vars(args)[field.name] for field in settings}
    out = Path(args.out) / f"seed{args.seed}"
    chain = Chain(ChainConfig(**given), args.seed, out, lambda text: print(text, flush=True))
    if args.until != "student":
        chain.run(args.until)
    else:
        student(chain)
        found = report(chain, args.streams)
        (out / "report.json").write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
