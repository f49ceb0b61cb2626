"""GTCRN as published, an ONNX graph of one step -> our parameters, batch norms folded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np

from ...convert import Config, Converter, ConvertError, Plan, Rule, register_converter
from ...graphs import shapes

STATES = [[1, 257, 1, 2], [2, 1, 16, 16, 33], [2, 3, 1, 1, 16], [2, 1, 33, 16]]


def _is_gtcrn(keys: frozenset[str], told: Config) -> bool:
    del keys
    return [list(s) for kind in ("inputs", "outputs") for s in shapes(told, kind)] == STATES * 2


def gates(x: np.ndarray) -> np.ndarray:
    """ONNX's gates z, r, n on axis 0 -> torch's r, z, n."""
    z, r, n = np.split(x, 3)
    return np.concatenate([r, z, n])


class _Graph:
    """The graph's arrays. The exporter named what it did not touch; the rest is numbered, kind by
    kind in the order of the network's own calls."""

    def __init__(self, stored: Mapping[str, np.ndarray]):
        self.stored = stored
        self.lines: dict[str, Iterator[np.ndarray]] = {}
        numbered: dict[str, list[tuple[int, str]]] = {}
        for name in stored:
            if found := re.fullmatch(r"onnx::(Conv|PRelu|GRU|MatMul)_(\d+)", name):
                numbered.setdefault(found[1], []).append((int(found[2]), name))
        for kind, names in numbered.items():
            arrays = [stored[name] for _, name in sorted(names)]
            if kind == "GRU":  # a first state of zeros is no weight: it has no three gates
                arrays = [a for a in arrays if a.shape[1] % 3 == 0]
            self.lines[kind] = iter(arrays)

    def next(self, kind: str) -> np.ndarray:
        return next(self.lines[kind])

    def gru(self, at: str | tuple[str, str]) -> dict[str, np.ndarray]:
        """The next GRU, one way or two: {"at0/input/kernel": ...}."""
        arrays = [self.next("GRU") for _ in range(3)]
        bias = next(a for a in arrays if a.ndim == 2)
        weight, recurrent = (a for a in arrays if a.ndim == 3)
        ways = at if isinstance(at, tuple) else (at,)
        out = {}
        for way, name in enumerate(ways):
            ours, theirs = np.split(bias[way], 2)
            out[f"{name}/input/kernel"] = gates(weight[way]).T
            out[f"{name}/input/bias"] = gates(ours)
            out[f"{name}/recurrent"] = gates(recurrent[way]).T
            out[f"{name}/recurrent_bias"] = gates(theirs)
        return out

    def dense(self, at: str, theirs: str) -> dict[str, np.ndarray]:
        return {
            f"{at}/kernel": self.next("MatMul"),
            f"{at}/bias": self.stored[f"{theirs}.bias"],
        }

    def transposed(self, conv: str, norm: str) -> tuple[np.ndarray, np.ndarray]:
        """A transposed convolution's weight [I, O / groups, h, w] and bias, its norm folded in."""
        get = lambda part: self.stored[f"{norm}.{part}"]
        gain = get("weight") / np.sqrt(get("running_var") + 1e-5)
        weight, bias = self.stored[f"{conv}.weight"], self.stored[f"{conv}.bias"]
        groups = len(gain) // weight.shape[1]
        each = gain.reshape(groups, 1, -1).repeat(len(weight) // groups, axis=1)
        weight = weight * each.reshape(len(weight), -1, 1, 1)
        return weight, (bias - get("running_mean")) * gain + get("bias")


def across(weight: np.ndarray, groups: int) -> np.ndarray:
    """Transposed [I, O / groups, 1, 5] -> a kernel [5, I / groups, O] for spread inputs."""
    split = weight[:, :, 0, ::-1].reshape(groups, -1, *weight[0, :, 0].shape)  # [g, i, o, 5]
    return split.transpose(3, 1, 0, 2).reshape(5, split.shape[1], -1)


def _grouped(graph: _Graph, at: str, theirs: str, up: bool) -> dict[str, np.ndarray]:
    out = {}
    if up:
        weight, bias = graph.transposed(f"{theirs}.point_conv1", f"{theirs}.point_bn1")
        out |= {f"{at}/point1/kernel": weight[:, :, 0, 0], f"{at}/point1/bias": bias}
        depth = f"{theirs}.depth_conv.ConvTranspose2d"
        weight, bias = graph.transposed(depth, f"{theirs}.depth_bn")
        depth = weight[:, 0, ::-1, ::-1]
        out |= {f"{at}/depth_kernel": depth.transpose(1, 2, 0), f"{at}/depth_bias": bias}
        weight, bias = graph.transposed(f"{theirs}.point_conv2", f"{theirs}.point_bn2")
        out |= {f"{at}/point2/kernel": weight[:, :, 0, 0], f"{at}/point2/bias": bias}
    else:
        out[f"{at}/point1/kernel"] = graph.next("Conv")[:, :, 0, 0].T
        out[f"{at}/point1/bias"] = graph.next("Conv")
        out[f"{at}/depth_kernel"] = graph.next("Conv")[:, 0].transpose(1, 2, 0)
        out[f"{at}/depth_bias"] = graph.next("Conv")
        out[f"{at}/point2/kernel"] = graph.next("Conv")[:, :, 0, 0].T
        out[f"{at}/point2/bias"] = graph.next("Conv")
    for part in ("slope1", "slope2"):
        out[f"{at}/{part}"] = graph.next("PRelu").reshape(())
    return out | graph.gru(f"{at}/power") | graph.dense(f"{at}/weigh", f"{theirs}.tra.att_fc")


def read(stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The whole network under our names, in the order of its calls."""
    graph = _Graph(stored)
    out = {"to_bands": graph.next("MatMul")}
    for i in range(2):
        out[f"shrink_{i}/kernel"] = graph.next("Conv")[:, :, 0].transpose(2, 1, 0)
        out[f"shrink_{i}/bias"] = graph.next("Conv")
        out[f"shrink_{i}/slope"] = graph.next("PRelu").reshape(())
    for i in range(3):
        out |= _grouped(graph, f"encode_{i}", f"encoder.en_convs.{i + 2}", up=False)
    for i in range(2):
        at, theirs = f"middle_{i}", f"dpgrnn{i + 1}"
        for half in range(2):
            out |= graph.gru((f"{at}/up_{half}", f"{at}/down_{half}"))
        out |= graph.dense(f"{at}/intra", f"{theirs}.intra_fc")
        for half in range(2):
            out |= graph.gru(f"{at}/time_{half}")
        out |= graph.dense(f"{at}/inter", f"{theirs}.inter_fc")
        for part in ("intra", "inter"):
            out[f"{at}/{part}_scale"] = stored[f"{theirs}.{part}_ln.weight"]
            out[f"{at}/{part}_shift"] = stored[f"{theirs}.{part}_ln.bias"]
    for i in range(3):
        out |= _grouped(graph, f"decode_{i}", f"decoder.de_convs.{i}", up=True)
    for i, groups in enumerate((2, 1)):
        theirs = f"decoder.de_convs.{i + 3}"
        weight, bias = graph.transposed(f"{theirs}.conv", f"{theirs}.bn")
        out |= {f"grow_{i}/kernel": across(weight, groups), f"grow_{i}/bias": bias}
    out["grow_0/slope"] = graph.next("PRelu").reshape(())
    out["to_bins"] = graph.next("MatMul")
    return {f"mask/{name}": array for name, array in out.items()}


def _plan(tensors: Mapping[str, np.ndarray], told: Config) -> Plan:
    if told is None or not _is_gtcrn(frozenset(tensors), told):
        raise ConvertError("not GTCRN's graph of one step: [1, 257, 1, 2] and three states")
    return Plan(
        "gtcrn", (Rule("(?P<all>mask/.*)", "{all}"),), prepare=lambda _: read(told["stored"])
    )


register_converter(Converter("gtcrn-onnx", _is_gtcrn, _plan, "GTCRN as an ONNX graph of one step"))
