"""A published checkpoint of Robust Video Matting -> our parameters.

The authors' file (GPL-3.0) stays yours: nothing of it is shipped. The head that they train on
still pictures, ``project_seg``, is left out.
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
from ...encode.fold import EPS, norm_after, norm_prefixes
from .trunk import STAGES, STEM

TRUNK_EPS = 1e-3  # of the trunk's batch norms
MARKS = ("aspp.aspp2.1.weight", "decoder.decode4.gru.ih.0.weight", "project_mat.conv.weight")
LAST = "backbone.features.16.0.weight"


def _folded(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every batch norm stands right after its convolution: ``X.1`` after ``X.0``."""
    left = dict(tensors)
    for norm in norm_prefixes(tensors):
        stem, number = norm.rsplit(".", 1)
        layer = f"{stem}.{int(number) - 1}"
        norm_after(left, layer, norm, layer, TRUNK_EPS if norm.startswith("backbone.") else EPS)
    return left


def _dense(x: np.ndarray) -> np.ndarray:
    """1 x 1 convolution weight [O, I, 1, 1] -> dense kernel [I, O]."""
    return linear(x.reshape(x.shape[:2]))


def _depth(x: np.ndarray) -> np.ndarray:
    """Depthwise weight [C, 1, k, k] -> [k, k, 1, C]."""
    return x.transpose(2, 3, 1, 0)


def _rules() -> list[Rule]:
    rules: list[Rule] = []

    def add(theirs: str, ours: str, turn=conv2d) -> None:
        theirs = theirs.replace(".", r"\.")
        rules.append(Rule(rf"{theirs}\.weight", f"{ours}/kernel", turn))
        rules.append(Rule(rf"{theirs}\.bias", f"{ours}/bias"))

    add("backbone.features.0.0", "trunk/stem")
    inside = STEM
    for i, stage in enumerate(STAGES):
        block, ours, place = f"backbone.features.{i + 1}.block", f"trunk/stages_{i}", 0
        if stage.inside != inside:
            add(f"{block}.{place}.0", f"{ours}/expand")
            place += 1
        add(f"{block}.{place}.0", f"{ours}/depth", _depth)
        if stage.squeezed:
            place += 1
            add(f"{block}.{place}.fc1", f"{ours}/gate/down", _dense)
            add(f"{block}.{place}.fc2", f"{ours}/gate/up", _dense)
        add(f"{block}.{place + 1}.0", f"{ours}/project")
        inside = stage.width
    add("backbone.features.16.0", "trunk/last")
    add("aspp.aspp1.0", "narrow")
    rules.append(Rule(r"aspp\.aspp2\.1\.weight", "weigh/kernel", _dense))
    for i in range(4):
        gru = f"decoder.decode{4 - i}.gru"
        add(f"{gru}.ih.0", f"decoder/recurrent_{i}/gru/gates")
        add(f"{gru}.hh.0", f"decoder/recurrent_{i}/gru/candidate")
        add(f"decoder.decode{3 - i}.conv.0", f"decoder/merge_{i}")
    add("decoder.decode0.conv.3", "decoder/last")
    add("project_mat.conv", "out")
    rules.append(Rule(r"refiner\.box_filter\.weight", "sharpen/box", _depth))
    for i in range(3):
        add(f"refiner.conv.{3 * i}", f"sharpen/mix_{i}")
    return rules


def _is_rvm(keys: frozenset[str], told: Config) -> bool:
    del told
    return keys.issuperset(MARKS)


def _plan(tensors: Mapping[str, np.ndarray], told: Config) -> Plan:
    del told
    if LAST not in tensors or "refiner.box_filter.weight" not in tensors:
        raise ConvertError(
            "a checkpoint of Robust Video Matting, but not of the MobileNetV3 variant with the deep"
            " guided filter (rvm_mobilenetv3.pth), which is the one that is read"
        )
    return Plan("rvm-mobile", _rules(), ignore=(r"project_seg\..*",), prepare=_folded)


register_converter(Converter("rvm", _is_rvm, _plan, "Robust Video Matting, MobileNetV3"))
