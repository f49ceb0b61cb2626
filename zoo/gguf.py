"""Weights of llama.cpp's files (.gguf), and what they tell beside them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..layers.install import how_to_install
from ..layers.streaming import Json
from .errors import WeightsError


class Lazy(Mapping[str, np.ndarray]):
    """The tensors of a file in torch's order of axes, each made of its codes when asked for."""

    def __init__(self, tensors: Mapping[str, Any]):
        self.tensors = tensors

    def __getitem__(self, name: str) -> np.ndarray:
        from gguf.quants import dequantize

        tensor = self.tensors[name]
        # the file has the fastest axis first
        shape = [int(n) for n in reversed(tensor.shape)]
        return dequantize(tensor.data, tensor.tensor_type).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


@functools.lru_cache(maxsize=1)
def _reader(path: Path, written: int) -> Any:
    """An open file; ``written`` tells one that was replaced."""
    del written
    try:
        from gguf import GGUFReader
    except ImportError:
        raise ImportError(f"GGUF files are read by: {how_to_install('language')}") from None
    try:
        return GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise WeightsError(f"{path}: not a complete GGUF file ({error})") from None


def _open(path: Path) -> Any:
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    return _reader(path, path.stat().st_mtime_ns)


def read_gguf(path: Path) -> tuple[Lazy, Json]:
    """A GGUF file -> ({name: array}, what it tells: ``graph`` "gguf", ``file``, ``metadata``).

    Raises:
      WeightsError: not a GGUF file, or one that is cut off.
      ImportError: the package ``gguf``, which knows the format, is not installed.
    """
    reader = _open(path)
    tensors = Lazy({tensor.name: tensor for tensor in reader.tensors})
    few = {name: field for name, field in reader.fields.items() if len(field.data) < 1000}
    told = {name: field.contents() for name, field in few.items()}
    return tensors, {"graph": "gguf", "file": str(path), "metadata": told}


def read_field(path: Path, name: str) -> Any:
    """One of the things that a file tells, however long; None where it does not."""
    field = _open(path).fields.get(name)
    return None if field is None else field.contents()
