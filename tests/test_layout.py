"""The house: packages on disk are the packages that are shipped, and imports stay in their room."""

import ast
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


def imports(path, inside=True):
    """(level, module) of every import in a file; level 0 is absolute. ``inside``: functions too."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if inside else tree.body:
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((node.level, name) for name in names)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room):
    for path in (ROOT / room).rglob("*.py"):
        depth = len(path.relative_to(ROOT).parts) - 1
        allowed = ROOMS[room] | ACROSS.get(path.relative_to(ROOT).as_posix(), set())
        for level, module in imports(path):
            top = module.split(".")[0]
            if level > depth:
                assert top == room or top in allowed, f"{path}: {module}"
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


def test_files_stay_small():
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            lines = len(path.read_text().splitlines())
            assert lines <= 550, f"{path} has {lines} lines"
