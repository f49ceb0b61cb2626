"""FastestDet, exported to ONNX -> our parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ...convert import Config, Converter, ConvertError, Plan, Rule, conv2d, register_converter
from ...graphs import shapes
from ...rules import nearest_plan
from .model import STRIDE, FastestDetConfig


def order(config: FastestDetConfig) -> Iterator[str]:
    """Paths of the convolutions as the network calls them, which is their order in the file."""
    yield "stem"
    number = 0
    for repeats in config.repeats:
        for i in range(repeats):
            if i == 0:
                yield from (f"blocks_{number}/around_{part}" for part in ("depth", "point"))
            yield from (f"blocks_{number}/{part}" for part in ("reduce", "depth", "point"))
            number += 1
    yield "pyramid/reduce"
    for name, count in (("near", 1), ("middle", 2), ("far", 3)):
        yield from (f"pyramid/{name}_{i}" for i in range(count))
    yield from ("pyramid/join", "shared")
    for name in ("obj", "box", "cls"):
        yield from (f"{name}_filter", f"{name}_out")


def _is_fastestdet(keys: frozenset[str], told: Config) -> bool:
    del keys
    inputs, outputs = shapes(told, "inputs"), shapes(told, "outputs")
    if [len(s) for s in inputs] != [4] or [len(s) for s in outputs] != [4]:
        return False
    _, colours, rows, cols = inputs[0]
    _, values, *cells = outputs[0]
    return colours == 3 and cells == [rows // STRIDE, cols // STRIDE] and values > 5


def _plan(tensors: Mapping[str, np.ndarray], told: Config) -> Plan:
    wanted = [*order(FastestDetConfig())]
    count = sum(key.endswith(".conv.weight") for key in tensors)
    if not _is_fastestdet(frozenset(), told) or count != len(wanted):
        raise ConvertError(
            f"inputs {shapes(told, 'inputs')}, outputs {shapes(told, 'outputs')} and {count} "
            "convolutions are not those of FastestDet: an ONNX file with [1, 3, H, W], "
            f"[1, 5 + classes, H / 16, W / 16] and {len(wanted)} convolutions"
        )
    wide = [tensors[f"{wanted.index(path)}.conv.weight"].shape[0] for path in ("stem", "shared")]
    fields = dict(
        classes=shapes(told, "outputs")[0][1] - 5,
        image_size=tuple(shapes(told, "inputs")[0][2:]),
        stem=wide[0],
        widths=(wide[1] // 2, wide[1], 2 * wide[1]),
    )
    rules = []
    for i, path in enumerate(wanted):
        rules.append(Rule(rf"{i}\.conv\.weight", f"{path}/kernel", conv2d))
        rules.append(Rule(rf"{i}\.conv\.bias", f"{path}/bias"))
    return nearest_plan(["fastestdet-*"], fields, rules)


register_converter(
    Converter("fastestdet-onnx", _is_fastestdet, _plan, "FastestDet, exported to ONNX")
)
