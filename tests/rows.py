"""Systems -> tests -> a mutant that they kill: the table, and the command that tries the mutants.

    python -m tests.rows                 # writes tests/bench/results/rows.md
    python -m tests.rows --kill 16 17    # runs the mutants of these rows first; no number: of all

The rows are those of the register of systems (1 to 55, and of the rest those that are judged), in
``rows.json``: the tests that hold a system, one change of its source that must make one of them
fail, and what is still open. A mutant lives in the memory of a forked process and of those that it
starts (``bench/mutants.py``); no source of the package is written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(__file__).with_name("rows.json")
RESULTS = Path(__file__).parent / "bench" / "results"
TABLE, KILLS = RESULTS / "rows.md", RESULTS / "rows.json"
KILLED, LIVES, NOT_RUN = "killed", "lives", "not run"


def rows() -> dict[str, dict[str, Any]]:
    """Number -> name, tests, and where there are such: mutant, slow, open."""
    return json.loads(DATA.read_text(encoding="utf-8"))


def kills() -> dict[str, dict[str, str]]:
    """Number -> what became of its mutant when it was last run."""
    return json.loads(KILLS.read_text(encoding="utf-8")) if KILLS.exists() else {}


def mark(row: dict[str, Any]) -> str:
    """A mutant's digest: a result counts for this change and these tests alone."""
    text = json.dumps([row["mutant"], row["tests"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def mutated(row: dict[str, Any]) -> str:
    """The changed source. Raises ValueError: what is to be changed is not there, or not once."""
    one = row["mutant"]
    source = (ROOT / one["file"]).read_text(encoding="utf-8")
    if source.count(one["before"]) != 1:
        times = source.count(one["before"])
        raise ValueError(f"{one['file']}: {one['before']!r} is there {times} times, not once")
    return source.replace(one["before"], one["after"])


def kill(row: dict[str, Any]) -> dict[str, str]:
    """Runs a row's tests on its mutant, and, where they all pass, says so."""
    import sys

    from .bench.mutants import First, Mutated, forked, inherited, pytest_run

    one = row["mutant"]
    module = one["file"].removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    module = f"streamzoo.{module}"
    source = mutated(row)

    def work() -> tuple[int, str]:
        changed = Mutated(module, ROOT / one["file"], source)
        sys.meta_path.insert(0, changed)
        inherited(changed)
        first = First()
        which = "" if row.get("slow") else "not slow"
        return pytest_run(row["tests"], first, "-x", "-m", which), first.failed

    got = forked(work, 900)
    if got is None:
        return {"mark": mark(row), "result": KILLED, "by": "a test that did not end"}
    code, failed = got
    if code in (0, 5):
        return {"mark": mark(row), "result": LIVES if code == 0 else NOT_RUN, "by": ""}
    return {"mark": mark(row), "result": KILLED, "by": failed}


def table() -> str:
    """The page."""
    found, told = rows(), kills()
    lines = [
        "# Systems, their tests, and a mutant of each", "",
        "Made by `python -m tests.rows`; mutants are run by `python -m tests.rows --kill`. Open: "
        "what the row does not show. Slow tests are marked *.", "",
        "| row | system | tests | mutant | result | open |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    cell = lambda text: " ".join(text.split()).replace("|", "\\|")
    for number, row in found.items():
        tests = "<br>".join(f"`{t.removeprefix('tests/')}`" for t in row["tests"])
        change, result = "", ""
        if "mutant" in row:
            one, last = row["mutant"], told.get(number, {})
            change = f"`{one['file']}`: `{cell(one['before'])}` → `{cell(one['after'])}`"
            result = last["result"] if last.get("mark") == mark(row) else NOT_RUN
        star = "*" if row.get("slow") else ""
        lines.append(
            f"| {number} | {cell(row['name'])} | {cell(tests)}{star} | {change} | {result} "
            f"| {cell(row.get('open', ''))} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="systems, tests, mutants")
    parser.add_argument("--kill", nargs="*", metavar="ROW", help="run these rows' mutants; all")
    args = parser.parse_args()
    if args.kill is not None:
        from .bench.mutants import warm

        os.chdir(ROOT)
        (ROOT / "build").mkdir(exist_ok=True)
        warm()
        for number, row in rows().items():
            if "mutant" in row and (not args.kill or number in args.kill):
                told = kills() | {number: kill(row)}
                text = {n: told[n] for n in sorted(told, key=int)}
                KILLS.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
                print(number, told[number], flush=True)
    TABLE.write_text(table(), encoding="utf-8")
    print(f"wrote {TABLE}")


if __name__ == "__main__":
    from .bench.mutants import quick_compiling

    quick_compiling()
    main()
