"""Weights on disk.

A file is safetensors with flat '/'-joined names (the path in the linen variables without the
leading "params/") and, in its header, what made it: ``format`` "streamzoo", ``format_version``,
``model`` (registered name), ``config`` (JSON of the config fields that differ or of all) and
whatever the caller adds. Pickle is never read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..layers.codec.box import Quantised
from ..layers.streaming import DType, Json, Params
from . import codes, int8
from .errors import WeightsError
from .trees import flatten, is_float, nest

Config: TypeAlias = Mapping[str, Any] | None  # of a checkpoint: its config.json, or its graph
FORMAT_VERSION = "1"
GRAPHS = {".onnx", ".tflite", ".ort", ".gguf"}
PICKLES = {".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".tar"}


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """A safetensors file. Raises WeightsError for a pickle, a missing file, a truncated or corrupt
    one, and a number format that numpy lacks."""
    import ml_dtypes  # noqa: F401  teaches numpy the name bfloat16
    import safetensors

    path = Path(path)
    if path.suffix.lower() in PICKLES:
        raise WeightsError(
            f"{path}: {path.suffix} files are pickles, which run code when read, and are refused;"
            " where you trust the file, write it as safetensors"
            " (safetensors.torch.save_file(torch.load(path, weights_only=True), 'x.safetensors'))"
            " and run `streamzoo convert x.safetensors`"
        )
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    if path.suffix.lower() in GRAPHS:
        raise WeightsError(
            f"{path}: a published graph and no weights of ours; make them of it with"
            f" `streamzoo convert {path} --out {path.stem}.safetensors`"
        )
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            yield file
    except (AttributeError, TypeError) as error:
        raise WeightsError(f"{path}: a number format that cannot be read ({error})") from None
    except OSError as error:  # the file may well be sound
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from None
    except safetensors.SafetensorError as error:
        with open(path, "rb") as raw:
            if raw.read(24).startswith(b"version https://git-lfs"):
                raise WeightsError(
                    f"{path}: a pointer of Git LFS in place of the weights; run `git lfs pull`"
                ) from None
        raise WeightsError(
            f"{path}: not a complete safetensors file ({error}); delete and download again"
        ) from None


_FLOAT8 = {
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}


def _tensor(file: Any, path: str | Path, key: str) -> np.ndarray:
    """One array. safetensors asks numpy itself for its type, and numpy has no float8: those are
    read as bytes. Raises AttributeError for a type that is none of ``_FLOAT8``."""
    try:
        return file.get_tensor(key)
    except AttributeError:
        import ml_dtypes

        with open(path, "rb") as raw:
            size = int.from_bytes(raw.read(8), "little")
            entry = json.loads(raw.read(size))[key]
            if entry["dtype"] not in _FLOAT8:
                raise
            start, stop = entry["data_offsets"]
            raw.seek(8 + size + start)
            dtype = getattr(ml_dtypes, _FLOAT8[entry["dtype"]])
            return np.frombuffer(raw.read(stop - start), dtype).reshape(entry["shape"])


def read_tensors(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Any safetensors file -> (name -> array, header metadata).

    Raises WeightsError for a pickle, a missing file, a truncated or corrupt one, and a number
    format that numpy lacks.
    """
    with _opened(path) as file:
        found = {key: _tensor(file, path, key) for key in file.keys()}  # noqa: SIM118  no dict
        return found, dict(file.metadata() or {})


class Tensors(Mapping[str, np.ndarray]):
    """The arrays of some safetensors files, each read when it is asked for. Raises as
    :func:`read_tensors`."""

    def __init__(self, files: Iterable[Path]):
        self._file: dict[str, Path] = {}
        for path in files:
            with _opened(path) as file:
                self._file |= dict.fromkeys(file.keys(), path)

    def __getitem__(self, key: str) -> np.ndarray:
        with _opened(self._file[key]) as file:
            return _tensor(file, self._file[key], key)

    def __contains__(self, key: object) -> bool:
        return key in self._file

    def __iter__(self) -> Iterator[str]:
        return iter(self._file)

    def __len__(self) -> int:
        return len(self._file)


def save(
    path: str | Path,
    params: Params,
    metadata: Json | None = None,
    *,
    dtype: DType | None = None,
) -> str:
    """Writes variables ``{"params": tree}``; returns the sha256 of the file.

    metadata: ``model`` (registered name), ``config`` (dataclass or mapping of config fields)
              and more; whatever is not text is stored as JSON. ``parts`` {"stem": NAME} says that
              the parameters under stem/, left out of this file, are those of NAME
    dtype:    floating arrays are stored as this, e.g. np.float16; one whose values would
              overflow keeps its own type
    The file appears whole or not at all. Raises WeightsError.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save as serialise

    path = Path(path)
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: weights are written as .safetensors")
    header = {"format": "streamzoo", "format_version": FORMAT_VERSION}
    for key, value in (metadata or {}).items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = dataclasses.asdict(value)
        try:
            header[key] = value if isinstance(value, str) else json.dumps(value, default=_plain)
        except TypeError as error:
            raise WeightsError(f"{path}: metadata {key!r} is not JSON: {error}") from None
    flat = flatten(params)
    if not flat:
        raise WeightsError(f"{path}: there are no parameters to save")
    boxed = {name for name, leaf in flat.items() if isinstance(leaf, Quantised)}
    stored = {n: leaf if n in boxed else _stored(leaf, dtype) for n, leaf in flat.items()}
    arrays, told = codes.pack(stored)
    header |= told
    try:
        data = serialise(arrays, metadata=header)
    except SafetensorError as error:
        kinds = sorted({a.dtype.name for a in arrays.values()})
        raise WeightsError(
            f"{path}: of {', '.join(kinds)}, safetensors has not every one ({error}); save with"
            " dtype=jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn or jnp.float8_e5m2"
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return hashlib.sha256(data).hexdigest()


def save_int8(path: str | Path, variables: Params, metadata: Json | None = None) -> str:
    """As ``zoo.save``, about a quarter of the bytes; ``zoo.load`` reads it. Returns the sha256."""
    return save(path, nest(int8.pack(flatten(variables))), metadata)


def _plain(value: Any) -> str:
    return np.dtype(value).name  # jnp.float32 and the like; a TypeError for anything else


def _stored(leaf: Any, dtype: DType | None) -> np.ndarray:
    array = np.asarray(leaf, order="C")  # safetensors writes the buffer as it lies
    if dtype is None or not is_float(array.dtype):
        return array
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    return cast if np.array_equal(np.isfinite(cast), np.isfinite(array)) else array


def load_file(path: str | Path) -> tuple[Params, dict[str, str]]:
    """One of our files -> (variables of numpy arrays as stored, header metadata).

    Raises WeightsError for a pickle, a missing, corrupt or too new file.
    """
    flat, metadata = read_tensors(path)
    version = metadata.get("format_version", FORMAT_VERSION)
    if metadata.get("format") == "streamzoo" and version != FORMAT_VERSION:
        raise WeightsError(
            f"{path}: format version {version}, this streamzoo reads {FORMAT_VERSION}; upgrade it"
        )
    flat = int8.unpack(flat)  # 8-bit kernels as floats
    return nest(codes.unpack(flat, metadata, str(path))), metadata


def sha256(path: str | Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_metadata(path: str | Path) -> dict[str, str]:
    """The header metadata alone. Raises as :func:`read_tensors`."""
    with _opened(path) as file:
        return dict(file.metadata() or {})
