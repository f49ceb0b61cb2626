"""Weights of networks that are published as graphs, under names that can be relied on.

An ONNX graph has no names of layers worth the word: a tensor is called by the place of its
operation among those that have weights, ``12.conv.weight``. An exporter writes operations in the
order in which the network calls them, so a converter's table is that order. TensorFlow.js and
TensorFlow Lite keep the names.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..layers.install import how_to_install
from ..layers.streaming import Json
from .ctranslate2 import is_ctranslate2, read_ctranslate2
from .errors import WeightsError
from .files import Config
from .gguf import read_gguf
from .ort import read_ort
from .tflite_sparse import dense

PARTS = ("weight", "bias")


def read_onnx(path: Path) -> tuple[dict[str, np.ndarray], Json]:
    """An ONNX file -> ({"0.conv.weight": array, "0.conv.bias": ...}, what its graph tells).

    The second is what a converter recognises it by: ``graph`` "onnx", ``inputs`` and ``outputs``
    {name: shape}, 0 where a length is free, ``operations``, how many there are of each kind, and
    for graphs whose exporter kept names or which have recurrent layers ``stored``, all arrays of
    floats by the file's names, and the ``file``.

    Raises:
      WeightsError: not an ONNX file. ImportError: the package ``onnx`` is not installed.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise ImportError(f"ONNX files are read by: {how_to_install('convert')}") from None
    try:
        graph = onnx.load(str(path)).graph
    except Exception as error:  # protobuf's DecodeError, of whichever implementation is there
        raise WeightsError(f"{path}: not a complete ONNX file ({error})") from None
    stored = {tensor.name: tensor for tensor in graph.initializer}
    tensors: dict[str, np.ndarray] = {}
    operations: dict[str, int] = {}
    number = 0
    for node in graph.node:
        kind = node.op_type.lower()
        operations[kind] = operations.get(kind, 0) + 1
        if kind not in ("conv", "convtranspose", "gemm"):
            continue  # constants of slices, shapes and scales belong to the network, not to us
        for part, name in zip(PARTS, node.input[1:], strict=False):
            if name in stored:
                tensors[f"{number}.{kind}.{part}"] = numpy_helper.to_array(stored[name])
        number += 1
    arrays = [numpy_helper.to_array(tensor) for tensor in stored.values()]
    told = {
        "graph": "onnx",
        "inputs": {v.name: _shape(v) for v in graph.input if v.name not in stored},
        "outputs": {v.name: _shape(v) for v in graph.output},
        "operations": operations,
        "stored": {k: a for k, a in zip(stored, arrays, strict=True) if a.dtype.kind == "f"},
        "file": str(path),
    }
    return tensors, told


def read_tfjs(path: Path) -> tuple[dict[str, np.ndarray], Json] | None:
    """A TensorFlow.js graph model, ``model.json`` with its files of weights beside it, as
    :func:`read_onnx`, but under the graph's own names, which are kept there. None for JSON of
    another kind.

    Raises:
      WeightsError: a file of weights is missing or has another length, or weights are stored in a
        way we do not read (8 and 16 bit integers of its quantisation).
    """
    try:
        model = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    if not isinstance(model, dict) or not {"modelTopology", "weightsManifest"} <= model.keys():
        return None
    tensors: dict[str, np.ndarray] = {}
    for group in model["weightsManifest"]:
        files = [path.parent / name for name in group["paths"]]
        if len(files) == 1 and not files[0].is_file():
            files = [path.with_suffix(".bin")]  # both were given another name
        if not all(file.is_file() for file in files):
            lost = ", ".join(group["paths"])
            raise WeightsError(f"{path}: its weights, {lost}, are missing beside it")
        data, at = b"".join(file.read_bytes() for file in files), 0
        for entry in group["weights"]:
            kind = entry.get("quantization", {}).get("dtype", entry["dtype"])
            if kind not in ("float32", "float16", "int32", "bool"):
                raise WeightsError(f"{path}: {entry['name']} is stored as {kind}, which we lack")
            dtype = np.dtype(kind)
            count = int(np.prod(entry["shape"], dtype=np.int64))
            if at + count * dtype.itemsize > len(data):
                raise WeightsError(f"{path}: its weights end before {entry['name']}: cut off?")
            array = np.frombuffer(data, dtype, count, at).reshape(entry["shape"])
            tensors[entry["name"]] = array
            at += count * dtype.itemsize
        if at != len(data):
            raise WeightsError(f"{path}: {len(data) - at} bytes of weights too many")
    operations: dict[str, int] = {}
    for node in model["modelTopology"]["node"]:
        kind = node["op"].lower()
        operations[kind] = operations.get(kind, 0) + 1
    told: Json = {"graph": "tfjs", "operations": operations}
    for kind in ("inputs", "outputs"):
        told[kind] = {
            name: [int(d.get("size", 0)) for d in value.get("tensorShape", {}).get("dim", [])]
            for name, value in model.get("signature", {}).get(kind, {}).items()
        }
    return tensors, told


def read_tflite(path: Path) -> tuple[dict[str, np.ndarray], Json]:
    """A TensorFlow Lite file, as :func:`read_onnx`, with floats for what it stores in 8 bits
    and zeros for what it leaves out; also the ``file``.

    Tensors keep the file's names: of a convolution or a dense layer ``NAME.weight`` and
    ``NAME.bias``, both by the name of the weight (converters give the bias another layer's name at
    times), of all else ``NAME.constant``. Weights lie as they do there, [O, h, w, I].

    Raises:
      WeightsError: not a TensorFlow Lite file, or two tensors of one name.
      ImportError: the package ``tflite`` is not installed.
    """
    try:
        import tflite
    except ImportError:
        raise ImportError(f"TFLite files are read by: {how_to_install('convert')}") from None
    data = path.read_bytes()
    if data[4:8] != b"TFL3":
        raise WeightsError(f"{path}: not a TensorFlow Lite file")
    try:
        model = tflite.Model.GetRootAs(data, 0)
        graph: Any = model.Subgraphs(0)  # None in the library's types
        tensors, operations = _tflite_tensors(tflite, model, graph)
        told: Json = {"graph": "tflite", "operations": operations, "file": str(path)}
        for kind, places in (
            ("inputs", graph.InputsAsNumpy()),
            ("outputs", graph.OutputsAsNumpy()),
        ):
            ends = [graph.Tensors(int(i)) for i in places]
            told[kind] = {t.Name().decode(): _tflite_shape(t) for t in ends}
    except (struct.error, IndexError, ValueError, TypeError, AttributeError) as error:
        # how the library meets offsets that point outside of the file
        raise WeightsError(f"{path}: not a complete TensorFlow Lite file ({error})") from None
    return tensors, told


_WEIGHTED = ("conv_2d", "depthwise_conv_2d", "fully_connected", "transpose_conv")


def _tflite_tensors(tflite: Any, model: Any, graph: Any) -> tuple[dict, dict[str, int]]:
    kinds = {v: k.lower() for k, v in vars(tflite.BuiltinOperator).items() if k[0] != "_"}
    tensors: dict[str, np.ndarray] = {}
    operations: dict[str, int] = {}
    made: dict[int, int] = {}  # what was float16 or sparse -> the tensor that it is stored as
    for number in range(graph.OperatorsLength()):
        operation = graph.Operators(number)
        code = model.OperatorCodes(operation.OpcodeIndex())
        # files of before 2020 have the second field alone
        kind = kinds[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        operations[kind] = operations.get(kind, 0) + 1
        places = [made.get(int(i), int(i)) for i in operation.InputsAsNumpy()]
        if kind in ("dequantize", "densify"):
            made[int(operation.Outputs(0))] = places[0]
            continue
        name = ""
        for part, place in enumerate(places):
            array = _tflite_array(tflite, model, graph.Tensors(place)) if place >= 0 else None
            if array is None:
                continue
            if kind in _WEIGHTED and part in (1, 2):
                name = graph.Tensors(place).Name().decode() if part == 1 else name
                key = f"{name}.{PARTS[part - 1]}"
            else:
                key = f"{graph.Tensors(place).Name().decode()}.constant"
            if not np.array_equal(tensors.setdefault(key, array), array):
                raise WeightsError(f"two tensors are called {key}")
    return tensors, operations


def _tflite_array(tflite: Any, model: Any, tensor: Any) -> np.ndarray | None:
    """A constant as floats; None for what is computed or counted."""
    stored = model.Buffers(tensor.Buffer())
    floats = {tflite.TensorType.FLOAT32: np.float32, tflite.TensorType.FLOAT16: np.float16}
    bits = {tflite.TensorType.INT8: np.int8, tflite.TensorType.UINT8: np.uint8}
    dtype = (floats | bits).get(tensor.Type())
    if not stored.DataLength() or dtype is None:
        return None
    array, shape = np.frombuffer(stored.DataAsNumpy().tobytes(), dtype), _tflite_shape(tensor)
    sparsity = tensor.Sparsity()
    array = dense(tflite, sparsity, array, shape) if sparsity else array.reshape(shape)
    if tensor.Type() in floats:
        return array
    told = tensor.Quantization()
    if not told or not told.ScaleLength():
        raise ValueError(f"{tensor.Name().decode()} has 8 bits and no scale")
    scale = told.ScaleAsNumpy().astype(np.float32)
    zero = np.broadcast_to(told.ZeroPointAsNumpy() if told.ZeroPointLength() else 0, scale.shape)
    axes = [1] * array.ndim
    if len(scale) > 1:
        axes[told.QuantizedDimension()] = len(scale)
    centred = array.astype(np.float32) - zero.astype(np.float32).reshape(axes)
    return centred * scale.reshape(axes)


def _tflite_shape(tensor: Any) -> list[int]:
    return tensor.ShapeAsNumpy().tolist() if tensor.ShapeLength() else []


def read_graph(path: Path) -> tuple[Mapping[str, np.ndarray], Json] | None:
    """The weights of a published graph and what it tells of itself; None for another file."""
    if path.suffix.lower() == ".onnx":
        return read_onnx(path)
    if path.suffix.lower() == ".tflite":
        return read_tflite(path)
    if path.suffix.lower() == ".ort":
        return read_ort(path)
    if is_ctranslate2(path):
        return read_ctranslate2(path)
    if path.suffix.lower() == ".gguf":
        return read_gguf(path)
    return read_tfjs(path) if path.suffix.lower() == ".json" else None


def _shape(value: Any) -> list[int]:
    return [d.dim_value for d in value.type.tensor_type.shape.dim]


def shapes(told: Config, kind: str) -> Sequence[Sequence[int]]:
    """Shapes of the graph's ``kind``, "inputs" or "outputs"; none where it is no graph."""
    return [*(told or {}).get(kind, {}).values()]
