"""Weights of ONNX Runtime's own files (.ort), under names that can be relied on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..layers.install import how_to_install
from ..layers.streaming import Json
from .errors import WeightsError

READERS = ("MatMul", "Conv", "Gather", "Mul", "Add")
_GRAPH = 5  # of an attribute's types: a branch of an If
_TYPES = {1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64}


def read_ort(path: Path) -> tuple[dict[str, np.ndarray], Json]:
    """An ORT file -> ({name: array}, what it tells: ``graph`` "ort", ``file``).

    Stored names are numbers of the exporter's at times, so an array is called by the operation that
    reads it, and which of its inputs it is: ``layers.0.self_attn.q_proj.MatMul.1``. One in 8 bits,
    which the graph casts, scales and shifts, is what comes of that.

    Raises:
      WeightsError: not an ORT file, or one that is cut off.
      ImportError: the package ``onnxruntime``, which knows the format, is not installed.
    """
    try:
        from onnxruntime.tools.ort_format_model.ort_flatbuffers_py.fbs.InferenceSession import (
            InferenceSession,
        )
    except ImportError:
        raise ImportError(f"ORT files are read by: {how_to_install('onnxruntime')}") from None
    data = path.read_bytes()
    if data[4:8] != b"ORTM":
        raise WeightsError(f"{path}: not a file of ONNX Runtime (.ort)")
    try:
        session: Any = InferenceSession.GetRootAs(bytearray(data), 0)
        graph = session.Model().Graph()
        stored = dict(_stored(graph))
        nodes = [*_nodes(graph)]
    except (AttributeError, IndexError, ValueError, TypeError) as error:
        raise WeightsError(f"{path}: not a complete file of ONNX Runtime ({error})") from None
    made: dict[str, np.ndarray] = {}
    for kind, _, inputs, outputs in nodes:  # casts, scales and shifts of what is stored
        of = [made.get(name, stored.get(name)) for name in inputs]
        if kind == "Cast" and of[0] is not None:
            made[outputs[0]] = of[0].astype(np.float32)
        elif kind in ("Mul", "Add") and inputs[0] in made and of[1] is not None:
            made[outputs[0]] = made[inputs[0]] * of[1] if kind == "Mul" else made[inputs[0]] + of[1]
    tensors: dict[str, np.ndarray] = {}
    for kind, name, inputs, _ in nodes:
        if kind not in READERS or not name.startswith("/"):
            continue  # names without a layer are the exporter's own
        for place, source in enumerate(inputs):
            array = made.get(source, stored.get(source))
            if array is not None and array.dtype == np.float32 and array.size > 1:
                tensors[f"{name[1:].replace('/', '.')}.{place}"] = array
    return tensors, {"graph": "ort", "file": str(path)}


def _stored(graph: Any) -> Iterator[tuple[str, np.ndarray]]:
    for i in range(graph.InitializersLength()):
        tensor = graph.Initializers(i)
        if tensor.DataType() not in _TYPES or not tensor.RawDataLength():
            continue  # texts, and large constants of other types: no weights
        array = np.frombuffer(tensor.RawDataAsNumpy().tobytes(), _TYPES[tensor.DataType()])
        shape = [tensor.Dims(k) for k in range(tensor.DimsLength())]
        yield tensor.Name().decode(), array.reshape(shape)


def _nodes(graph: Any) -> Iterator[tuple[str, str, list[str], list[str]]]:
    """(operation, name, inputs, outputs) of a graph and of the branches in it."""
    for i in range(graph.NodesLength()):
        node = graph.Nodes(i)
        inputs = [node.Inputs(k).decode() for k in range(node.InputsLength())]
        outputs = [node.Outputs(k).decode() for k in range(node.OutputsLength())]
        yield node.OpType().decode(), node.Name().decode(), inputs, outputs
        for k in range(node.AttributesLength()):
            if node.Attributes(k).Type() == _GRAPH:
                yield from _nodes(node.Attributes(k).G())
