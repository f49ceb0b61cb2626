"""MoveNet as a TensorFlow.js graph -> our parameters."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...convert import Config, Converter, ConvertError, Plan, Rule, register_converter
from ...graphs import shapes
from ...rules import nearest_plan
from .model import MoveNetConfig, branches

ROOT = "StatefulPartitionedCall/"
BODY = ROOT + "center_net_mobile_net_v2fpn_feature_extractor/model_1/"
KERNEL, BIAS = r"/Conv2D(_weights|/ReadVariableOp)", r"/(Conv2D_bn_offset|BiasAdd/ReadVariableOp)"


def filters(x: np.ndarray) -> np.ndarray:
    """TensorFlow's depthwise kernel [k, k, C, 1] -> [k, k, 1, C]."""
    return x.transpose(0, 1, 3, 2)


def _rules(config: MoveNetConfig) -> list[Rule]:
    rules = []

    def conv(source: str, target: str) -> None:
        rules.append(Rule(source + KERNEL, f"{target}_kernel"))
        rules.append(Rule(source + BIAS, f"{target}_bias"))

    conv(BODY + "model/Conv1", "stem")
    conv(BODY + "model/Conv_1", "top")
    for i in range(17):
        theirs = f"{BODY}model/" + (f"block_{i}" if i else "expanded_conv")
        if i:
            conv(f"{theirs}_expand", f"blocks_{i}/expand")
        depth = f"{theirs}_depthwise/depthwise"
        rules.append(Rule(f"{depth}_weights", f"blocks_{i}/depth_kernel", filters))
        rules.append(Rule(f"{depth}_bn_offset", f"blocks_{i}/depth_bias"))
        conv(f"{theirs}_project", f"blocks_{i}/project")
    for i in range(4):
        conv(f"{BODY}conv2d" + f"_{i}" * (i > 0), f"lateral{i}")
    for i in range(3):
        theirs, ours = f"{BODY}separable_conv2d" + f"_{i}" * (i > 0), f"merge_{i}"
        part = f"{theirs}/separable_conv2d"
        rules.append(Rule(f"{part}/ReadVariableOp", f"{ours}/depth_kernel", filters))
        rules.append(Rule(f"{part}_weights", f"{ours}/point_kernel"))
        rules.append(Rule(f"{part}_bn_offset", f"{ours}/point_bias"))
    for name in branches(config):
        theirs, ours = rf"{ROOT}{name}_0/separable_conv2d_\d+", f"heads_{name}/hidden"
        part = f"{theirs}/separable_conv2d/ReadVariableOp"
        rules.append(Rule(part, f"{ours}/depth_kernel", filters))
        rules.append(Rule(f"{part}_1", f"{ours}/point_kernel"))
        rules.append(Rule(f"{theirs}/BiasAdd/ReadVariableOp", f"{ours}/point_bias"))
        last = rf"{ROOT}{name}_0/conv2d_\d+"
        rules.append(Rule(f"{last}/Conv2D/ReadVariableOp", f"heads_{name}/kernel"))
        rules.append(Rule(f"{last}/BiasAdd/ReadVariableOp", f"heads_{name}/bias"))
    return rules


def _is_movenet(keys: frozenset[str], told: Config) -> bool:
    outputs = [list(s) for s in shapes(told, "outputs")]
    first = BODY + "model/Conv1/Conv2D_weights"
    return outputs in ([[1, 6, 56]], [[1, 1, 17, 3]]) and first in keys


def _plan(tensors: Mapping[str, np.ndarray], told: Config) -> Plan:
    if not _is_movenet(frozenset(tensors), told):
        raise ConvertError(
            "not a MoveNet graph of TensorFlow.js (with the output [1, 6, 56] or [1, 1, 17, 3])"
        )
    width = lambda layer: tensors[BODY + f"model/{layer}/Conv2D_weights"].shape[-1]
    stages = ["expanded_conv_project", *(f"block_{i}_project" for i in (1, 3, 6, 10, 13, 16))]
    slots = 6 if len(shapes(told, "outputs")[0]) == 3 else 1
    fields = dict(
        widths=tuple(width(layer) for layer in ("Conv1", *stages, "Conv_1")),
        slots=slots,
        image_size=tuple(shapes(told, "inputs")[0][1:3]),
    )
    # The rest of the graph's constants are those of the arithmetic on the maps.
    ignore = [rf"{ROOT}(?!{'|'.join(f'{n}_0' for n in branches(MoveNetConfig()))}|center_net_).*",
              rf"{BODY}up_sampling2d.*", "ConstantFolding/.*"]  # fmt: skip
    rules = _rules(MoveNetConfig(slots=slots))
    kinds = {a.dtype for a in tensors.values() if a.dtype.kind == "f"}
    dtype = "float16" if kinds == {np.dtype("float16")} else None
    return nearest_plan(["movenet-*"], fields, rules, ignore, dtype=dtype)


register_converter(
    Converter("movenet-tfjs", _is_movenet, _plan, "MoveNet as a TensorFlow.js graph")
)
