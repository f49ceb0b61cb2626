"""MediaPipe's selfie segmentation as a TensorFlow.js graph -> our parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ...convert import Config, Converter, ConvertError, Plan, Rule, register_converter
from ...graphs import shapes
from ...rules import nearest_plan
from .model import SKIPS, STAGES


def order() -> Iterator[tuple[str, bool]]:
    """(our path, whether it is a filter per channel), in the order of the network's calls, which
    number the graph's layers."""
    yield "stem", False
    for i, stage in enumerate(STAGES):
        at = f"stages_{i}"
        yield from ((f"{at}/expand", False), (f"{at}/depth", True))
        if stage.squeezed:
            yield from ((f"{at}/gate/down", False), (f"{at}/gate/up", False))
        yield f"{at}/project", False
    yield from (("top", False), ("weigh", False))
    for i in range(len(SKIPS) + 1):
        at = f"merge_{i}"
        yield from ((f"{at}/narrow", False), (f"{at}/gate/down", False), (f"{at}/gate/up", False))
        yield from ((f"{at}/point", False), (f"{at}/depth", True))


def filters(x: np.ndarray) -> np.ndarray:
    """TensorFlow's depthwise kernel [k, k, C, 1] -> [k, k, 1, C]."""
    return x.transpose(0, 1, 3, 2)


def _rules() -> list[Rule]:
    """The graph numbers its convolutions as they are called: Conv2D, Conv2D_2, Conv2D_3, and their
    biases conv2d_1, conv2d_1_1, conv2d_2_1; those of single channels depthwise, depthwise_1."""
    rules, counts = [], [0, 0]
    for path, each in order():
        n = counts[each]
        counts[each] += 1
        if each:
            kernel, bias = "depthwise" + f"_{n}" * (n > 0), "depthwise_conv2d" + f"_{n}" * (n > 0)
            rules.append(Rule(f"{kernel}/filter_in", f"{path}/kernel", filters))
        else:
            kernel, bias = (f"Conv2D_{n + 1}", f"conv2d_{n}_1") if n else ("Conv2D", "conv2d_1")
            rules.append(Rule(f"{kernel}/filter", f"{path}/kernel"))
        rules.append(Rule(f"{bias}/y", f"{path}/bias"))
    # a transposed convolution's kernel [2, 2, O, I]
    turned = lambda x: x.transpose(0, 1, 3, 2)
    rules.append(Rule("segment/filter", "mask_kernel", turned))
    return [*rules, Rule("segment_add/y", "mask_bias")]


def _is_selfie(keys: frozenset[str], told: Config) -> bool:
    del keys
    ends = [list(s) for kind in ("inputs", "outputs") for s in shapes(told, kind)]
    return (told or {}).get("graph") == "tfjs" and ends == [[1, 256, 256, 3], [1, 256, 256, 1]]


def _plan(tensors: Mapping[str, np.ndarray], told: Config) -> Plan:
    if not _is_selfie(frozenset(), told):
        raise ConvertError(
            f"inputs {shapes(told, 'inputs')} and outputs {shapes(told, 'outputs')} are not those"
            " of MediaPipe's selfie segmentation: a TensorFlow.js graph with [1, 256, 256, 3] and"
            " [1, 256, 256, 1]"
        )
    last = tensors["Conv2D_30/filter"].shape[-1]
    constants = (r"(add|mul)(_\d+)?/y", "segment/input_sizes", r"up_sampling2d(_\d)?_lambda/.*")
    return nearest_plan(["selfie-*"], {"last": last}, _rules(), constants, dtype="float16")


register_converter(
    Converter("selfie-tfjs", _is_selfie, _plan, "MediaPipe's selfie mask, TensorFlow.js")
)
