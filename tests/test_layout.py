"""The house: packages on disk are the packages that are shipped, and imports stay in their room."""

import ast
import functools
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {
    "layers": set(),
    "zoo": {"layers"},
    "train": {"zoo", "layers"},
    "streaming": {"zoo", "layers"},
    "configs": {"layers", "zoo", "train", "streaming"},
}
ACROSS = {"train/stream_report.py": {"streaming"}}  # accuracy and speed in one report


def test_packages_are_the_folders_on_disk():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(config["tool"]["setuptools"]["packages"])
    found = {"streamzoo"}
    for room in ROOMS:
        for path in (ROOT / room).rglob("__init__.py"):
            found.add(".".join(["streamzoo", *path.parent.relative_to(ROOT).parts]))
    assert listed == found


def test_the_root_is_re_exports_only():
    assert {p.name for p in ROOT.glob("*.py")} == {"__init__.py"}
    assert len((ROOT / "__init__.py").read_text().splitlines()) < 40


@functools.cache
def parsed(path):
    return ast.parse(path.read_text())


@functools.cache
def nodes(path):
    kinds = ast.Import | ast.ImportFrom
    return [node for node in ast.walk(parsed(path)) if isinstance(node, kinds)]


def imports(path, inside=True):
    """(level, module) of every import in a file; level 0 is absolute. ``inside``: functions too."""
    for node in nodes(path) if inside else parsed(path).body:
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((node.level, name) for name in names)


# The converter to LiteRT is in TensorFlow and nowhere else: imported by whoever writes such a file.
CONVERTERS = {("streaming/export/litert.py", "tensorflow")}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room):
    for path in (ROOT / room).rglob("*.py"):
        depth = len(path.relative_to(ROOT).parts) - 1
        allowed = ROOMS[room] | ACROSS.get(path.relative_to(ROOT).as_posix(), set())
        for level, module in imports(path):
            top = module.split(".")[0]
            if level > depth:
                assert top == room or top in allowed, f"{path}: {module}"
            if (path.relative_to(ROOT).as_posix(), top) in CONVERTERS:
                assert (0, module) not in imports(path, inside=False), f"{path}: {module} on top"
            else:
                assert level or top not in ("streamzoo", "torch", "tensorflow"), f"{path}: {module}"


@pytest.mark.parametrize("room", ["train", "streaming"])
def test_only_layers_and_zoo_import_flax(room):
    for path in (ROOT / room).rglob("*.py"):
        assert not any(m.split(".")[0] == "flax" for _, m in imports(path)), path


def test_ray_is_for_the_cluster_alone():
    """Of whose files only the ingress imports it when it is imported itself."""
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]

    def theirs(inside):
        found = [p for p in files if any(m.split(".")[0] == "ray" for _, m in imports(p, inside))]
        return {path.relative_to(ROOT / "streaming" / "cluster").stem for path in found}

    assert theirs(True) == {"ingress", "launch", "replica"} and theirs(False) == {"ingress"}


def test_nothing_is_unpickled():
    """Weights, checkpoints and caches may come from strangers, and a pickle runs code when read."""
    theirs = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        assert not {m.split(".")[0] for _, m in imports(path)} & theirs, path
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "weights_only"):
                safe = node.arg == "weights_only"
                assert isinstance(node.value, ast.Constant) and node.value.value is safe, path


def test_files_stay_small():
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            lines = len(path.read_text().splitlines())
            assert lines <= 550, f"{path} has {lines} lines"


def modules():
    """Name -> file of every module of the library, e.g. "zoo.weights"."""
    found = {}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name, path, known):
    """Modules of ours that a file imports anywhere: in functions and for types, too."""
    inside = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in nodes(path):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = inside[: len(inside) - node.level + 1] + (node.module or "").split(".")
        package = ".".join(part for part in base if part)
        for alias in node.names:
            one = f"{package}.{alias.name}"
            yield from [m for m in ([one] if one in known else [package]) if m in known]


def bound(path):
    """Names that a module binds at its top, whatever the condition."""
    found, todo = set(), [*parsed(path).body]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        else:
            todo += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
            todo += list(getattr(node, "handlers", []))
            found |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return found


def test_every_import_of_ours_names_what_is_there():
    known = modules() | {"": ROOT / "__init__.py"}
    there = {name: bound(path) for name, path in known.items()}
    tests = ROOT / "tests"
    files = {path: name for name, path in known.items()}
    for path in tests.rglob("*.py"):
        files[path] = name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        known[name], there[name] = path, bound(path)
        known |= {name.rpartition(".")[0]: path}  # a folder of tests
        there.setdefault(name.rpartition(".")[0], set())
    for path, name in files.items():
        inside = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        for node in nodes(path):
            if not isinstance(node, ast.ImportFrom):
                continue
            words = (node.module or "").split(".")
            if words[0] == "streamzoo" and not node.level:
                base = words[1:]
            elif node.level:
                base = inside[: len(inside) - node.level + 1] + words
            else:
                continue
            module = ".".join(word for word in base if word)
            assert module in known, f"{path}:{node.lineno}: there is no module {module}"
            if module.endswith("_pb2"):
                continue  # generated: it binds its names when it runs
            for alias in node.names:
                one = f"{module}.{alias.name}".strip(".")
                assert one in known or alias.name in there[module], (
                    f"{path}:{node.lineno}: {module} has no {alias.name}"
                )


def test_no_modules_import_each_other_in_a_circle():
    known = modules()
    graph = {name: {*imported(name, path, known)} - {name} for name, path in known.items()}
    # leave out, again and again, what imports nothing that is left
    while free := [name for name, needs in graph.items() if not needs & graph.keys()]:
        for name in free:
            del graph[name]
    # and what nothing that is left imports
    while free := [n for n in graph if not any(n in needs for needs in graph.values())]:
        for name in free:
            del graph[name]
    assert not graph, f"in a circle: {', '.join(sorted(graph))}"


def loaded(code):
    """Modules of ours that a fresh process has after ``code``."""
    code += "\nimport sys; print(*[m for m in sys.modules if m.split('.')[0] == 'streamzoo'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_an_import_brings_little():
    assert len(loaded("import streamzoo")) < 10  # its names come when they are asked for
    every = loaded("import streamzoo\nfor name in streamzoo.__all__: getattr(streamzoo, name)")
    assert len(every) < 150, f"{len(every)} modules: {' '.join(every)}"
    assert not [m for m in every if m.startswith("streamzoo.streaming.engine")]
    assert not [m for m in every if m.endswith((".names", ".convert")) and m.count(".") > 2]


def test_sources_do_not_know_the_engine():
    for path in (ROOT / "streaming" / "sources").rglob("*.py"):
        assert not [m for _, m in imports(path) if m.split(".")[0] == "engine"], path


MODELS = {"model", "student", "teacher", "output", "out"}


def asked(path):
    """Lines in which a model, its config or its output is asked for a field that it may have."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
            words = ast.unparse(node.args[0]).split(".")
            of_model = words[-1] in MODELS or words[-2:] == ["model", "config"]
            if node.func.id in ("getattr", "hasattr", "vars") and of_model:
                yield node.lineno


def test_nobody_outside_the_zoo_asks_a_model_which_fields_it_has():
    """The card's task, ``zoo.traits`` and the protocols of ``layers.streaming`` say it."""
    for room in ("layers", "streaming", "train", "configs"):
        for path in (ROOT / room).rglob("*.py"):
            assert not [*asked(path)], f"{path}: lines {[*asked(path)]}"
