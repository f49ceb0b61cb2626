"""Weights of CTranslate2's binary files (model.bin), which are no pickles for all their suffix."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from ..layers.streaming import Json
from .errors import WeightsError

_TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
_VERSION = 6
_SUFFIX = ".bin"


def is_ctranslate2(path: Path) -> bool:
    """True for a file of the known version that begins with the name of a network's kind."""
    if path.suffix.lower() != _SUFFIX or not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(64)
    if len(head) < 8 or struct.unpack_from("<I", head)[0] != _VERSION:
        return False
    size = struct.unpack_from("<H", head, 4)[0]
    return 1 < size <= 58 and head[6 : 5 + size].isalnum() and head[5 + size] == 0


def read_ctranslate2(path: Path) -> tuple[dict[str, np.ndarray], Json]:
    """A CTranslate2 file -> ({name: array}, what it tells: ``graph`` "ctranslate2", ``spec``,
    ``file``). Names stand for the same array where the file says so.

    Raises:
      WeightsError: another kind of file or version, weights in fewer bits, or a file cut off.
    """
    if not is_ctranslate2(path):
        raise WeightsError(f"{path}: not a file of CTranslate2, version {_VERSION}")
    data, at = path.read_bytes(), 4

    def number(kind: str) -> int:
        nonlocal at
        value = struct.unpack_from("<" + kind, data, at)[0]
        at += struct.calcsize(kind)
        return value

    def text() -> str:
        nonlocal at
        size = number("H")
        at += size
        return data[at - size : at - 1].decode("utf-8")  # it ends with a zero

    tensors: dict[str, np.ndarray] = {}
    try:
        spec, _ = text(), number("I")
        for _ in range(number("I")):
            name = text()
            shape = [number("I") for _ in range(number("B"))]
            kind = _TYPES[number("B")]
            size = number("I")
            if at + size > len(data):
                raise WeightsError(f"{path}: ends within {name}; fetch it again")
            tensors[name] = np.frombuffer(data[at : at + size], kind).reshape(shape)
            at += size
        for _ in range(number("I")):
            alias, name = text(), text()
            tensors[alias] = tensors[name]
    except (struct.error, IndexError, KeyError, ValueError) as error:
        raise WeightsError(f"{path}: not a complete file of CTranslate2 ({error})") from None
    if scaled := [name for name in tensors if name.endswith("weight_scale")]:
        raise WeightsError(
            f"{path}: its weights are in 8 or 16 bit integers ({scaled[0]}); take a file in float16"
            " or float32"
        )
    return tensors, {"graph": "ctranslate2", "spec": spec, "file": str(path)}
