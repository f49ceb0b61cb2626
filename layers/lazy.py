"""Packages whose public names are imported when they are asked for (PEP 562).

Such a package imports its names under ``if TYPE_CHECKING:``, where editors and checkers read them,
and ends with ``__getattr__ = on_demand(__name__, __file__)``, which reads them there, too.
"""

from __future__ import annotations

import ast
import functools
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def on_demand(package: str, file: str) -> Callable[[str], Any]:
    """A ``__getattr__`` for the package whose ``__init__.py`` is ``file``."""

    @functools.cache
    def where() -> dict[str, tuple[str, str]]:
        """Public name -> (module, its name there)."""
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
        return {
            alias.asname or alias.name: ("." * node.level + (node.module or ""), alias.name)
            for branch in tree.body
            if isinstance(branch, ast.If)
            for node in branch.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }

    def find(name: str) -> Any:
        if name.startswith("__") or name not in where():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, own = where()[name]
        if module.strip("."):
            value = getattr(importlib.import_module(module, package), own)
        else:  # ``from . import module``
            value = importlib.import_module(module + own, package)
        setattr(sys.modules[package], name, value)
        return value

    return find
