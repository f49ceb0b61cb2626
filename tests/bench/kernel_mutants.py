"""Makes every mistake of ``kernel_mutant_list`` and tells which test notices.

    python -m tests.bench.kernel_mutants              # those that results/kernel_mutants.json lacks
    python -m tests.bench.kernel_mutants --only ring  # of some names or files; again, if there

Each is made in a copy of the package, so the checkout stays as it is and the command may be stopped
and started again at any time. The default suite runs first, then what is marked slow.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .kernel_mutant_list import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
OUT = Path(__file__).parent / "results" / "kernel_mutants"
SUITES = {"default": "not slow", "slow": "slow"}


def apply(mutant: Mutant, root: Path) -> None:
    """Writes the mistake into a copy.

    Raises:
      ValueError: the text does not stand there exactly once.
    """
    file = root / "layers" / mutant.file
    text = file.read_text()
    if (count := text.count(mutant.old)) != 1:
        raise ValueError(f"{mutant.name}: {mutant.old!r} stands {count} times in {mutant.file}")
    file.write_text(text.replace(mutant.old, mutant.new))


def copy(folder: Path) -> Path:
    """The package without its weights, results and history."""
    target = folder / "streamzoo"
    leave = shutil.ignore_patterns(".*", "bundled", "results", "notebooks", "__pycache__", "src")
    shutil.copytree(ROOT, target, ignore=leave, symlinks=True)
    (folder / "shared").symlink_to(ROOT.parent / "shared")
    return target


def first_failure(package: Path, tests: tuple[str, ...], marked: str) -> str | None:
    """The first test that fails, or None."""
    files = [str(package / "tests" / "layers" / name) for name in tests]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", marked,
         "--no-header", *files],
        cwd=package, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(package.parent), "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    found = re.search(r"^(?:FAILED|ERROR) \S*?tests/layers/(\S+)", run.stdout, re.M)
    if run.returncode and not found:  # a copy that cannot run tells nothing about the mistake
        raise RuntimeError(run.stdout[-2000:] + run.stderr[-2000:])
    return found[1] if found else None


def judge(mutant: Mutant) -> dict[str, str]:
    """Which suite kills it, and by which test."""
    with tempfile.TemporaryDirectory() as folder:
        package = copy(Path(folder))
        apply(mutant, package)
        for suite, marked in SUITES.items():
            if test := first_failure(package, mutant.tests, marked):
                return {"suite": suite, "test": test}
    return {"suite": "none", "test": "SURVIVED"}


def table(found: dict[str, dict[str, str]]) -> str:
    """Markdown: a line for each mistake that was made."""
    killed = sum(row["suite"] != "none" for row in found.values())
    lines = [
        "# Mistakes in kernels, and the tests that notice",
        "",
        "`python -m tests.bench.kernel_mutants` makes each mistake of its list alone.",
        f"{len(found)} of {len(MUTANTS)} were made, {killed} were noticed.",
        "",
        "| mistake | file | suite | first test that fails |",
        "|---|---|---|---|",
    ]
    for mutant in MUTANTS:
        if row := found.get(mutant.name):
            test = row["test"].replace("|", "\\|")
            lines.append(f"| {mutant.name} | {mutant.file} | {row['suite']} | `{test}` |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Judges what is left, and writes the table after each."""
    parser = argparse.ArgumentParser(description="Makes mistakes in kernels.")
    parser.add_argument("--only", default="", help="a part of names or files; judged again")
    only = parser.parse_args().only
    store = OUT.with_suffix(".json")
    found = json.loads(store.read_text()) if store.exists() else {}
    for mutant in MUTANTS:
        wanted = only in mutant.name or only in mutant.file if only else mutant.name not in found
        if wanted:
            found[mutant.name] = judge(mutant)
            print(mutant.name, found[mutant.name], flush=True)
            store.write_text(json.dumps(found, indent=1) + "\n")
            OUT.with_suffix(".md").write_text(table(found))


if __name__ == "__main__":
    main()
