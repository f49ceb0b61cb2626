"""YOLOX, exported to ONNX without decoding -> our parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ...convert import Config, Converter, ConvertError, Plan, Rule, conv2d, register_converter
from ...graphs import shapes
from ...rules import nearest_plan
from .model import STRIDES, YOLOXConfig


def order(config: YOLOXConfig) -> Iterator[str]:
    """Paths of the convolutions as the network calls them, which is their order in the file."""

    parts = ("depth", "point/conv") if config.depthwise else ("conv",)

    def conv(path: str) -> Iterator[str]:
        yield from (f"{path}/{part}" for part in parts)

    def csp(path: str, depth: int) -> Iterator[str]:
        yield from (f"{path}/main/conv", f"{path}/around/conv")
        for i in range(depth):
            yield f"{path}/blocks_{i}/reduce/conv"
            yield from conv(f"{path}/blocks_{i}/filter")
        yield f"{path}/join/conv"

    n = config.depth
    yield "stem/conv"
    for i, depth in enumerate((n, 3 * n, 3 * n, n)):
        yield from conv(f"down_{i}")
        if i == 3:
            yield from ("spp/reduce/conv", "spp/join/conv")
        yield from csp(f"stages_{i}", depth)
    yield "lateral5/conv"
    yield from csp("top4", n)
    yield "lateral4/conv"
    yield from csp("top3", n)
    yield from conv("down3")
    yield from csp("bottom4", n)
    yield from conv("down4")
    yield from csp("bottom5", n)
    for i in range(len(STRIDES)):
        yield f"heads_{i}/stem/conv"
        for branch, outs in (("cls", ("cls_out",)), ("reg", ("box_out", "obj_out"))):
            yield from conv(f"heads_{i}/{branch}_0")
            yield from conv(f"heads_{i}/{branch}_1")
            yield from (f"heads_{i}/{out}" for out in outs)


def _is_yolox(keys: frozenset[str], told: Config) -> bool:
    del keys
    inputs, outputs = shapes(told, "inputs"), shapes(told, "outputs")
    if [len(s) for s in inputs] != [4] or [len(s) for s in outputs] != [3]:
        return False
    _, colours, rows, cols = inputs[0]
    cells = sum((rows // s) * (cols // s) for s in STRIDES)
    return colours == 3 and outputs[0][1] == cells and outputs[0][2] > 5


def _plan(tensors: Mapping[str, np.ndarray], told: Config) -> Plan:
    if not _is_yolox(frozenset(), told):
        raise ConvertError(
            f"inputs {shapes(told, 'inputs')} and outputs {shapes(told, 'outputs')} are not those"
            " of YOLOX: an ONNX file with [1, 3, H, W] and [1, cells, 5 + classes], not decoded"
        )
    first, second = (tensors[f"{i}.conv.weight"].shape for i in (0, 1))
    depthwise, depth = second[1] == 1, 0
    wanted: list[str] = []
    while len(wanted) < _count(tensors):  # the depth that has as many convolutions
        depth += 1
        wanted = [*order(YOLOXConfig(depth=depth, depthwise=depthwise))]
    fields = dict(
        width=first[0],
        depth=depth,
        depthwise=depthwise,
        classes=shapes(told, "outputs")[0][2] - 5,
        image_size=tuple(shapes(told, "inputs")[0][2:]),
    )
    rules = []
    for i, path in enumerate(wanted):
        rules.append(Rule(rf"{i}\.conv\.weight", f"{path}/kernel", conv2d))
        rules.append(Rule(rf"{i}\.conv\.bias", f"{path}/bias"))
    return nearest_plan(["yolox-*"], fields, rules)


def _count(tensors: Mapping[str, np.ndarray]) -> int:
    return sum(key.endswith(".conv.weight") for key in tensors)


register_converter(
    Converter("yolox-onnx", _is_yolox, _plan, "YOLOX of Megvii-BaseDetection, exported to ONNX")
)
