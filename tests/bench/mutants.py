"""Do the tests die when a mechanism is broken? Mutants of the library, each run against its tests.

    python -m tests.bench.mutants run --count 200          # goes on where it stopped
    python -m tests.bench.mutants run --only layers/gaps.py --each 40
    python -m tests.bench.mutants report                   # results/mutants.md

A mutant is one change of one expression (``mutation.py``), drawn with a seed: so many of each file.
A source's tests are those of ``mutants.json``, or those whose imports name it. A first run says
which test runs which line; a mutant is tried on the tests of its line, quickest first, then, of
sources with JAX, on the rest, until one fails: then it is killed. Sources are changed in memory, in
a forked process that has JAX imported already; no file is written but ``build/mutants.jsonl`` and
the report. Not mutmut or cosmic-ray: both write changed sources, start Python anew for every mutant
(9 s of imports here) and run one command for all of a package.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.util
import inspect
import json
import os
import random
import re
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from ..parity.shim import mend_torchvision
from .mutation import at_import, marked, mutants

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
ROOMS = ("layers", "zoo", "train/losses.py", "train/live", "streaming/engine")
BUILT = ROOT / "build"
LOG, TABLE, OUT = BUILT / "mutants.jsonl", HERE / "mutants.json", HERE / "results" / "mutants"
KILLED, SURVIVED, TIMEOUT, UNREACHED = "killed", "survived", "timeout", "unreached"
MOST_TESTS = 3  # files of tests per source, where the table names none


def sources(settings: dict[str, Any], only: list[str]) -> list[str]:
    """Sources that are mutated, as paths from the root."""
    paths = [p for room in ROOMS for p in ([ROOT / room] if room.endswith(".py") else
             sorted((ROOT / room).rglob("*.py")))]  # fmt: skip
    names = [str(p.relative_to(ROOT)) for p in paths if p.name != "__init__.py"]
    left_out = re.compile("|".join(settings["left_out"]))
    return [n for n in names if not left_out.search(n) and (not only or n in only)]


def tests_of(source: str, settings: dict[str, Any], texts: dict[str, str]) -> list[str]:
    """Test files of a source: the table's, else those whose imports name its module."""
    for pattern, files in settings["tests"].items():
        if re.search(pattern, source):
            return files
    *folders, stem = source.removesuffix(".py").split("/")
    module = re.compile(
        rf"^\s*(from|import) .*\b{folders[-1]}(\.{stem}\b| import .*\b{stem}\b)", re.M
    )
    room = re.compile(rf"^\s*(from|import) .*\b{folders[-1]}\b", re.M)
    score = lambda f: (
        100 * (Path(f).stem == f"test_{stem}") + 10 * len(module.findall(texts[f]))
        + len(room.findall(texts[f]))
    )  # fmt: skip
    ranked = sorted((f for f in texts if score(f)), key=lambda f: (-score(f), f))
    exact = [f for f in ranked if score(f) >= 10]
    return exact[:MOST_TESTS] or ranked[: MOST_TESTS - 1]


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module its changed source, and names that it may use."""

    def __init__(self, module: str, path: Path, source: Any, **names: Any):
        self.module, self.path, self.source, self.names = module, path, source, names

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name == self.module:
            inside = [str(self.path.parent)] if self.path.name == "__init__.py" else None
            return importlib.util.spec_from_file_location(
                name, self.path, loader=self, submodule_search_locations=inside
            )
        return None

    def exec_module(self, module: Any) -> None:
        module.__dict__.update(self.names)
        exec(compile(self.source, str(self.path), "exec"), module.__dict__)


def inherited(mutated: Mutated) -> None:
    """Processes that this one starts get the changed source as well."""
    folder = BUILT / f"mutant{os.getppid()}"
    folder.mkdir(exist_ok=True)
    given = f"{mutated.module!r}, Path({str(mutated.path)!r}), {mutated.source!r}"
    (folder / "sitecustomize.py").write_text(
        "from __future__ import annotations\nimport importlib.abc, importlib.util, sys\n"
        f"from pathlib import Path\n{inspect.getsource(Mutated)}\n"
        f"sys.meta_path.insert(0, Mutated({given}))\n"
    )
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)


class Traced:
    """A pytest plugin: which test runs which line of one file, and how long each takes. The file
    says so itself (``mutation.marked``): a tracer makes all of JAX several times slower."""

    def __init__(self) -> None:
        self.lines: dict[str, set[int]] = {}
        self.now: set[int] = set()
        self.seconds: dict[str, float] = {}
        self.bad: list[str] = []
        self.began = 0.0

    def ran(self, first: int, last: int) -> None:
        self.now.update(range(first, last + 1))

    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:
        self.now = self.lines.setdefault(nodeid, set())
        self.began = time.process_time()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.outcome != "passed" and report.nodeid not in self.bad:
            self.bad.append(report.nodeid)

    def pytest_runtest_logfinish(self, nodeid: str, location: Any) -> None:
        self.seconds[nodeid] = time.process_time() - self.began


class First:
    """A pytest plugin: the first test that fails."""

    failed = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid or "import"


def forked(work: Any, seconds: float) -> Any:
    """What ``work()`` gives, in a process of its own; None after so many seconds of the processor
    (a loaded machine is no reason), or ten times as many by the clock."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
        null = os.open(BUILT / "mutants.out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(null, 1)
        os.dup2(null, 2)
        try:
            os.write(write, json.dumps(work()).encode())
        except BaseException:
            traceback.print_exc()  # into build/mutants.out
        finally:
            os._exit(0)
    os.close(write)
    end, text = time.monotonic() + 10 * seconds + 600, b""
    os.set_blocking(read, False)
    try:
        while time.monotonic() < end:
            try:
                piece = os.read(read, 1 << 16)
            except BlockingIOError:
                time.sleep(0.2)
                continue
            if not piece:
                return json.loads(text) if text else None
            text += piece
        return None
    finally:
        os.close(read)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def pytest_run(tests: list[str], plugin: Any, *more: str) -> int:
    import pytest

    quiet = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow", "--no-header"]
    return int(pytest.main([*quiet, f"--rootdir={ROOT}", *more, *tests], plugins=[plugin]))


def warm() -> None:
    """Imports what every test wants (conftest.py the last): forked processes have it."""
    for name in ("flax.linen", "jax", "numpy", "pytest", "hypothesis"):
        importlib.import_module(name)
    if importlib.util.find_spec("torchvision"):
        mend_torchvision()


def baseline(source: str, tests: list[str]) -> Any:
    """(lines of each test, seconds of each, those that fail by themselves)."""

    def work() -> Any:
        plugin = Traced()
        path, module = ROOT / source, "streamzoo." + source.removesuffix(".py").replace("/", ".")
        tree = marked(path.read_text(), "__ran__")
        sys.meta_path.insert(0, Mutated(module, path, tree, __ran__=plugin.ran))
        pytest_run(tests, plugin)
        return {t: sorted(n) for t, n in plugin.lines.items()}, plugin.seconds, plugin.bad

    return forked(work, 900)


def judge(mutant: Any, base: Any, tests: list[str]) -> dict[str, Any]:
    """Runs one mutant's tests until one fails."""
    lines, seconds, bad = base
    usable = sorted((t for t in lines if t not in bad), key=lambda t: seconds[t])
    at = range(mutant.line, mutant.line + mutant.before.count("\n") + 1)
    source = (ROOT / mutant.file).read_text()
    every = at_import(source, mutant.line)
    near = [t for t in usable if every or set(lines[t]) & set(at)]
    module = "streamzoo." + mutant.file.removesuffix(".py").replace("/", ".")

    def work(chosen: list[str]) -> Any:
        sys.meta_path.insert(0, Mutated(module, ROOT / mutant.file, mutant.apply(source)))
        first = First()
        code = pytest_run(chosen, first, "-x")
        return [code, first.failed]

    start = time.monotonic()
    # what JAX compiled for one test another runs without a line of it; other code hides nothing
    rest = [t for t in usable if t not in near] if re.search(r"\bjax\b", source) else []
    for chosen in (near, rest):
        if not chosen:
            continue
        limit = 60 + 3 * sum(seconds[t] for t in chosen)
        got = forked(lambda chosen=chosen: work(chosen), limit)
        took = round(time.monotonic() - start, 1)
        if got is None:
            return {"status": TIMEOUT, "by": chosen[0], "seconds": took}
        if got[0] != 0:
            return {"status": KILLED, "by": got[1], "seconds": took}
    status = SURVIVED if near else UNREACHED
    return {"status": status, "by": "", "seconds": round(time.monotonic() - start, 1)}


def run(count: int, each: int, seed: int, only: list[str]) -> None:
    os.chdir(ROOT)
    BUILT.mkdir(exist_ok=True)
    settings = json.loads(TABLE.read_text())
    done = {row["key"]: row for row in logged()}
    texts = {str(p.relative_to(ROOT)): p.read_text() for p in (ROOT / "tests").rglob("test_*.py")}
    names = sources(settings, only)
    random.Random(seed).shuffle(names)
    warm()

    for source in names:
        if len(done) >= count and not only:
            break
        tests = tests_of(source, settings, texts)
        made = mutants(source, (ROOT / source).read_text())
        drawn = random.Random(f"{seed} {source}").sample(made, min(each, len(made)))
        left = [m for m in drawn if m.key not in done]
        if not left or not tests:
            if not tests:
                print(f"{source}: no tests", flush=True)
            continue
        base = baseline(source, tests)
        if base is None or not base[1]:
            print(f"{source}: its tests do not run", flush=True)
            continue
        for mutant in left:
            told = judge(mutant, base, tests)
            row = {"key": mutant.key, "file": source, "line": mutant.line, "place": mutant.place,
                   "before": mutant.before, "after": mutant.after, **told}  # fmt: skip
            done[mutant.key] = row
            with LOG.open("a") as log:
                log.write(json.dumps(row) + "\n")
            print(row["status"], source, mutant.line, mutant.after[:60], flush=True)


def logged() -> list[dict[str, Any]]:
    """Rows so far; a later one of the same mutant replaces an earlier one."""
    if not LOG.exists():
        return []
    return list({r["key"]: r for r in map(json.loads, LOG.read_text().splitlines())}.values())


def report() -> None:
    """Writes the table: counts by room, and every survivor with its reason from the settings."""
    reasons = json.loads(TABLE.read_text())["reasons"]
    rows = sorted(logged(), key=lambda r: (r["file"], r["line"]))
    dead = (KILLED, TIMEOUT)
    equal = [r for r in rows if reasons.get(r["key"], "").startswith("equivalent")]
    left = [r for r in rows if r["status"] not in dead]
    killed, judged = len(rows) - len(left), len(rows) - len([r for r in equal if r in left])
    text = [
        "# Mutants", "",
        f"{len(rows)} mutants of {len({r['file'] for r in rows})} files: {killed} killed "
        f"({killed / len(rows):.1%}; {killed / max(1, judged):.1%} without the "
        f"{len(rows) - judged} that change nothing observable). "
        "By `python -m tests.bench.mutants run` and `report`.", "",
        "| room | mutants | killed |", "|---|---|---|",
    ]  # fmt: skip
    room = lambda r: "/".join(r["file"].split("/")[:2])
    count, alive = Counter(map(room, rows)), Counter(map(room, left))
    text += [f"| `{n}` | {count[n]} | {count[n] - alive[n]} |" for n in sorted(count)]
    cell = lambda s: " ".join(s.split()).replace("|", "\\|")
    text += ["", "## Survivors", "", "| where | change | why it lives |", "|---|---|---|"]
    text += [
        f"| `{r['file']}` `{r['place']}` | `{cell(r['before'])}` → `{cell(r['after'])}` | "
        f"{reasons.get(r['key'], r['status'])} |"
        for r in left
    ]
    OUT.with_suffix(".md").write_text("\n".join(text) + "\n")
    OUT.with_suffix(".jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    print(f"{killed} of {len(rows)} killed, {len(left)} live; wrote {OUT}.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--count", type=int, default=200, help="mutants in all")
    parser.add_argument("--each", type=int, default=5, help="mutants of a file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], metavar="FILE", help="of these sources")
    args = parser.parse_args()
    if args.what == "report":
        report()
    else:
        run(args.count, args.each, args.seed, args.only)


def quick_compiling() -> None:
    """The settings of ``tests/conftest.py``, which JAX reads when it is imported: before that."""
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(BUILT / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")


if __name__ == "__main__":
    quick_compiling()
    main()
