"""NanoTrack version 2, two ONNX files -> our parameters.

The trunk and the head are published as files of their own, whose names differ in one word:
``nanotrackv2_backbone.onnx`` and ``nanotrackv2_head.onnx``. Either leads to both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ...convert import Config, Converter, ConvertError, Plan, Rule, conv2d, register_converter
from ...graphs import read_onnx, shapes
from .network import DEPTH, STAGES, STEM

HEAD = [[1, 48, 8, 8], [1, 48, 16, 16], [1, 2, 16, 16], [1, 4, 16, 16]]
TRUNK = [[1, 3, 255, 255], [1, 48, 16, 16]]


def _ends(told: Config) -> list[list[int]]:
    return [list(s) for kind in ("inputs", "outputs") for s in shapes(told, kind)]


def _trunk() -> Iterator[str]:
    """Paths as the trunk's file calls them."""
    yield "stem"
    inside = STEM
    for i, stage in enumerate(STAGES):
        at = f"stages_{i}"
        if stage.inside != inside:
            yield f"{at}/expand"
        yield f"{at}/depth"
        if stage.squeezed:
            yield from (f"{at}/gate/down", f"{at}/gate/up")
        yield f"{at}/project"
        inside = stage.width


def _head() -> Iterator[str]:
    """Paths as the head's file calls them."""
    for at in ("like_box", "like_score"):
        yield from (f"{at}/{part}" for part in ("template", "search", "down", "up"))
    for at in ("score", "box"):
        for i in range(DEPTH):
            yield from (f"{at}/filter_{i}", f"{at}/points_{i}")
        yield f"{at}/last"


def _named(tensors: Mapping[str, np.ndarray], at: str, paths: list[str]) -> dict[str, np.ndarray]:
    """The file's numbered arrays under our names."""
    numbers = [key.removesuffix(".weight") for key in tensors if key.endswith(".weight")]
    if len(numbers) != len(paths):
        raise ConvertError(
            f"the {at} has {len(numbers)} layers with weights; NanoTrack version 2 has {len(paths)}"
        )
    out = {}
    for number, path in zip(numbers, paths, strict=True):
        weight, last = tensors[f"{number}.weight"], path.rsplit("/", 1)[-1]
        # a gate is a convolution over one cell, or a dense layer
        gate = last in ("down", "up")
        kernel = weight.reshape(weight.shape[:2]).T if gate else conv2d(weight)
        name = f"{at}/{path}"
        out[name if last.startswith("filter_") else f"{name}/kernel"] = kernel
        if f"{number}.bias" in tensors:
            out[f"{name}/bias"] = tensors[f"{number}.bias"]
    return out


def _partner(path: Path, head: bool) -> Path:
    """The file of the other network. Raises ConvertError where it is not beside ``path``."""
    words = ("head", "backbone") if head else ("backbone", "head")
    other = path.with_name(path.name.replace(*words))
    if other == path or not other.is_file():
        raise ConvertError(
            f"{path}: NanoTrack is two files; beside the one with {words[0]!r} in its name there "
            f"has to be the one with {words[1]!r} in its place"
        )
    return other


def _is_nanotrack(keys: frozenset[str], told: Config) -> bool:
    del keys
    return _ends(told) in (HEAD, TRUNK)


def _plan(tensors: Mapping[str, np.ndarray], told: Config) -> Plan:
    if told is None or not _is_nanotrack(frozenset(), told):
        raise ConvertError(
            f"inputs and outputs {_ends(told)} are those of neither NanoTrack's trunk nor its head"
        )
    head = _ends(told) == HEAD
    other, ends = read_onnx(_partner(Path(told["file"]), head))
    if _ends(ends) != (TRUNK if head else HEAD):
        raise ConvertError(f"{ends['file']}: not NanoTrack's {'trunk' if head else 'head'}")
    first, second = (tensors, other) if head else (other, tensors)

    def both(_: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return _named(first, "head", [*_head()]) | _named(second, "trunk", [*_trunk()])

    return Plan("nanotrack-v2", (Rule("(?P<all>.*)", "{all}"),), prepare=both)


register_converter(
    Converter("nanotrack-onnx", _is_nanotrack, _plan, "NanoTrack version 2, two ONNX files")
)
