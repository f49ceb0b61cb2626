"""What a compiled step of a registered model moves of its memory, for a CPU and for a TPU v5e.

    python -m tests.bench.kernel_copies [NAME ...]     # writes results/kernel_copies.{json,md}

One frame of one stream at the model's own size, the carry donated; nothing is computed. No name:
every registered temporal model. ``--before`` writes the other column, from a checkout of before.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import jax

from streamzoo.zoo import list_models, model_card

from ..layers.kernels import steps

OUT = Path(__file__).parent / "results" / "kernel_copies.json"
ARCHS = ("tsa", "dsta", "rglru", "gdn", "swa", "conv", "hybrid")


def temporal_models() -> list[str]:
    """The registered students that remember."""
    names = [n for n in list_models() if "/" not in n and n.split("-")[0] in ARCHS]
    return [n for n in names if model_card(n).streaming and model_card(n).task == "action"]


def markdown(found: dict[str, Any]) -> str:
    """The table."""
    mb = lambda row, key: f"{row[key] / 1e6:.2f}" if row else "-"
    lines = [
        "# What a step moves of its memory",
        "",
        f"`python -m tests.bench.kernel_copies`; jax {jax.__version__}; one frame of one stream,",
        "compiled with a donated carry. Moved: bytes of the carry that are sliced, copied or",
        "written (into a ring: the new frame). New: what a frame changes. MB.",
        "",
        "| model | for | carry | new | moved before | moved | temporaries before | temporaries "
        "| GFLOP |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for key, row in sorted(found["now"].items()):
        old = found["before"].get(key)
        cells = [mb(row, "carry"), mb(row, "new"), mb(old, "moved"), mb(row, "moved")]
        cells += [mb(old, "temporaries"), mb(row, "temporaries"), f"{row['flops'] / 1e9:.2f}"]
        lines.append(f"| {' | '.join([*key.split(), *cells])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compiles and writes the table after each program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--before", action="store_true")
    args = parser.parse_args()
    for name in args.names or temporal_models():
        for platform in steps.PLATFORMS:
            step = steps.compiled(name, platform)
            found = json.loads(OUT.read_text())
            keys = ("carry", "new", "moved", "temporaries", "flops")
            row = {key: getattr(step, key) for key in keys}
            found["before" if args.before else "now"][f"{name} {platform}"] = row
            OUT.write_text(json.dumps(found, indent=1) + "\n")
            OUT.with_suffix(".md").write_text(markdown(found))
            print(name, platform, row, flush=True)


if __name__ == "__main__":
    main()
