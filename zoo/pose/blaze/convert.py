"""MediaPipe's BlazePose, two TensorFlow Lite files -> our parameters.

The package keeps them in two folders, ``pose_landmark/pose_landmark_full.tflite`` and
``pose_detection/pose_detection.tflite``. Either leads to both, there or side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ...convert import Config, Converter, ConvertError, Plan, Rule, register_converter
from ...graphs import read_tflite, shapes
from ..palm.convert import KERNELS
from .blocks import BLOCKS, HALVES
from .landmarks import DEEP, EVERY

FILES = {"landmarks": "pose_landmark_full.tflite", "detector": "pose_detection.tflite"}
ENDS = {
    "landmarks": [[1, 1], [1, 64, 64, EVERY], [1, 3 * EVERY], [1, 5 * EVERY], [1, 256, 256, 1]],
    "detector": [[1, 2254, 1], [1, 2254, 12]],
}
Order = Iterator[tuple[str, str]]  # (operation, path of ours)


def _both(path: str) -> Order:
    yield from (("depthwise", f"{path}/depth_"), ("conv", f"{path}/point_"))


def _trunk(skips: dict[int, str]) -> Order:
    """``skips``: where the input of a block of stride 2 is read, which the files list right after
    the block's first convolution."""
    yield "conv", "trunk/stem/"
    for i, stage in enumerate(BLOCKS):
        at = f"trunk/blocks_{i}"
        if stage.expand != 1:
            yield "conv", f"{at}/expand_"
        if i in skips:
            yield from _both(skips[i])
        yield from (("depthwise", f"{at}/depth_"), ("conv", f"{at}/project_"))
    yield from (("conv", "trunk/wide_"), ("depthwise", "trunk/last_"))


def _detector() -> Order:
    yield from _trunk({HALVES[2]: "skip_1", HALVES[3]: "skip_0"})
    for i in range(2):
        yield "conv", f"up_{i}_"
        yield from (*_both(f"merge_{i}_0/filter"), *_both(f"merge_{i}_1/filter"))
    for i in range(3):
        yield from (*_both(f"score_{i}"), *_both(f"box_{i}"))


def _landmarks() -> Order:
    yield from _trunk({block: f"skip_{i}" for i, block in enumerate(HALVES)})
    yield from (*_both("up"), *_both("shrink"))
    for i in range(4):
        yield from _both(f"mask_{i}/filter")
    yield from (("conv", "mask_out/"), ("conv", "heat/"), *_both("down"))
    for i in range(len(DEEP)):
        yield from _both(f"deep_{i}/filter")
    yield from (("conv", "points/"), ("conv", "world/"), ("conv", "present/"))


ORDERS = {"landmarks": _landmarks, "detector": _detector}


def _part(told: Config) -> str:
    """ "landmarks", "detector" or "" of another file."""
    outputs = sorted(list(s) for s in shapes(told, "outputs"))
    tflite = (told or {}).get("graph") == "tflite"
    return next((part for part, ends in ENDS.items() if tflite and outputs == ends), "")


def _partner(path: Path, other: str) -> Path:
    """The file of the ``other`` network. Raises ConvertError where it is not there."""
    name = FILES[other]
    folder = "pose_landmark" if other == "landmarks" else "pose_detection"
    for place in (path.with_name(name), path.parent.parent / folder / name):
        if place.is_file():
            return place
    raise ConvertError(
        f"{path}: BlazePose is two files; {name} has to be beside it, or where the package has it"
    )


def _named(tensors: Mapping[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    """The file's arrays under our names, by the order of its operations."""
    weights = [key.removesuffix(".weight") for key in tensors if key.endswith(".weight")]
    wanted = [*ORDERS[part]()]
    if len(weights) != len(wanted):
        raise ConvertError(
            f"{len(weights)} weights: the {part} of BlazePose has {len(wanted)}, the full one"
        )
    found = {}
    for key, (kind, path) in zip(weights, wanted, strict=True):
        found[f"{part}/{path}kernel"] = KERNELS[kind](tensors[f"{key}.weight"])
        found[f"{part}/{path}bias"] = tensors[f"{key}.bias"]
    return found


def _is_blazepose(keys: frozenset[str], told: Config) -> bool:
    del keys
    return bool(_part(told))


def _plan(tensors: Mapping[str, np.ndarray], told: Config) -> Plan:
    part = _part(told)
    if told is None or not part:
        raise ConvertError(
            f"outputs {shapes(told, 'outputs')} are neither those of MediaPipe's pose detector nor"
            " of its full landmarks"
        )
    other = "detector" if part == "landmarks" else "landmarks"
    rest, ends = read_tflite(_partner(Path(told["file"]), other))
    if _part(ends) != other:
        raise ConvertError(f"{ends['file']}: not BlazePose's {other}")

    def both(_: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return _named(tensors, part) | _named(rest, other)

    return Plan("blazepose-full", (Rule("(?P<all>.*)", "{all}"),), prepare=both, dtype="float16")


register_converter(
    Converter("blazepose-tflite", _is_blazepose, _plan, "MediaPipe's BlazePose, two TFLite files")
)
