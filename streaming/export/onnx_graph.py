"""The ONNX graph that is being written, and the values in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import onnx
from jax.core import ShapedArray
from jax.extend.core import Primitive
from onnx import helper, numpy_helper

from ...layers.streaming import DType, Fields

OPSET = 20  # the first with Gelu and all else that is written here; onnxruntime >= 1.17 reads it


class UnsupportedOperation(ValueError):
    """An operation of the program that has no ONNX form here."""


REPEATED = 4096  # bytes from which on a constant is written without its repetitions

# What a type is carried as: the runtimes' kernels for the others are few.
CARRIED = {
    "bfloat16": np.dtype("float32"),  # rounded after every operation, see `Graph.rounded`
    "float16": np.dtype("float32"),
    "uint32": np.dtype("int64"),
    "uint16": np.dtype("int32"),
    "int16": np.dtype("int32"),
    "int8": np.dtype("int32"),
}


def carried(dtype: DType) -> np.dtype:
    """The type of a tensor in the graph for a value of ``dtype``."""
    return CARRIED.get(str(np.dtype(dtype)), np.dtype(dtype))


def truth(dtype: DType) -> bool:
    """Whether it is bool, of which the runtimes' arithmetic takes little."""
    return np.dtype(dtype) == np.bool_


class Operand(Protocol):
    """What goes into an operation, or comes out of it."""

    @property
    def aval(self) -> ShapedArray: ...


class Equation(Protocol):
    """An operation of a traced program, of arrays alone (``jax.extend.core.JaxprEqn``)."""

    @property
    def primitive(self) -> Primitive: ...

    @property
    def params(self) -> Fields: ...

    @property
    def invars(self) -> Sequence[Operand]: ...

    @property
    def outvars(self) -> Sequence[Operand]: ...


class Value(NamedTuple):
    """A tensor of the graph. ``shape`` broadcasts to the shape of the traced value."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    array: np.ndarray | None = None  # of a constant


def narrow(array: np.ndarray) -> np.ndarray:
    """The array with one element along every axis on which all are the same, to the bit."""
    if not array.ndim:
        return array
    bits = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
    for axis, size in enumerate(array.shape):
        first = bits[(slice(None),) * axis + (slice(1),)]
        if size > 1 and (bits == first).all():
            bits = first
    return np.ascontiguousarray(bits).view(array.dtype)


class Graph:
    """Nodes and constants, in order; the bodies of loops have one of their own.

    ``least``: bytes from which on a constant is narrow.
    """

    def __init__(self, outer: Graph | None = None, least: int = REPEATED):
        self.least = least if outer is None else outer.least
        self.nodes: list[Any] = []
        self._root: Graph = self if outer is None else outer._root
        if outer is None:
            self.constants: dict[str, np.ndarray] = {}
            self._known: dict[tuple[Any, ...], Value] = {}
            self._count = 0

    def fresh(self, kind: str = "v") -> str:
        """A name that is not taken."""
        self._root._count += 1
        return f"{kind.lower()}_{self._root._count}"

    def constant(self, array: Any, dtype: DType | None = None) -> Value:
        """A constant; small equal ones are one."""
        array = np.asarray(array)
        array = array.astype(carried(array.dtype if dtype is None else dtype), order="C")
        key = (array.shape, array.dtype.str, array.tobytes()) if array.size < 64 else (id(array),)
        known = self._root._known
        if key not in known:
            name = self.fresh("const")
            self._root.constants[name] = array
            known[key] = Value(name, array.shape, array.dtype, array)
        return known[key]

    def repeated(self, array: Any, dtype: Any = None) -> Value:
        """A constant of the program, narrow: nodes broadcast it, and where one does not, an
        Expand does (:meth:`full`)."""
        array = np.asarray(array)
        return self.constant(narrow(array) if array.nbytes >= self.least else array, dtype)

    def node(self, kind: str, inputs: Sequence[Value | str], outputs: int = 1, **fields: Any):
        """Adds a node; returns the names of its outputs."""
        names = [self.fresh(kind) for _ in range(outputs)]
        given = [i.name if isinstance(i, Value) else i for i in inputs]
        self.nodes.append(helper.make_node(kind, given, names, name=names[0], **fields))
        return names

    def op(
        self,
        kind: str,
        inputs: Sequence[Value | str],
        shape: Sequence[int],
        dtype: DType,
        **fields: Any,
    ) -> Value:
        """A node with one output of this shape and carried type."""
        return Value(self.node(kind, inputs, **fields)[0], tuple(shape), carried(dtype))

    # Shapes.

    def reshape(self, a: Value, shape: Sequence[int]) -> Value:
        shape = tuple(int(n) for n in shape)
        if a.shape == shape:
            return a
        if a.array is not None:
            return self.constant(a.array.reshape(shape))
        if not shape:  # OpenVINO 2026.4 does not survive a Reshape to a scalar
            axes = self.constant(np.arange(len(a.shape), dtype=np.int64))
            return self.op("Squeeze", [a, axes], shape, a.dtype)
        return self.op("Reshape", [a, self.constant(np.asarray(shape, np.int64))], shape, a.dtype)

    def transpose(self, a: Value, order: Iterable[int]) -> Value:
        order = [int(i) for i in order]
        if order == sorted(order):
            return a
        if a.array is not None:
            return self.constant(a.array.transpose(order))
        return self.op("Transpose", [a], [a.shape[i] for i in order], a.dtype, perm=order)

    def full(self, a: Value, shape: Sequence[int]) -> Value:
        """``a`` with all its elements there."""
        shape = tuple(shape)
        if a.shape == shape:
            return a
        whole = int(np.prod(shape, dtype=int)) * a.dtype.itemsize
        if a.array is not None and whole < self.least:
            return self.constant(np.broadcast_to(a.array, shape))
        return self.op("Expand", [a, self.constant(np.asarray(shape, np.int64))], shape, a.dtype)

    def cast(self, a: Value, dtype: DType) -> Value:
        """As the carried type of ``dtype``."""
        wanted = carried(dtype)
        if a.dtype == wanted:
            return a
        if a.array is not None:
            return self.constant(a.array.astype(wanted))
        return self.op("Cast", [a], a.shape, wanted, to=tensor_type(wanted))

    def rounded(self, a: Value, dtype: DType) -> Value:
        """A float32 value with the digits that ``dtype`` has; others as they are."""
        if str(np.dtype(dtype)) not in ("bfloat16", "float16"):
            return a
        narrow = self.node("Cast", [a], to=tensor_type(dtype))[0]
        return self.op("Cast", [narrow], a.shape, np.float32, to=tensor_type(np.float32))

    def proto(self, name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """The graph; of the outermost one with the constants that are read."""
        read = _read(self.nodes) if self._root is self else set()
        constants = [
            numpy_helper.from_array(array, title)
            for title, array in self._root.constants.items()
            if title in read
        ]
        return helper.make_graph(self.nodes, name, inputs, outputs, constants)


def _read(nodes: Any) -> set[str]:
    """Names that nodes read, those of bodies within included."""
    names: set[str] = set()
    for node in nodes:
        names.update(node.input)
        for field in node.attribute:
            if field.HasField("g"):
                names |= _read(field.g.node)
    return names


def tensor_type(dtype: DType) -> int:
    """ONNX's number of a type."""
    if str(np.dtype(dtype)) == "bfloat16":
        return onnx.TensorProto.BFLOAT16
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def info(name: str, dtype: DType, shape: Sequence[int]) -> Any:
    """Of an input or output."""
    return helper.make_tensor_value_info(name, tensor_type(dtype), list(shape))
