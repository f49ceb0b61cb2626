"""One ONNX model for any number of streams, made of the same program written for three numbers.

Everything else of a model has fixed sizes, so its lowering may count on them. What differs between
three numbers of streams is the part that depends on it: sizes in shapes, rows of a table of places.
Each such constant is written as what it is of the number, and the third one proves it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .onnx_graph import UnsupportedOperation

SIZES = (13, 17, 19)  # primes that are no size of a model
STREAMS = "streams"  # the name of the size


def for_any_batch(make: Callable[[int], Any], counted: str = "frames") -> Any:
    """The model of any number of streams.

    Args:
      make: the model of so many streams, its constants narrow whatever their size.
      counted: the input whose first axis is that number.

    Raises:
      UnsupportedOperation: the program of one number is not that of another.
    """
    models = [make(size) for size in SIZES]
    return _Join(models, counted).model()


def sized(shapes: Sequence[Sequence[int]]) -> tuple[Any, ...]:
    """One shape of those for :data:`SIZES`: a number, or how it is called."""
    found: list[Any] = []
    for sizes in zip(*shapes, strict=True):
        if len(set(sizes)) == 1:
            found.append(int(sizes[0]))
        elif sizes == SIZES:
            found.append(STREAMS)
        elif all(n * SIZES[0] == sizes[0] * b for n, b in zip(sizes, SIZES, strict=True)):
            found.append(f"{sizes[0] // SIZES[0]}*{STREAMS}")
        else:
            found.append(None)
    return tuple(found)


class _Join:
    """Three models that become one."""

    def __init__(self, models: Sequence[Any], counted: str):
        self.models = models
        self.arrays = [
            {t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in models
        ]
        self.constants: dict[str, np.ndarray] = {}  # those that are written
        self.before: list[Any] = []  # nodes that compute the others
        self.computed: dict[tuple[bytes, ...], str] = {}
        shape = self._node("Shape", [counted])
        self.count = self._node("Gather", [shape, self._constant(np.zeros(1, np.int64))], axis=0)

    def model(self) -> Any:
        names = [{i.name: i.name for i in m.graph.input} for m in self.models]
        graphs = [m.graph for m in self.models]
        nodes = self._nodes([g.node for g in graphs], names)
        made = helper.make_graph(
            [*self.before, *nodes],
            graphs[0].name,
            [_info(i) for i in zip(*(g.input for g in graphs), strict=True)],
            [_info(o) for o in zip(*(g.output for g in graphs), strict=True)],
            [numpy_helper.from_array(a, name) for name, a in self.constants.items()],
        )
        first = self.models[0]
        return helper.make_model(
            made, opset_imports=first.opset_import, ir_version=first.ir_version,
            producer_name=first.producer_name,
        )  # fmt: skip

    def _nodes(self, lists: Sequence[Any], names: Sequence[dict[str, str]]) -> list[Any]:
        """Nodes of one graph; ``names``: of each model's tensors as they are called here."""
        if len({len(nodes) for nodes in lists}) > 1:
            raise UnsupportedOperation(
                f"{len(lists[0])} operations for {SIZES[0]} streams and {len(lists[1])} for"
                f" {SIZES[1]}: a loop over the streams, or blocks whose size depends on them"
            )
        return [self._join(same, names) for same in zip(*lists, strict=True)]

    def _join(self, same: Sequence[Any], names: Sequence[dict[str, str]]) -> Any:
        first = same[0]
        alike = {(n.op_type, n.domain, len(n.input), len(n.output), len(n.attribute)) for n in same}
        if len(alike) > 1:
            raise UnsupportedOperation(f"{first.op_type} whose form depends on the streams")
        given = [
            self._input(first, place, titles, names)
            for place, titles in enumerate(zip(*(n.input for n in same), strict=True))
        ]
        node = onnx.NodeProto()
        node.CopyFrom(first)
        del node.input[:], node.attribute[:]
        node.input.extend(given)
        for fields in zip(*(n.attribute for n in same), strict=True):
            node.attribute.append(self._field(first, fields, names))
        for titles in zip(*(n.output for n in same), strict=True):
            for known, title in zip(names, titles, strict=True):
                known[title] = titles[0]
        return node

    def _field(self, node: Any, fields: Sequence[Any], names: Sequence[dict[str, str]]) -> Any:
        first = fields[0]
        if not first.HasField("g"):
            if len({f.SerializeToString(deterministic=True) for f in fields}) > 1:
                raise UnsupportedOperation(f"{node.op_type} whose {first.name} is of the streams")
            return first
        inner = [dict(known) for known in names]  # a body sees what is around it
        graphs = [f.g for f in fields]
        for titles in zip(*(g.input for g in graphs), strict=True):
            for known, title in zip(inner, titles, strict=True):
                known[title.name] = titles[0].name
        nodes = self._nodes([g.node for g in graphs], inner)
        body = helper.make_graph(
            nodes,
            graphs[0].name,
            [_info(i) for i in zip(*(g.input for g in graphs), strict=True)],
            [_info(o) for o in zip(*(g.output for g in graphs), strict=True)],
        )
        return helper.make_attribute(first.name, body)

    def _input(self, node: Any, place: int, titles: Any, names: Sequence[dict[str, str]]) -> str:
        if not any(titles):
            return ""
        there = [t in known for known, t in zip(self.arrays, titles, strict=True)]
        if not all(there):
            called = {known.get(t) for known, t in zip(names, titles, strict=True)}
            if len(called) > 1 or None in called:
                raise UnsupportedOperation(f"{node.op_type} that reads other values by the streams")
            return str(called.pop())
        arrays = [known[t] for known, t in zip(self.arrays, titles, strict=True)]
        if len({(a.shape, a.dtype.str, a.tobytes()) for a in arrays}) == 1:
            self.constants.setdefault(titles[0], arrays[0])
            return titles[0]
        key = tuple(a.tobytes() + str(a.shape).encode() for a in arrays)
        key = (*key, b"target") if node.op_type == "Reshape" and place == 1 else key
        if key not in self.computed:
            self.computed[key] = self._of_count(node, arrays, target=len(key) > len(arrays))
        return self.computed[key]

    # Constants of the number of streams.

    def _of_count(self, node: Any, arrays: list[np.ndarray], *, target: bool) -> str:
        """``target``: the shape of a Reshape."""
        if len({a.shape for a in arrays}) > 1:
            return self._rows(node, arrays)
        first, slope = arrays[0], _slope(node, arrays)
        if target and np.count_nonzero(slope) == 1 and (first >= 0).all():
            return self._constant(np.where(slope != 0, -1, first))
        if first.ndim == 1 and len(first) <= 16:  # part by part: known sizes stay known
            parts = []
            for value, by in zip(first, slope, strict=True):
                one = self._constant(np.asarray([value - by * SIZES[0]], first.dtype))
                parts.append(self._affine(one, np.asarray([by], first.dtype)) if by else one)
            return self._node("Concat", parts, axis=0) if len(parts) > 1 else parts[0]
        return self._affine(self._constant(first - slope * SIZES[0]), slope)

    def _affine(self, start: str, slope: np.ndarray) -> str:
        """start + slope * count."""
        count = self.count
        if slope.ndim == 0:
            count = self._node("Squeeze", [count, self._constant(np.zeros(1, np.int64))])
        if slope.dtype != np.int64:
            count = self._cast(count, slope.dtype)
        return self._node("Add", [start, self._node("Mul", [count, self._constant(slope)])])

    def _rows(self, node: Any, arrays: list[np.ndarray]) -> str:
        """A table with a row for every stream, each as far from the next one."""
        shapes = [a.shape for a in arrays]
        axes = [i for i, sizes in enumerate(zip(*shapes, strict=True)) if len(set(sizes)) > 1]
        if len({len(s) for s in shapes}) > 1 or len(axes) != 1:
            raise UnsupportedOperation(f"{node.op_type} of a constant with several axes of streams")
        axis, dtype = axes[0], arrays[0].dtype
        tables = []
        for a, b in zip(arrays, SIZES, strict=True):
            if a.shape[axis] % b:
                raise UnsupportedOperation(f"{node.op_type} of a constant of no whole rows")
            each = a.shape[axis] // b
            table = a.reshape(*a.shape[:axis], b, each, *a.shape[axis + 1 :])
            tables.append(table.astype(np.int32) if dtype == np.bool_ else table)
        row = lambda t, i: t.take([i], axis)
        start, step = row(tables[0], 0), row(tables[0], 1) - row(tables[0], 0)
        for table, b in zip(tables, SIZES, strict=True):
            number = np.arange(b).reshape([b if i == axis else 1 for i in range(table.ndim)])
            if not np.array_equal(start + step * number.astype(table.dtype), table):
                raise UnsupportedOperation(f"{node.op_type} of a constant that the streams decide")
        zero, one = (self._constant(np.int64(n)) for n in (0, 1))
        last = self._node("Squeeze", [self.count, self._constant(np.zeros(1, np.int64))])
        number = self._node("Range", [zero, last, one])
        places = np.asarray([-1 if i == axis else 1 for i in range(start.ndim)], np.int64)
        number = self._cast(self._node("Reshape", [number, self._constant(places)]), start.dtype)
        made = self._node("Mul", [number, self._constant(step)])
        made = self._node("Add", [made, self._constant(start)])
        whole = np.asarray([-1 if i == axis else n for i, n in enumerate(shapes[0])], np.int64)
        made = self._node("Reshape", [made, self._constant(whole)])
        return self._cast(made, dtype) if dtype == np.bool_ else made

    def _cast(self, name: str, dtype: Any) -> str:
        return self._node("Cast", [name], to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def _constant(self, array: Any) -> str:
        name = f"{STREAMS}_const_{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def _node(self, kind: str, inputs: Sequence[str], **fields: Any) -> str:
        name = f"{STREAMS}_{kind.lower()}_{len(self.before)}"
        self.before.append(helper.make_node(kind, list(inputs), [name], name=name, **fields))
        return name


def _slope(node: Any, arrays: list[np.ndarray]) -> np.ndarray:
    """By how much every element grows with a stream."""
    first, second, third = arrays
    more = second - first if first.dtype != np.bool_ else first ^ second
    slope = (more / (SIZES[1] - SIZES[0])).astype(first.dtype)
    for other, size in ((second, SIZES[1]), (third, SIZES[2])):
        if not np.array_equal(first + slope * (size - SIZES[0]), other):
            raise UnsupportedOperation(f"{node.op_type} of a number that the streams decide")
    return slope


def _info(same: Sequence[Any]) -> Any:
    """What is said of a tensor: its sizes of the streams by name."""
    kinds = [v.type.tensor_type for v in same]
    shape = sized([[d.dim_value for d in k.shape.dim] for k in kinds])
    return helper.make_tensor_value_info(same[0].name, kinds[0].elem_type, list(shape))
