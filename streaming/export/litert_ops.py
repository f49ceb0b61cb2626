"""Each kind of ONNX node as TensorFlow's operations that LiteRT has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import helper

from .litert_nodes import MERGED, RUN, Values, check_rank, runs
from .onnx_graph import UnsupportedOperation

LOW = 4  # operations of more axes are done on fewer, where neighbours may be one
# of erf, Eigen's: even powers of x, the highest first, for |x| up to WIDE
WIDE = 3.832506856900711
ABOVE = (0.00022905065861350646, 0.0034082910107109506, 0.050955695062380861, 0.18520832239976145,
         1.128379143519084)  # fmt: skip
BELOW = (-1.1791602954361697e-7, 0.000023547966471313185, 0.0010179625278914885,
         0.014070470171167667, 0.11098505178285362, 0.49746925110067538, 1.0)  # fmt: skip


def _merged(shapes: Sequence[Sequence[int]], apart: Sequence[int] = ()) -> list[list[int]]:
    """Runs of axes that may be one in an operation on arrays of these shapes (of equal rank, that
    broadcast): in each array all of a run are whole, or all are 1. Axes of ``apart`` are alone."""
    full = np.broadcast_shapes(*map(tuple, shapes))
    kind = lambda i: tuple(n[i] == full[i] for n in shapes)
    runs: list[list[int]] = []
    for i, n in enumerate(full):
        if n == 1 and runs and i not in apart and runs[-1][-1] not in apart:
            runs[-1].append(i)  # an axis of 1 goes with any
            continue
        before = next((j for j in reversed(runs[-1]) if full[j] > 1), None) if runs else None
        one = runs and i not in apart and not set(runs[-1]) & set(apart)
        if one and (before is None or kind(before) == kind(i)):
            runs[-1].append(i)
        else:
            runs.append([i])
    return runs


def _elementwise(v: Values, call: Callable[..., Any], given: Sequence[Any]) -> Any:
    """On as few axes as there have to be."""
    rank = max(x.shape.rank for x in given)
    if rank <= LOW:
        return call(*given)
    shapes = [[1] * (rank - x.shape.rank) + list(x.shape) for x in given]
    runs = _merged(shapes)
    size = lambda shape, run: int(np.prod([shape[i] for i in run], dtype=int))
    less = [v.tf.reshape(x, [size(n, r) for r in runs]) for x, n in zip(given, shapes, strict=True)]
    check_rank(len(runs), "an operation on each element")
    return v.tf.reshape(call(*less), np.broadcast_shapes(*map(tuple, shapes)))


def _plain(kind: str, name: str) -> None:
    def run(v: Values, node: Any, fields: dict) -> Any:
        call: Any = v.tf
        for part in name.split("."):
            call = getattr(call, part)
        given = [v[n] for n in node.input]
        return call(*given) if kind == "MatMul" else _elementwise(v, call, given)

    RUN[kind] = run
    if name not in ("matmul", "identity"):
        MERGED.add(kind)


for _kind, _name in {
    "Abs": "abs", "Add": "add", "And": "logical_and", "Ceil": "math.ceil", "Cos": "cos",
    "Equal": "equal", "Exp": "exp", "Floor": "floor", "Greater": "greater",
    "GreaterOrEqual": "greater_equal", "Identity": "identity", "Less": "less",
    "LessOrEqual": "less_equal", "Log": "math.log", "MatMul": "matmul", "Max": "maximum",
    "Min": "minimum", "Mul": "multiply", "Neg": "negative", "Not": "logical_not",
    "Or": "logical_or", "Pow": "pow", "Reciprocal": "math.reciprocal", "Round": "round",
    "Sigmoid": "sigmoid", "Sin": "sin", "Sqrt": "sqrt", "Sub": "subtract", "Tanh": "tanh",
    "Where": "where",
}.items():  # fmt: skip
    _plain(_kind, _name)


@runs("Div")
def _div(v: Values, node: Any, fields: dict) -> Any:
    a, b = (v[n] for n in node.input)
    if a.dtype.is_floating:
        return v.tf.divide(a, b)
    # whole numbers, towards zero: LiteRT has the quotient that is rounded down
    up = v.tf.math.floordiv(v.tf.abs(a), v.tf.abs(b))
    return v.tf.where(v.tf.equal(v.tf.less(a, 0), v.tf.less(b, 0)), up, -up)


@runs("Mod")
def _mod(v: Values, node: Any, fields: dict) -> Any:
    a, b = (v[n] for n in node.input)
    left = v.tf.math.floormod(v.tf.abs(a), v.tf.abs(b))  # the dividend's sign
    return v.tf.where(v.tf.less(a, 0), -left, left)


@runs("Sign")
def _sign(v: Values, node: Any, fields: dict) -> Any:
    x = v[node.input[0]]
    above, below = v.tf.greater(x, 0), v.tf.less(x, 0)
    return v.tf.cast(above, x.dtype) - v.tf.cast(below, x.dtype)


@runs("Erf")
def _erf(v: Values, node: Any, fields: dict) -> Any:
    x = v.tf.clip_by_value(v[node.input[0]], -np.float32(WIDE), np.float32(WIDE))
    square = x * x

    def polynomial(numbers: Sequence[float]) -> Any:
        total = v.tf.constant(np.float32(numbers[0]))
        for n in numbers[1:]:
            total = total * square + np.float32(n)
        return total

    return x * polynomial(ABOVE) / polynomial(BELOW)


@runs("Cast")
def _cast(v: Values, node: Any, fields: dict) -> Any:
    x = v[node.input[0]]
    if fields["to"] in (10, 16):  # float16, bfloat16: float32 with their digits
        spare = {10: 13, 16: 16}[fields["to"]]
        much = x * np.float32(2**spare + 1)  # T. J. Dekker's splitting rounds to nearest
        return much - (much - x)
    dtype = helper.tensor_dtype_to_np_dtype(fields["to"])
    dtype = np.dtype(np.int32) if dtype == np.int64 else dtype
    if dtype == np.bool_:
        return v.tf.not_equal(x, v.tf.zeros([], x.dtype))
    return v.tf.cast(x, v.tf.as_dtype(dtype))


# Shapes.


def _known(v: Values, name: str) -> list[int]:
    a = v.constant(name)
    if a is None:
        raise UnsupportedOperation("a shape that is computed")
    return [int(n) for n in np.ravel(a)]


@runs("Reshape", "Squeeze")
def _reshape(v: Values, node: Any, fields: dict) -> Any:
    x = v[node.input[0]]
    if node.op_type == "Squeeze":
        gone = _known(v, node.input[1])
        return v.tf.reshape(x, [n for i, n in enumerate(x.shape) if i not in gone])
    return v.tf.reshape(x, _known(v, node.input[1]))


@runs("Transpose")
def _transpose(v: Values, node: Any, fields: dict) -> Any:
    name, order = node.input[0], list(fields["perm"])
    base, before = v._turned.get(name, (v[name], tuple(range(len(order)))))
    v._turned[node.output[0]] = base, tuple(before[i] for i in order)
    return v.turned(name, order)


@runs("Expand")
def _expand(v: Values, node: Any, fields: dict) -> Any:
    x, shape = v[node.input[0]], _known(v, node.input[1])
    shape = list(np.broadcast_shapes(tuple(x.shape), tuple(shape)))
    if len(shape) <= LOW:
        return v.tf.broadcast_to(x, shape)
    was = [1] * (len(shape) - x.shape.rank) + list(x.shape)
    runs = _merged([was, shape])
    check_rank(len(runs), "an Expand")
    size = lambda n, run: int(np.prod([n[i] for i in run], dtype=int))
    y = v.tf.broadcast_to(
        v.tf.reshape(x, [size(was, r) for r in runs]), [size(shape, r) for r in runs]
    )
    return v.tf.reshape(y, shape)


@runs("Tile")
def _tile(v: Values, node: Any, fields: dict) -> Any:
    return v.tf.tile(v[node.input[0]], _known(v, node.input[1]))


@runs("Concat")
def _concat(v: Values, node: Any, fields: dict) -> Any:
    return v.tf.concat([v[n] for n in node.input], fields["axis"])


@runs("Split")
def _split(v: Values, node: Any, fields: dict) -> Any:
    return list(v.tf.split(v[node.input[0]], _known(v, node.input[1]), fields["axis"]))


@runs("Slice")
def _slice(v: Values, node: Any, fields: dict) -> Any:
    x = v[node.input[0]]
    starts, stops, axes, steps = (_known(v, n) for n in node.input[1:])
    cut = [slice(None)] * x.shape.rank
    for start, stop, axis, step in zip(starts, stops, axes, steps, strict=True):
        cut[axis] = slice(start, stop, step)
    return x[tuple(cut)]


@runs("Pad")
def _pad(v: Values, node: Any, fields: dict) -> Any:
    x, ends = v[node.input[0]], _known(v, node.input[1])
    half = len(ends) // 2
    pads = list(zip(ends[:half], ends[half:], strict=True))
    return v.tf.pad(x, pads, constant_values=v[node.input[2]])


# What orders and picks.


@runs("Gather")
def _gather(v: Values, node: Any, fields: dict) -> Any:
    return v.tf.gather(v[node.input[0]], v[node.input[1]], axis=fields.get("axis", 0))


@runs("GatherElements")
def _along(v: Values, node: Any, fields: dict) -> Any:
    x, at = (v[n] for n in node.input)
    axis = fields.get("axis", 0) % x.shape.rank
    order = [i for i in range(x.shape.rank) if i != axis] + [axis]
    x, at = v.tf.transpose(x, order), v.tf.transpose(at, order)
    rows, n = int(np.prod(x.shape[:-1], dtype=int)), x.shape[-1]
    start = (np.arange(rows, dtype=np.int32) * n).reshape([*x.shape[:-1], 1])
    y = v.tf.gather(v.tf.reshape(x, [-1]), at + start)
    return v.tf.transpose(y, np.argsort(order))


@runs("ScatterElements")
def _scatter(v: Values, node: Any, fields: dict) -> Any:
    """Of one axis. LiteRT's scatter adds to zeros: two writes to one place are not told apart from
    one of their sum, and no program here does so."""
    table, at, new = (v[n] for n in node.input)
    how = fields.get("reduction", b"none").decode()
    if how not in ("none", "add"):
        raise UnsupportedOperation(f"a scatter that takes the {how}")
    at, shape = at[:, None], list(table.shape)
    added = v.tf.scatter_nd(at, new, shape)
    if how == "add":
        return table + added
    written = v.tf.scatter_nd(at, v.tf.ones_like(at[:, 0]), shape) > 0
    return v.tf.where(written, added, table)


@runs("TopK")
def _top_k(v: Values, node: Any, fields: dict) -> Any:
    x, (k,) = v[node.input[0]], _known(v, node.input[1])
    axis = fields.get("axis", -1) % x.shape.rank
    order = [i for i in range(x.shape.rank) if i != axis] + [axis]
    back = np.argsort(order)
    sign = 1 if fields.get("largest", 1) else -1
    best, at = v.tf.math.top_k(sign * v.tf.transpose(x, order), k)
    return [v.tf.transpose(sign * best, back), v.tf.transpose(at, back)]


@runs("ArgMax", "ArgMin")
def _arg(v: Values, node: Any, fields: dict) -> Any:
    call = v.tf.argmax if node.op_type == "ArgMax" else v.tf.argmin
    return call(v[node.input[0]], fields["axis"], output_type=v.tf.int32)


# Sums, products, windows.


@runs("ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd")
def _reduce(v: Values, node: Any, fields: dict) -> Any:
    call = getattr(v.tf, {"S": "reduce_sum", "P": "reduce_prod"}.get(node.op_type[6])
                   or {"x": "reduce_max", "n": "reduce_min"}[node.op_type[-1]])  # fmt: skip
    x = v[node.input[0]]
    axes = [i % x.shape.rank for i in _known(v, node.input[1])]
    shape = [1 if i in axes else n for i, n in enumerate(x.shape)]
    runs = (
        _merged([list(x.shape), shape])
        if x.shape.rank > LOW
        else [[i] for i in range(x.shape.rank)]
    )
    check_rank(len(runs), node.op_type)
    gone = [k for k, r in enumerate(runs) if any(x.shape[i] > shape[i] for i in r)]
    y = call(v.tf.reshape(x, [int(np.prod([x.shape[i] for i in r])) for r in runs]), gone)
    keep = bool(fields.get("keepdims", 1))
    return v.tf.reshape(y, shape if keep else [n for i, n in enumerate(shape) if i not in axes])


@runs("CumSum")
def _cumsum(v: Values, node: Any, fields: dict) -> Any:
    (axis,) = _known(v, node.input[1])
    return v.tf.cumsum(v[node.input[0]], axis, reverse=bool(fields.get("reverse", 0)))


def _channels_last(v: Values, name: str, pads: list[int], fill: float) -> Any:
    """[N, C, *space] -> [N, *space, C], padded."""
    rank = v[name].shape.rank
    x = v.turned(name, [0, *range(2, rank), 1])
    if any(pads):
        half = rank - 2
        ends = [(0, 0), *zip(pads[:half], pads[half:], strict=True), (0, 0)]
        x = v.tf.pad(x, ends, constant_values=np.float32(fill))
    return x


def _channels_first(v: Values, node: Any, y: Any) -> Any:
    order = [0, y.shape.rank - 1, *range(1, y.shape.rank - 1)]
    v._turned[node.output[0]] = y, tuple(order)
    return v.tf.transpose(y, order)


@runs("Conv")
def _conv(v: Values, node: Any, fields: dict) -> Any:
    weight = v[node.input[1]]  # [out, in / groups, *space]
    x = _channels_last(v, node.input[0], list(fields["pads"]), 0.0)
    space, groups = weight.shape.rank - 2, fields["group"]
    strides, dilations = list(fields["strides"]), list(fields["dilations"])
    w = v.tf.transpose(weight, [*range(2, space + 2), 1, 0])  # [*space, in / groups, out]
    if space == 1:  # as one of pictures with one row
        x, w = x[:, None], w[None]
        strides, dilations = [1, *strides], [1, *dilations]
    if groups > 1 and groups == x.shape[-1] and space < 3:
        shape = [*w.shape[:2], groups, w.shape[-1] // groups]
        w = v.tf.reshape(w, shape)
        if strides[0] != strides[1]:
            raise UnsupportedOperation("a depthwise convolution with two strides")
        y = v.tf.nn.depthwise_conv2d(x, w, [1, *strides, 1], "VALID", dilations=dilations)
    elif space == 3:
        y = v.tf.nn.conv3d(x, w, [1, *strides, 1], "VALID", dilations=[1, *dilations, 1])
    else:
        y = v.tf.nn.conv2d(x, w, strides, "VALID", dilations=dilations)
    return _channels_first(v, node, y[:, 0] if space == 1 else y)


@runs("MaxPool", "AveragePool")
def _pool(v: Values, node: Any, fields: dict) -> Any:
    most = node.op_type == "MaxPool"
    x = _channels_last(v, node.input[0], list(fields["pads"]), -np.inf if most else 0.0)
    size, strides = list(fields["kernel_shape"]), list(fields["strides"])
    if len(size) == 1:
        x, size, strides = x[:, None], [1, *size], [1, *strides]
    y = (v.tf.nn.max_pool2d if most else v.tf.nn.avg_pool2d)(x, size, strides, "VALID")
    return _channels_first(v, node, y[:, 0] if len(fields["kernel_shape"]) == 1 else y)


# Loops and branches.


@runs("Loop")
def _loop(v: Values, node: Any, fields: dict) -> Any:
    body = fields["body"]
    state = [v[n] for n in node.input[2:]]

    def turn(going: Any, *state: Any) -> Any:
        del going
        return v.body(body, [v.tf.constant(0), v.tf.constant(True), *state])

    found = v.tf.while_loop(lambda going, *_: going, turn, [v[node.input[1]], *state])
    return list(found[1:])


@runs("If")
def _if(v: Values, node: Any, fields: dict) -> Any:
    branch = lambda name: lambda: v.body(fields[name], [])
    found = v.tf.cond(v[node.input[0]], branch("then_branch"), branch("else_branch"))
    return list(found) if isinstance(found, (list, tuple)) else [found]
