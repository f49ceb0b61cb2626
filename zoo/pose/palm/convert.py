"""MediaPipe's palm detector as a TensorFlow Lite file -> our parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np

from ...convert import Config, Converter, ConvertError, Plan, Rule, register_converter
from ...graphs import shapes
from ...rules import nearest_plan
from .model import AGAIN


def full(x: np.ndarray) -> np.ndarray:
    """TensorFlow Lite's kernel [O, k, k, I] -> [k, k, I, O]."""
    return x.transpose(1, 2, 3, 0)


def each(x: np.ndarray) -> np.ndarray:
    """TensorFlow Lite's depthwise kernel [1, k, k, C] -> [k, k, 1, C]."""
    return x.transpose(1, 2, 0, 3)


KERNELS = {"conv": full, "depthwise": each}
# the last convolution of each size says how wide it is
LAST = [f"blocks_{AGAIN - 1 + level * (AGAIN + 1)}/point" for level in range(5)]


def order(levels: int = 5) -> Iterator[tuple[str, str]]:
    """(operation, path of ours) as the network calls them, which is their order in the file."""

    def block(path: str) -> Iterator[tuple[str, str]]:
        yield from (("depthwise", f"{path}/depth"), ("conv", f"{path}/point"))
        yield "prelu", f"{path}/out"

    def up(path: str) -> Iterator[tuple[str, str]]:
        yield from (("conv", f"{path}/"), ("prelu", f"{path}/out"))

    yield from (("conv", "stem"), ("prelu", "stem_out"))
    for i in range(levels * (AGAIN + 1) - 1):
        yield from block(f"blocks_{i}")
    yield from up("up_0")
    yield from (*block("merge_0"), *block("merge_1"))
    yield from (("conv", "score16"), ("conv", "box16"))
    yield from up("up_1")
    yield from (*block("merge_2"), *block("merge_3"))
    yield from (("conv", "score8"), ("conv", "box8"))


def _is_palm(keys: frozenset[str], told: Config) -> bool:
    del keys
    outputs = sorted(list(s) for s in shapes(told, "outputs"))
    return (told or {}).get("graph") == "tflite" and outputs == [[1, 2016, 1], [1, 2016, 18]]


def _plan(tensors: Mapping[str, np.ndarray], told: Config) -> Plan:
    if not _is_palm(frozenset(), told):
        raise ConvertError(
            f"outputs {shapes(told, 'outputs')} are not those of MediaPipe's palm detector: a "
            "TensorFlow Lite file with [1, 2016, 18] and [1, 2016, 1]"
        )
    # the file's names tell what was merged into what: the order is what can be relied on
    weights = [key.removesuffix(".weight") for key in tensors if key.endswith(".weight")]
    slopes = [key for key in tensors if key.endswith(".constant")]
    wanted = [*order()]
    paths = [path for kind, path in wanted if kind != "prelu"]
    if len(weights) != len(paths) or len(slopes) != len(wanted) - len(paths):
        raise ConvertError(
            f"{len(weights)} weights and {len(slopes)} slopes: MediaPipe's palm detector has "
            f"{len(paths)} and {len(wanted) - len(paths)}; this one has {AGAIN + 1} blocks per size"
        )
    rules, widths, kinds = [], [], [kind for kind, _ in wanted if kind != "prelu"]
    for kind, path, key in zip(kinds, paths, weights, strict=True):
        start = path if path.endswith("/") else f"{path}_"
        rules.append(Rule(re.escape(f"{key}.weight"), f"{start}kernel", KERNELS[kind]))
        rules.append(Rule(re.escape(f"{key}.bias"), f"{start}bias"))
        if path in LAST:
            widths.append(tensors[f"{key}.weight"].shape[0])
    for path, key in zip((p for kind, p in wanted if kind == "prelu"), slopes, strict=True):
        rules.append(Rule(re.escape(key), f"{path}/slope", np.ravel))
    fields = dict(widths=tuple(widths), image_size=tuple(shapes(told, "inputs")[0][1:3]))
    return nearest_plan(["palm-*"], fields, rules, dtype="float16")


register_converter(
    Converter("palm-tflite", _is_palm, _plan, "MediaPipe's palm detector, TensorFlow Lite")
)
