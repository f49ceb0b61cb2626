"""Operations of a traced program as ONNX nodes: arithmetic, shapes, sums and products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...layers.streaming import DType
from .onnx_graph import Equation, Graph, UnsupportedOperation, Value, carried, truth

Lower = Callable[..., Any]  # (graph, equation, values) -> a value, or a list of them
LOWER: dict[str, Lower] = {}


def lowers(*names: str) -> Callable[[Lower], Lower]:
    """Registers the lowering of primitives."""

    def register(run: Lower) -> Lower:
        LOWER.update(dict.fromkeys(names, run))
        return run

    return register


def spread(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    return np.broadcast_shapes(*shapes)


def elementwise(g: Graph, kind: str, values: list[Value], dtype: DType, **fields: Any) -> Value:
    """A node whose inputs broadcast."""
    shape = spread(*(v.shape for v in values))
    return g.rounded(g.op(kind, values, shape, dtype, **fields), dtype)


ONE_TO_ONE = {
    "add": "Add", "add_any": "Add", "sub": "Sub", "mul": "Mul", "neg": "Neg", "sign": "Sign",
    "abs": "Abs", "exp": "Exp", "log": "Log", "tanh": "Tanh", "logistic": "Sigmoid", "sqrt": "Sqrt",
    "floor": "Floor", "ceil": "Ceil", "sin": "Sin", "cos": "Cos", "erf": "Erf", "pow": "Pow",
}  # fmt: skip


@lowers(*ONE_TO_ONE)
def _one(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    dtype = eqn.outvars[0].aval.dtype
    if truth(dtype):
        raise UnsupportedOperation(f"{eqn.primitive.name} of bool")
    return elementwise(g, ONE_TO_ONE[eqn.primitive.name], values, dtype)


@lowers("max", "min")
def _extreme(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    dtype, name = eqn.outvars[0].aval.dtype, eqn.primitive.name
    if truth(dtype):
        return elementwise(g, {"max": "Or", "min": "And"}[name], values, bool)
    return elementwise(g, name.capitalize(), values, dtype)


@lowers("div")
def _div(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    # whole numbers: towards zero, in both
    return elementwise(g, "Div", values, eqn.outvars[0].aval.dtype)


@lowers("rem")
def _rem(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    dtype = eqn.outvars[0].aval.dtype
    a, b = values
    if np.issubdtype(carried(dtype), np.floating):
        return elementwise(g, "Mod", values, dtype, fmod=1)
    whole = elementwise(g, "Div", [a, b], dtype)  # Mod of ONNX has the divisor's sign
    return elementwise(g, "Sub", [a, elementwise(g, "Mul", [whole, b], dtype)], dtype)


@lowers("rsqrt")
def _rsqrt(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    root = elementwise(g, "Sqrt", values, np.float32)
    return elementwise(g, "Reciprocal", [root], eqn.outvars[0].aval.dtype)


@lowers("square")
def _square(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    return elementwise(g, "Mul", values * 2, eqn.outvars[0].aval.dtype)


@lowers("integer_pow")
def _integer_pow(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    y, dtype = eqn.params["y"], eqn.outvars[0].aval.dtype
    out = values[0]
    for _ in range(abs(y) - 1):
        out = elementwise(g, "Mul", [out, values[0]], dtype)
    return elementwise(g, "Reciprocal", [out], dtype) if y < 0 else out


@lowers("log1p")
def _log1p(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    # log(u) x / (u - 1) with u = 1 + x loses nothing for small x (W. Kahan); x itself where u is 1
    (x,), dtype = values, eqn.outvars[0].aval.dtype
    one = g.constant(np.float32(1))
    u = elementwise(g, "Add", [x, one], np.float32)
    less = elementwise(g, "Sub", [u, one], np.float32)
    none = elementwise(g, "Equal", [less, g.constant(np.float32(0))], bool)
    below = elementwise(g, "Where", [none, one, less], np.float32)
    scaled = elementwise(g, "Div", [x, below], np.float32)
    large = elementwise(g, "Mul", [elementwise(g, "Log", [u], np.float32), scaled], np.float32)
    return elementwise(g, "Where", [none, x, large], dtype)


@lowers("expm1")
def _expm1(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    # tanh(x / 2) (exp(x) + 1), which loses nothing for small x
    (x,), dtype = values, eqn.outvars[0].aval.dtype
    half = elementwise(g, "Mul", [x, g.constant(np.float32(0.5))], np.float32)
    above = elementwise(
        g, "Add", [elementwise(g, "Exp", [x], np.float32), g.constant(np.float32(1))], np.float32
    )
    return elementwise(g, "Mul", [elementwise(g, "Tanh", [half], np.float32), above], dtype)


@lowers("exp2")
def _exp2(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    return elementwise(g, "Pow", [g.constant(np.float32(2)), *values], eqn.outvars[0].aval.dtype)


@lowers("round")
def _round(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    dtype = eqn.outvars[0].aval.dtype
    if int(eqn.params["rounding_method"]) == 1:
        return elementwise(g, "Round", values, dtype)  # to even
    size = elementwise(g, "Abs", values, dtype)
    size = elementwise(g, "Add", [size, g.constant(np.float32(0.5))], dtype)
    size = elementwise(g, "Floor", [size], dtype)
    return elementwise(g, "Mul", [elementwise(g, "Sign", values, dtype), size], dtype)


@lowers("is_finite")
def _is_finite(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    nothing = elementwise(g, "Sub", [values[0], values[0]], np.float32)  # NaN unless finite
    return elementwise(g, "Equal", [nothing, g.constant(np.float32(0))], bool)


@lowers("not")
def _not(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    _logical(eqn)
    return elementwise(g, "Not", values, bool)


@lowers("and", "or", "xor")
def _bits(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    _logical(eqn)
    return elementwise(g, eqn.primitive.name.capitalize(), values, bool)


def _logical(eqn: Equation) -> None:
    if not truth(eqn.outvars[0].aval.dtype):
        raise UnsupportedOperation(f"{eqn.primitive.name} of {eqn.outvars[0].aval.dtype}")


COMPARED = {"eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater",
            "ge": "GreaterOrEqual", "ne": "Equal"}  # fmt: skip


@lowers(*COMPARED)
def _compare(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    name = eqn.primitive.name
    if values[0].dtype in (bool, np.uint8):
        values = [g.cast(v, np.int32) for v in values]
    out = elementwise(g, COMPARED[name], values, bool)
    return elementwise(g, "Not", [out], bool) if name == "ne" else out


@lowers("select_n")
def _select(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    which, *cases = values
    dtype = eqn.outvars[0].aval.dtype
    if truth(which.dtype):
        return where(g, which, cases[1], cases[0], dtype)
    out = cases[-1]
    for i in range(len(cases) - 2, -1, -1):
        here = elementwise(g, "Equal", [which, g.constant(np.asarray(i, which.dtype))], bool)
        out = where(g, here, cases[i], out, dtype)
    return out


def where(g: Graph, which: Value, yes: Value, no: Value, dtype: DType) -> Value:
    """``yes`` where ``which``, else ``no``."""
    if not truth(dtype):
        return elementwise(g, "Where", [which, yes, no], carried(dtype))
    other = elementwise(g, "Not", [which], bool)
    first = elementwise(g, "And", [which, yes], bool)
    return elementwise(g, "Or", [first, elementwise(g, "And", [other, no], bool)], bool)


@lowers("clamp")
def _clamp(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    low, x, high = values
    dtype = eqn.outvars[0].aval.dtype
    return elementwise(g, "Min", [elementwise(g, "Max", [x, low], dtype), high], dtype)


@lowers("convert_element_type")
def _convert(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    old, new = eqn.invars[0].aval.dtype, eqn.outvars[0].aval.dtype
    if np.issubdtype(carried(old), np.floating) and str(new).startswith("uint"):
        return g.cast(g.cast(values[0], np.int64), new)  # negative ones are undefined in ONNX
    return g.rounded(g.cast(values[0], new), new)


@lowers("stop_gradient", "copy", "copy_p", "optimization_barrier", "pvary", "reduce_precision")
def _same(g: Graph, eqn: Equation, values: list[Value]) -> list[Value]:
    return list(values)


@lowers("dot_general")
def _dot(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    a, b = (g.full(v, x.aval.shape) for v, x in zip(values, eqn.invars, strict=False))
    dtype = eqn.outvars[0].aval.dtype
    if a.dtype != b.dtype:
        a, b = g.cast(a, np.float32), g.cast(b, np.float32)
    rest_a = [i for i in range(len(a.shape)) if i not in (*left, *left_batch)]
    rest_b = [i for i in range(len(b.shape)) if i not in (*right, *right_batch)]
    b = g.transpose(b, [*right_batch, *right, *rest_b])
    count = lambda v, axes: int(np.prod([v.shape[i] for i in axes], dtype=int))
    width, inner = (
        [b.shape[i] for i in range(len(right_batch) + len(right), len(b.shape))],
        count(a, left),
    )
    lead = [a.shape[i] for i in left_batch]
    out = [*lead, *(a.shape[i] for i in rest_a), *width]
    columns = int(np.prod(width, dtype=int))
    b = g.reshape(b, [*lead, inner, columns])
    a = g.transpose(a, [*left_batch, *rest_a, *left])
    if not lead and len(left) == 1 and len(rest_a):  # [..., K] x [K, N] needs no reshape
        shape = (*a.shape[:-1], columns)
    else:
        rows = int(np.prod(a.shape[len(lead) : len(lead) + len(rest_a)], dtype=int))
        a = g.reshape(a, [*lead, rows, inner])
        shape = (*lead, rows, columns)
    y = g.op("MatMul", [a, b], shape, a.dtype)
    return g.rounded(g.cast(g.reshape(y, out), dtype), dtype)


REDUCED = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin",
           "reduce_prod": "ReduceProd"}  # fmt: skip


@lowers(*REDUCED, "reduce_and", "reduce_or")
def _reduce(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    (x,), name = values, eqn.primitive.name
    axes = [int(i) for i in eqn.params["axes"]]
    aval, dtype = eqn.invars[0].aval, eqn.outvars[0].aval.dtype
    x = g.full(x, aval.shape)
    kind = REDUCED.get(name) or {"reduce_and": "ReduceMin", "reduce_or": "ReduceMax"}[name]
    flags = truth(aval.dtype)
    x = g.cast(x, np.int32) if flags else x
    out = eqn.outvars[0].aval.shape
    axis = g.constant(np.asarray(axes, np.int64))
    y = g.op(kind, [x, axis], out, x.dtype, keepdims=0) if axes else x
    return g.cast(y, bool) if flags else g.rounded(g.cast(y, dtype), dtype)


@lowers("argmax", "argmin")
def _arg(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    kind = {"argmax": "ArgMax", "argmin": "ArgMin"}[eqn.primitive.name]
    (axis,), out = eqn.params["axes"], eqn.outvars[0].aval
    x = g.full(values[0], eqn.invars[0].aval.shape)
    x = g.cast(x, np.int32) if truth(x.dtype) else x
    y = g.op(kind, [x], out.shape, np.int64, axis=int(axis), keepdims=0)
    return g.cast(y, out.dtype)


@lowers("cumsum")
def _cumsum(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    x, out = g.full(values[0], eqn.invars[0].aval.shape), eqn.outvars[0].aval
    axis = g.constant(np.int64(eqn.params["axis"]))
    y = g.op("CumSum", [x, axis], out.shape, x.dtype, reverse=int(eqn.params["reverse"]))
    return g.rounded(y, out.dtype)


@lowers("conv_general_dilated")
def _conv(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    p = eqn.params
    if p["batch_group_count"] != 1:
        raise UnsupportedOperation("conv_general_dilated with groups of the batch")
    numbers, out = p["dimension_numbers"], eqn.outvars[0].aval
    x, w = (g.full(v, a.aval.shape) for v, a in zip(values, eqn.invars, strict=False))
    x = g.transpose(g.cast(x, np.float32), numbers.lhs_spec)
    if any(d != 1 for d in p["lhs_dilation"]):
        inner = [(0, 0, 0), (0, 0, 0), *((0, 0, d - 1) for d in p["lhs_dilation"])]
        x = padded(g, x, g.constant(np.float32(0)), inner)
    w = g.transpose(g.cast(w, np.float32), numbers.rhs_spec)
    low, high = zip(*p["padding"], strict=False)
    if min(*low, *high) < 0:
        cut = [(0, 0, 0), (0, 0, 0), *((min(a, 0), min(b, 0), 0) for a, b in p["padding"])]
        x = padded(g, x, g.constant(np.float32(0)), cut)
        low, high = ([max(n, 0) for n in side] for side in (low, high))
    order = [0] * len(numbers.out_spec)
    shape = [out.shape[i] for i in numbers.out_spec]
    for place, axis in enumerate(numbers.out_spec):
        order[axis] = place
    y = g.op(
        "Conv", [x, w], shape, np.float32, strides=list(p["window_strides"]),
        pads=[*map(int, low), *map(int, high)], dilations=list(p["rhs_dilation"]),
        group=p["feature_group_count"], kernel_shape=list(w.shape[2:]),
    )  # fmt: skip
    return g.rounded(g.cast(g.transpose(y, order), out.dtype), out.dtype)


def padded(g: Graph, x: Value, fill: Value, config: Any) -> Value:
    """lax.pad: (low, high, interior) of each axis, negative ones cut."""
    shape = list(x.shape)
    for axis, (_, _, inner) in enumerate(config):
        if inner:  # [..., n, ...] -> [..., n, 1 + inner, ...] -> without the last gap
            n = shape[axis]
            x = g.reshape(x, [*shape[: axis + 1], 1, *shape[axis + 1 :]])
            pads = [0] * (2 * len(x.shape))
            pads[len(x.shape) + axis + 1] = inner
            wide = [*shape[: axis + 1], 1 + inner, *shape[axis + 1 :]]
            x = g.op("Pad", [x, g.constant(np.asarray(pads, np.int64)), fill], wide, x.dtype)
            shape[axis] = n * (1 + inner)
            x = sliced(g, g.reshape(x, shape), axis, 0, n + (n - 1) * inner)
            shape = list(x.shape)
    for axis, (low, high, _) in enumerate(config):
        if low < 0 or high < 0:
            x = sliced(g, x, axis, max(0, -low), x.shape[axis] - max(0, -high))
    pads = [max(0, c[0]) for c in config] + [max(0, c[1]) for c in config]
    if not any(pads):
        return x
    shape = [n + max(0, c[0]) + max(0, c[1]) for n, c in zip(x.shape, config, strict=False)]
    if truth(x.dtype):
        x = g.cast(x, np.int32)
        ends = g.constant(np.asarray(pads, np.int64))
        y = g.op("Pad", [x, ends, g.cast(fill, np.int32)], shape, np.int32)
        return g.cast(y, bool)
    return g.op("Pad", [x, g.constant(np.asarray(pads, np.int64)), fill], shape, x.dtype)


def sliced(g: Graph, x: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
    """x[..., start:stop:step, ...]."""
    shape = list(x.shape)
    shape[axis] = len(range(start, stop, step))
    each = [g.constant(np.asarray([n], np.int64)) for n in (start, stop, axis, step)]
    return g.op("Slice", [x, *each], shape, x.dtype)
