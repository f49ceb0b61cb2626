"""Writes the parity table, tests/bench/results/parity.md: python tests/parity/table.py [WORD]

With a word only rows whose name holds it are measured and nothing is written.
"""

import os
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tests.parity.harness import check, measure
from tests.parity.test_parity import ROWS

OUT = ROOT / "tests" / "bench" / "results" / "parity.md"
HEAD = """# Parity with the reference implementations

Made by `python tests/parity/table.py`. Tiny random models, fp32 on a CPU; the checkpoint is saved
as its project publishes it and read by our converter. Relative: largest difference of an array
over the standard deviation of the reference's array; the worst array of each model is shown.

| model | reference | arrays compared | frames | max abs | max relative | worst array |
|---|---|---|---|---|---|---|
"""


def main(word: str = "") -> int:
    lines, failed = [], []
    for row in ROWS:
        if word not in row.name:
            continue
        try:
            with tempfile.TemporaryDirectory() as folder:
                gaps = measure(row, Path(folder))
        except pytest.skip.Exception as why:
            lines.append(f"| {row.name} | {row.reference} | not here: {why} | | | | |")
            continue
        worst = max(gaps, key=lambda gap: gap.relative)
        top = max(gap.absolute for gap in gaps)
        lines.append(
            f"| {row.name} | {row.reference} | {len(gaps)} | {row.frames} | {top:.1e}"
            f" | {worst.relative:.1e} | {worst.name} |"
        )
        try:
            check(row, gaps)
        except AssertionError as error:
            failed.append(str(error))
    if word:
        print("\n".join(lines))
    else:
        OUT.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(failed))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
