"""DTLN as published -> our parameters: model_1.onnx, with model_2.onnx beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...convert import Config, Converter, ConvertError, Plan, Rule, register_converter
from ...graphs import read_onnx, shapes

HALF = r"lstm_\d+_[WRB]"


def gates(x: np.ndarray) -> np.ndarray:
    """ONNX's gates i, o, f, c on axis 0 -> ours, i, f, c, o."""
    i, o, f, c = np.split(x, 4)
    return np.concatenate([i, f, c, o])


def _is_dtln(keys: frozenset[str], told: Config) -> bool:
    del keys
    ends = [list(s) for kind in ("inputs", "outputs") for s in shapes(told, kind)]
    return ends == [[1, 1, 257], [1, 2, 128, 2]] * 2


def _lstms(stored: Mapping[str, np.ndarray]) -> list[str]:
    names = {name.rsplit("_", 1)[0] for name in stored if re.fullmatch(HALF, name)}
    return sorted(names, key=lambda name: int(name.split("_")[1]))


def _keras(stored: Mapping[str, np.ndarray], part: str) -> np.ndarray:
    """The one array whose name has ``part``."""
    (found,) = [a for name, a in stored.items() if part in name]
    return found


def _read(told: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Both halves, under our names."""
    path = Path(told["file"])
    second = path.with_name(re.sub(r"1(?=\.onnx$)", "2", path.name))
    if second == path or not second.is_file():
        raise ConvertError(
            f"{path}: the first half of DTLN; the second, {path.stem[:-1]}2.onnx, should lie beside"
        )
    one, two = told["stored"], read_onnx(second)[1]["stored"]
    out: dict[str, np.ndarray] = {}
    for ours, theirs in zip(("first", "second"), _lstms(one), strict=True):
        bias = one[f"{theirs}_B"][0].reshape(2, -1).sum(axis=0)
        at = f"net/net/spectral/{ours}"
        out[f"{at}/input/kernel"] = gates(one[f"{theirs}_W"][0]).T
        out[f"{at}/recurrent"] = gates(one[f"{theirs}_R"][0]).T
        out[f"{at}/input/bias"] = gates(bias)
    out["net/net/spectral/out/kernel"] = _keras(one, "dense_2/kernel")
    out["net/net/spectral/out/bias"] = _keras(one, "dense_2/bias")
    for ours, theirs in (("first", "lstm_6"), ("second", "lstm_7")):
        at = f"net/net/learned/{ours}"
        out[f"{at}/input/kernel"] = _keras(two, f"{theirs}/MatMul/")
        out[f"{at}/recurrent"] = _keras(two, f"{theirs}/MatMul_1/")
        out[f"{at}/input/bias"] = _keras(two, f"{theirs}/BiasAdd/")
    out["net/net/learned/out/kernel"] = _keras(two, "dense_3/Tensordot/Reshape_1")
    out["net/net/learned/out/bias"] = _keras(two, "dense_3/BiasAdd")
    norm = "instant_layer_normalization_1/"
    out["net/net/norm/scale"] = _keras(two, norm + "mul/")
    out["net/net/norm/bias"] = _keras(two, norm + "add_1/")
    out["net/net/encode/kernel"] = _keras(two, "conv1d_2/kernel")[..., 0].T
    out["net/net/decode/kernel"] = _keras(two, "conv1d_3/kernel")[..., 0].T
    return out


def _plan(tensors: Mapping[str, np.ndarray], told: Config) -> Plan:
    if told is None or not _is_dtln(frozenset(tensors), told):
        raise ConvertError("not the first half of DTLN, [1, 1, 257] in and out with its states")
    return Plan("dtln", (Rule("(?P<all>net/.*)", "{all}"),), prepare=lambda _: _read(told))


register_converter(Converter("dtln-onnx", _is_dtln, _plan, "DTLN as two ONNX graphs"))
