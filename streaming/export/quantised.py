"""ONNX models whose matrix products have weights on 8 or 4 bits."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...layers.codec import integers
from ..precision import in_groups

SMALLEST = 4096  # elements of a weight that is worth it
OWN = "com.microsoft"  # ONNX Runtime's own operations


def quantised(model: Any, precision: str, runtime: str) -> Any:
    """The model with the weights of this precision, in the form that ``runtime`` runs; a precision
    of floats is the runtime's own business.

    Raises:
      ValueError: the model has no matrix product with a weight of its own.
    """
    if precision == "int8":
        return {"onnxruntime": for_onnxruntime, "openvino": for_openvino}[runtime](model)
    if (form := in_groups(precision)) is None:
        return model
    weights = _weights(model)
    if not weights:
        raise ValueError(
            f"precision {precision}: the model has no matrix products with weights; take fp32"
        )
    made = onnx.ModelProto()
    made.CopyFrom(model)
    write = {"onnxruntime": _packed_products, "openvino": _dequantised}[runtime]
    write(made, {name: codes_of(a, *form) for name, a in weights.items()}, form[0])
    return made


def codes_of(weight: np.ndarray, bits: int, group: int) -> integers.Codes | None:
    """A weight [K, N] as codes [N, K] in groups along K, of ``group`` or of the largest half of it
    that divides K; None where not even 16 do."""
    while group >= 16 and weight.shape[0] % group:
        group //= 2
    if group < 16:
        return None
    turned: Any = np.ascontiguousarray(weight.T)
    return integers.quantise(turned, bits, group=group)


def _replace(model: Any, names: Any, arrays: dict[str, np.ndarray]) -> None:
    """Takes constants away and puts others there."""
    kept = [t for t in model.graph.initializer if t.name not in names]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())


def _packed_products(model: Any, weights: dict[str, integers.Codes | None], bits: int) -> None:
    """ONNX Runtime's MatMulNBits: codes without a sign, two of 4 bits to a byte, the first low."""
    arrays, taken = {}, set()
    for node in model.graph.node:
        codes = weights.get(node.input[1]) if node.op_type == "MatMul" else None
        if codes is None:
            continue
        name = node.input[1]
        (rows, inner), blocks = codes.codes.shape, codes.scale.shape[-1]
        words = (codes.codes.astype(np.int16) + 2 ** (bits - 1)).astype(np.uint8)
        words = words.reshape(rows, blocks, -1)
        if bits == 4:
            words = words[..., ::2] | (words[..., 1::2] << 4)
        arrays[f"{name}_code"], arrays[f"{name}_scale"] = words, np.ravel(codes.scale)
        taken.add(name)
        product = helper.make_node(
            "MatMulNBits", [node.input[0], f"{name}_code", f"{name}_scale"], list(node.output),
            name=node.name, domain=OWN, K=inner, N=rows, bits=bits, block_size=inner // blocks,
        )  # fmt: skip
        node.CopyFrom(product)
    _replace(model, taken, arrays)
    model.opset_import.append(helper.make_opsetid(OWN, 1))


def _dequantised(model: Any, weights: dict[str, integers.Codes | None], bits: int) -> None:
    """Constants of 8 or 4 bits with a scale for every block of rows: OpenVINO keeps them so."""
    arrays, nodes, kind = {}, [], {8: np.int8, 4: ml_dtypes.int4}[bits]
    for name, codes in weights.items():
        if codes is None:
            continue
        size = codes.codes.shape[1] // codes.scale.shape[1]
        arrays[f"{name}_code"] = np.ascontiguousarray(codes.codes.T).astype(kind)
        arrays[f"{name}_scale"] = np.ascontiguousarray(codes.scale.T)
        given = [f"{name}_code", f"{name}_scale"]
        nodes.append(helper.make_node("DequantizeLinear", given, [name], axis=0, block_size=size))
    _replace(model, {n.output[0] for n in nodes}, arrays)
    nodes += model.graph.node
    del model.graph.node[:], model.opset_import[:]
    model.graph.node.extend(nodes)
    model.opset_import.append(helper.make_opsetid("", 21))  # the first with blocks


def _weights(model: Any) -> dict[str, np.ndarray]:
    """Matrices [K, N] that only matrix products read, each on the right."""
    read: dict[str, set[str]] = {}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            read.setdefault(name, set()).add(f"{node.op_type} {place}")
    arrays = {t.name: t for t in model.graph.initializer if read.get(t.name) == {"MatMul 1"}}
    arrays = {name: numpy_helper.to_array(t) for name, t in arrays.items()}
    fits = lambda a: a.ndim == 2 and a.size >= SMALLEST and a.dtype == np.float32
    return {name: a for name, a in arrays.items() if fits(a)}


def for_openvino(model: Any) -> Any:
    """Weights as int8 with a scale per output channel; products as the runtime likes them.

    Raises:
      ValueError: the model has no matrix product with a weight of its own.
    """
    weights = _weights(model)
    if not weights:
        raise ValueError("precision int8: the model has no matrix products with weights; take bf16")
    kept = [t for t in model.graph.initializer if t.name not in weights]
    nodes = []
    for name, array in weights.items():
        scale = np.abs(array).max(axis=0) / 127.0
        scale = np.where(scale == 0, 1.0, scale).astype(np.float32)
        code = np.clip(np.round(array / scale), -127, 127).astype(np.int8)
        kept += [numpy_helper.from_array(code, f"{name}_code")]
        kept += [numpy_helper.from_array(scale, f"{name}_scale")]
        given = [f"{name}_code", f"{name}_scale"]
        nodes.append(helper.make_node("DequantizeLinear", given, [name], axis=1))
    graph = helper.make_graph(
        [*nodes, *model.graph.node], model.graph.name, model.graph.input, model.graph.output, kept
    )
    return helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version,
        producer_name=model.producer_name,
    )  # fmt: skip


def for_onnxruntime(model: Any) -> Any:
    """Weights as int8 with a scale per output channel, activations as they come (MatMulInteger).

    Raises:
      ValueError: as :func:`for_openvino`.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    weights = _weights(model)
    if not weights:
        raise ValueError("precision int8: the model has no matrix products with weights; take fp32")
    named = [n.name for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in weights]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "int8.onnx")
        quantize_dynamic(
            model, path, per_channel=True, weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul"], nodes_to_quantize=named,
        )  # fmt: skip
        return onnx.load(path)
