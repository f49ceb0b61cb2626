"""A LiteRT file that its runtime cannot compute in the wrong memory.

The runtime lets RESHAPE's result lie in its input's memory and lets sums and products write over an
input that nobody reads after them. Whether somebody does it asks of that input, and of the first
tensor that lies there, but not of those between (``arena_planner.cc``, IdentifyInPlaceTensors):
of ``b = a + 1; c = (reshape(b) + 2); d = b + 3`` the second sum is written over ``b``, and ``d`` is
wrong without a word. MoveNet's points were. So such a ``b`` is copied before it is reshaped.
"""

from __future__ import annotations

import copy
import importlib
from typing import Any

SAME = {"RESHAPE", "EXPAND_DIMS", "SQUEEZE", "BITCAST"}  # their result may be their input's memory
OVER = {"ADD", "SUB", "MUL", "DIV", "SOFTMAX", "LOG_SOFTMAX", "DYNAMIC_UPDATE_SLICE"}


def apart(file: bytes) -> bytes:
    """The same program, with a copy wherever a tensor would be written over that is still read."""
    schema: Any = importlib.import_module("tensorflow.lite.python.schema_py_generated")
    buffers: Any = importlib.import_module("tensorflow.lite.tools.flatbuffer_utils")
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    model = buffers.convert_bytearray_to_object(bytearray(file))
    codes = model.operatorCodes
    kind = lambda op: names[
        max(codes[op.opcodeIndex].builtinCode, codes[op.opcodeIndex].deprecatedBuiltinCode)
    ]
    found = [(graph, op) for graph in model.subgraphs for op in _in_danger(graph, kind)]
    if not found:
        return file
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CONCATENATION
    code.version = 1
    codes.append(code)
    for graph, op in found:
        tensor = copy.copy(graph.tensors[op.inputs[0]])
        tensor.name, tensor.buffer = tensor.name + b"/apart", 0
        graph.tensors.append(tensor)
        # a concatenation of one: nothing that the runtime shares memory in
        twin = schema.OperatorT()
        twin.opcodeIndex = len(codes) - 1
        twin.inputs, twin.outputs = [int(op.inputs[0])], [len(graph.tensors) - 1]
        twin.builtinOptionsType = schema.BuiltinOptions.ConcatenationOptions
        twin.builtinOptions = schema.ConcatenationOptionsT()
        graph.operators.insert(next(i for i, x in enumerate(graph.operators) if x is op), twin)
        op.inputs = [len(graph.tensors) - 1, *map(int, op.inputs[1:])]
    return bytes(buffers.convert_object_to_bytearray(model))


def _in_danger(graph: Any, kind: Any) -> list[Any]:
    """Operations of ``SAME`` whose input is read by others too, may itself lie in the memory of one
    before it, and whose result, reshaped again or not, may be written over."""
    made, read = {}, {}
    for op in graph.operators:
        made |= {int(i): op for i in op.outputs}
        for i in map(int, op.inputs):
            read.setdefault(i, []).append(op)

    def written_over(i: int) -> bool:
        after = read.get(i, [])
        return any(
            kind(op) in OVER or (kind(op) in SAME and written_over(int(op.outputs[0])))
            for op in after
        )

    outputs = set(map(int, graph.outputs))
    return [
        op
        for op in graph.operators
        if kind(op) in SAME
        and (before := int(op.inputs[0])) in made
        and kind(made[before]) in SAME | OVER
        and (len(read[before]) > 1 or before in outputs)
        and written_over(int(op.outputs[0]))
    ]
