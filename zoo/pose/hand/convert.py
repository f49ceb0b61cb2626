"""MediaPipe's hand landmarks as a TensorFlow Lite file -> our parameters, the bundled palm
detector's with them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ...convert import Config, Converter, ConvertError, Plan, Rule, linear, register_converter
from ...graphs import shapes
from ...resolve import load_weights
from ...rules import nearest_plan
from ...trees import flatten
from ...weights import shapes_of
from ..palm.convert import each, full
from .model import BLOCKS

PALM = "palm-lite/mediapipe"


def order() -> Iterator[tuple[str, Any]]:
    """(path of ours, how its weight is turned) as the network calls them."""
    yield "stem", full
    for i, expand in enumerate((1, *(block[-1] for block in BLOCKS))):
        if expand != 1:
            yield f"blocks_{i}/expand", full
        yield from ((f"blocks_{i}/depth", each), (f"blocks_{i}/project", full))
    yield from (("last", full), ("depth", each))
    yield from ((f"{name}/", linear) for name in ("right", "present", "points", "world"))


def _is_hand(keys: frozenset[str], told: Config) -> bool:
    del keys
    outputs = sorted(list(s) for s in shapes(told, "outputs"))
    wanted = [[1, 1], [1, 1], [1, 63], [1, 63]]
    return (told or {}).get("graph") == "tflite" and outputs == wanted


def _plan(tensors: Mapping[str, np.ndarray], told: Config) -> Plan:
    if not _is_hand(frozenset(), told):
        raise ConvertError(
            f"outputs {shapes(told, 'outputs')} are not those of MediaPipe's hand landmarks: a "
            "TensorFlow Lite file with two of [1, 63] and two of [1, 1]"
        )
    weights = [key.removesuffix(".weight") for key in tensors if key.endswith(".weight")]
    wanted = [*order()]
    if len(weights) != len(wanted):
        raise ConvertError(
            f"{len(weights)} weights: the lite network of MediaPipe's hand landmarks has "
            f"{len(wanted)}"
        )
    rules = []
    for key, (path, turn) in zip(weights, wanted, strict=True):
        start = path if path.endswith("/") else f"{path}_"
        rules.append(Rule(re.escape(f"{key}.weight"), f"hand/{start}kernel", turn))
        rules.append(Rule(re.escape(f"{key}.bias"), f"hand/{start}bias"))
    palm = [name.removeprefix("params/") for name in flatten(shapes_of("palm-lite"))]
    rules += [Rule(re.escape(f"{PALM}:{name}"), f"palm/{name}") for name in palm]
    fields = dict(side=shapes(told, "inputs")[0][1])
    return nearest_plan(["hand-*"], fields, rules, dtype="float16", prepare=_with_palm)


def _with_palm(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    found = flatten(load_weights(PALM))
    return {**tensors, **{f"{PALM}:{k.removeprefix('params/')}": v for k, v in found.items()}}


register_converter(
    Converter("hand-tflite", _is_hand, _plan, "MediaPipe's hand landmarks, TensorFlow Lite")
)
