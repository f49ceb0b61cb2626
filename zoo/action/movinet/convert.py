"""A streaming MoViNet as a TensorFlow Lite file -> our parameters.

8-bit weights become floats. The file has the sizes of one frame burnt in, and says how many classes
there are but not what they are called.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ....layers.streaming import Fields
from ...convert import Config, Converter, ConvertError, Plan, Rule, register_converter
from ...graphs import shapes
from ...rules import nearest_plan
from .model import MoViNetConfig, Stage

Tensors = Mapping[str, np.ndarray]

# A name may be several, joined: what the layer was made of, its own path last.
PATH = r"(?:.*;)?[^;]*/"
BLOCK = re.compile(PATH + r"block(\d+)_layer(\d+)/bneck/projection/[^;]*\.weight")
POINT = r"/conv2d/conv2d[^;/]*/Conv2D"
FILTER = r"/bn[^;/]*/batchnorm/mul"


def pointwise(x: np.ndarray) -> np.ndarray:
    """[O, h, w, I] -> [h, w, I, O]."""
    return x.transpose(1, 2, 3, 0)


def dense(x: np.ndarray) -> np.ndarray:
    """[O, 1, 1, I] -> [I, O]."""
    return pointwise(x)[0, 0]


def filters(x: np.ndarray) -> np.ndarray:
    """A filter per channel [1, k, k, C] -> [k, k, 1, C]."""
    return x.transpose(1, 2, 0, 3)


def over_time(x: np.ndarray) -> np.ndarray:
    """A filter per channel [1, k, 1, C] -> [k, C]."""
    return x[0, :, 0]


def less_three(x: np.ndarray) -> np.ndarray:
    """The converter adds the 3 of the hard sigmoid to the bias."""
    return x - 3


def one_number(x: np.ndarray) -> np.ndarray:
    """A number that the converter has spread over a map."""
    if np.ptp(x) != 0:
        raise ValueError("one number in every place, found several")
    return x.reshape(-1)[0]


def _rules(config: MoViNetConfig) -> list[Rule]:
    rules: list[Rule] = []

    def layer(source: str, target: str, kernel: Any, join: str = "_", bias: Any = None) -> None:
        rules.append(Rule(PATH + source + r"\.weight", f"{target}{join}kernel", kernel))
        plain = {} if bias is None else {"transform": bias}
        rules.append(Rule(PATH + source + r"\.bias", f"{target}{join}bias", **plain))

    layer("stem/stem" + POINT, "stem", pointwise)
    number = 0
    inside = config.stem
    for s, stage in enumerate(config.stages):
        for i, (frames, _) in enumerate(stage.kernels):
            theirs, ours = f"block{s}_layer{i}/bneck/", f"blocks_{number}/"
            layer(theirs + "expansion" + POINT, ours + "expand", pointwise)
            layer(theirs + "feature/conv2d" + FILTER, ours + "depth", filters)
            if frames > 1:
                layer(theirs + "feature/conv2d_temporal" + FILTER, ours + "time", over_time)
            layer(theirs + "se/se_reduce" + POINT, ours + "squeeze", dense)
            layer(theirs + "se/se_expand" + POINT, ours + "excite", dense, bias=less_three)
            layer(theirs + "projection" + POINT, ours + "project", pointwise)
            if inside != stage.width or (i == 0 and stage.stride != 1):
                layer(theirs + "skip/skip_project" + POINT, ours + "skip", pointwise)
            rules.append(Rule(PATH + theirs + r"rezero/mul\.constant", ours + "scale", one_number))
            inside, number = stage.width, number + 1
    layer("head/project" + POINT, "top", pointwise)
    layer("classifier_head/head" + POINT, "hidden", dense, "/")
    layer("classifier_head/classifier" + POINT, "classes", dense, "/")
    return rules


def _is_movinet(keys: frozenset[str], told: Config) -> bool:
    return (told or {}).get("graph") == "tflite" and any(BLOCK.fullmatch(key) for key in keys)


def _one(tensors: Tensors, source: str) -> np.ndarray:
    found = [v for k, v in tensors.items() if re.fullmatch(PATH + source + r"\.weight", k)]
    if len(found) != 1:
        raise ConvertError(f"a MoViNet with {len(found)} layers called {source}: a stream's has 1")
    return found[0]


def _plan(tensors: Tensors, told: Config) -> Plan:
    states = [name for name in (told or {}).get("inputs", {}) if "stream_buffer" in name]
    if not _is_movinet(frozenset(tensors), told) or not states:
        raise ConvertError(
            "not a streaming MoViNet as TensorFlow Lite, whose states are inputs and outputs"
        )
    found = sorted({(int(m[1]), int(m[2])) for m in map(BLOCK.fullmatch, tensors) if m})
    stages = []
    image = next(s for s in shapes(told, "inputs") if len(s) == 5 and s[-1] == 3)
    for s in sorted({stage for stage, _ in found}):
        expands, kernels = [], []
        layers = [i for stage, i in found if stage == s]
        for i in layers:
            theirs = f"block{s}_layer{i}/bneck/"
            side = _one(tensors, theirs + "feature/conv2d" + FILTER).shape
            time = [k for k in tensors if re.fullmatch(
                PATH + theirs + "feature/conv2d_temporal" + FILTER + r"\.weight", k)]  # fmt: skip
            expands.append(side[-1])
            kernels.append((tensors[time[0]].shape[1] if time else 1, side[1]))
        width = _one(tensors, f"block{s}_layer0/bneck/projection" + POINT).shape[0]
        skip = PATH + f"block{s}_layer0/bneck/skip/skip_project" + POINT + r"\.weight"
        # every published one halves the map in all stages but the fourth
        stride = 2 if any(re.fullmatch(skip, k) for k in tensors) else 1
        stages.append(Stage(width, tuple(expands), tuple(kernels), stride))
    fields: Fields = dict(
        image_size=tuple(image[2:4]),
        stem=_one(tensors, "stem/stem" + POINT).shape[0],
        stages=tuple(stages),
        top=_one(tensors, "head/project" + POINT).shape[0],
        hidden=_one(tensors, "classifier_head/head" + POINT).shape[0],
        num_classes=_one(tensors, "classifier_head/classifier" + POINT).shape[0],
    )
    # what is left are numbers of the arithmetic: sixths, and shares of a map's cells
    ignore = (r".*activation[^;/]*/mul/y\.constant", r".*global_average_pool3d.*\.constant")
    return nearest_plan(["movinet-*"], fields, _rules(MoViNetConfig(**fields)), ignore)


register_converter(
    Converter("movinet-tflite", _is_movinet, _plan, "streaming MoViNet as TensorFlow Lite")
)
