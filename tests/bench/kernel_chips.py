"""Every shape of the zoo compiled for chips that need not be here: memory and cost, no time."""

from __future__ import annotations

import importlib
import json
import sys
import time
import types
from pathlib import Path
from typing import Any

import jax
from spine import ROOT, say

PACKAGE = "kernel_cases"
HEAD = ("op", "shape", "chip", "kernel", "args MB", "out MB", "temp MB", "GB moved", "GFLOP",
        "compile s", "jax")  # fmt: skip


def cases(name: str) -> Any:
    """A module of tests/layers/kernels, a folder of tests that is no package."""
    if PACKAGE not in sys.modules:
        package = types.ModuleType(PACKAGE)
        package.__path__ = [str(ROOT / "tests" / "layers" / "kernels")]
        sys.modules[PACKAGE] = package
    return importlib.import_module(f"{PACKAGE}.{name}")


def compile_one(chip: str, op: str, name: str) -> dict[str, Any]:
    """One row of the table; raises what the compiler raises."""
    targets = cases("targets")
    start = time.perf_counter()
    program = targets.compiled(chip, *cases("table").case(op, name))
    seconds = time.perf_counter() - start
    memory, cost = program.memory_analysis(), program.cost_analysis() or {}
    size = lambda what: getattr(memory, f"{what}_size_in_bytes") / 1e6
    text = program.as_text()
    kernel = targets.holds_kernel(text or "", op)
    figures = size("argument"), size("output"), size("temp")
    work = cost.get("bytes accessed"), cost.get("flops")
    work = tuple(x / 1e9 if x and x > 0 else None for x in work)
    about = op, name, chip, "yes" if kernel else "XLA"
    return dict(zip(HEAD, (*about, *figures, *work, seconds, jax.__version__), strict=True))


def markdown(about: dict[str, Any], rows: dict[str, list], failed: dict[str, list]) -> str:
    lines = ["# The kernels, compiled for chips that are not here", ""]
    lines += [f"- {key}: {value}" for key, value in about.items()]
    lines += [
        "- one chip; bytes and FLOPs are XLA's estimate, which counts a loop once and sees of a "
        "kernel what the kernel tells it: a drift alarm, no speed",
        "",
        "| " + " | ".join(HEAD) + " |",
        "|---|---|---|---" + "|---:" * (len(HEAD) - 5) + "|---|",
    ]

    def cell(value: Any) -> str:
        if value is None:
            return "-"
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    for chip in rows.values():
        lines += ["| " + " | ".join(cell(row[key]) for key in HEAD) + " |" for row in chip]
    missing = [f"- {line}" for chip in failed.values() for line in chip]
    lines += ["", "## Not compiled", "", *missing] if missing else []
    return "\n".join(lines) + "\n"


def main(chips: list[str], quick: bool, about: dict[str, Any], out: Path | None) -> None:
    """Compiles for ``chips`` (none: all) and writes kernels_chips.{md,json} into ``out``."""
    targets, table = cases("targets"), cases("table")
    if unknown := sorted(set(chips) - set(targets.TARGETS)):
        raise SystemExit(f"no chip {', '.join(unknown)}; there are {', '.join(targets.TARGETS)}")
    found = table.cases()
    if quick:
        found = list({op: (op, name) for op, name in reversed(found)}.values())
    rows: dict[str, list] = {}
    failed: dict[str, list] = {}
    path = out and out / "kernels_chips.json"
    if path and path.exists():  # chips that another Python compiled for
        before = json.loads(path.read_text())
        rows, failed = before["rows"], before["failed"]
    for chip in chips or targets.TARGETS:
        new, missing = compile_all(chip, found)
        if not new and rows.get(chip):
            continue  # its compiler is not installed here
        rows[chip], failed[chip] = new, missing
        if path:  # after every chip: all of them take a while
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(dict(about=about, rows=rows, failed=failed), indent=1))
            path.with_suffix(".md").write_text(markdown(about, rows, failed))
            say(f"wrote {path.with_suffix('.md')} and .json")
    print(markdown(about, rows, failed))


def compile_all(chip: str, found: list[tuple[str, str]]) -> tuple[list[dict], list[str]]:
    """(rows, what was not compiled and why) of one chip."""
    import pytest

    rows: list[dict] = []
    failed: list[str] = []
    try:
        cases("targets").topology(chip)
    except pytest.skip.Exception as reason:
        say(f"{chip}: {reason}")
        return rows, [f"{chip}: {reason}"]
    for op, name in found:
        try:
            rows.append(compile_one(chip, op, name))
            say(f"{chip} {op} {name}: {rows[-1]['compile s']:.1f} s")
        except Exception as error:  # the table shows it, the others go on
            line = str(error).splitlines()[0][:200]
            failed.append(f"{chip}, {op}, {name}: {type(error).__name__}: {line}")
            say(failed[-1])
    return rows, failed
