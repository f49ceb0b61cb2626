"""Operations of a traced program as ONNX nodes: those that move values about, and order them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.lax import GatherScatterMode

from .onnx_graph import Equation, Graph, UnsupportedOperation, Value, truth
from .onnx_ops import elementwise, lowers, padded, sliced, where


@lowers("reshape")
def _reshape(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    return g.reshape(g.full(values[0], eqn.invars[0].aval.shape), eqn.outvars[0].aval.shape)


@lowers("squeeze", "expand_dims")
def _squeeze(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    out = list(eqn.outvars[0].aval.shape)
    if values[0].shape != eqn.invars[0].aval.shape:  # what is spread stays so
        values = [g.full(values[0], eqn.invars[0].aval.shape)]
    return g.reshape(values[0], out)


@lowers("broadcast_in_dim")
def _broadcast(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    out, places = eqn.outvars[0].aval.shape, eqn.params["broadcast_dimensions"]
    x = values[0]
    shape = x.shape if len(x.shape) == len(places) else (1,) * len(places)
    ones = [1] * len(out)
    for n, place in zip(shape, places, strict=False):
        ones[place] = n
    return g.reshape(x, ones)  # nodes broadcast by themselves; see `Graph.full`


@lowers("transpose")
def _transpose(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    x = g.full(values[0], eqn.invars[0].aval.shape)
    return g.transpose(x, eqn.params["permutation"])


@lowers("slice")
def _slice(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    x, p = g.full(values[0], eqn.invars[0].aval.shape), eqn.params
    steps = p["strides"] or (1,) * len(x.shape)
    cut = [
        (axis, start, stop, step)
        for axis, (start, stop, step, n) in enumerate(
            zip(p["start_indices"], p["limit_indices"], steps, x.shape, strict=False)
        )
        if (start, stop, step) != (0, n, 1)
    ]
    if not cut:
        return x
    shape = eqn.outvars[0].aval.shape
    axes, starts, stops, strides = zip(*cut, strict=True)
    each = [g.constant(np.asarray(a, np.int64)) for a in (starts, stops, axes, strides)]
    return g.op("Slice", [x, *each], shape, x.dtype)


@lowers("pad")
def _pad(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    x = g.full(values[0], eqn.invars[0].aval.shape)
    return padded(g, x, g.reshape(values[1], ()), eqn.params["padding_config"])


@lowers("concatenate")
def _concatenate(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    full = [g.full(v, a.aval.shape) for v, a in zip(values, eqn.invars, strict=False)]
    if len(full) == 1:
        return full[0]
    shape = eqn.outvars[0].aval.shape
    return g.op("Concat", full, shape, full[0].dtype, axis=int(eqn.params["dimension"]))


@lowers("split")
def _split(g: Graph, eqn: Equation, values: list[Value]) -> list[Value]:
    x, axis = g.full(values[0], eqn.invars[0].aval.shape), int(eqn.params["axis"])
    sizes = [int(n) for n in eqn.params["sizes"]]
    names = g.node("Split", [x, g.constant(np.asarray(sizes, np.int64))], len(sizes), axis=axis)
    return [Value(n, v.aval.shape, x.dtype) for n, v in zip(names, eqn.outvars, strict=False)]


@lowers("rev")
def _rev(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    x = g.full(values[0], eqn.invars[0].aval.shape)
    for axis in eqn.params["dimensions"]:
        order = g.constant(np.arange(x.shape[axis])[::-1].astype(np.int64))
        x = g.op("Gather", [x, order], x.shape, x.dtype, axis=int(axis))
    return x


@lowers("iota")
def _iota(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    out, axis = eqn.outvars[0].aval, eqn.params["dimension"]
    shape = [n if i == axis else 1 for i, n in enumerate(out.shape)]
    return g.constant(np.arange(out.shape[axis]).reshape(shape), out.dtype)


def _clipped(g: Graph, index: Value, high: Any) -> Value:
    index = elementwise(g, "Max", [index, g.constant(np.int64(0))], np.int64)
    return elementwise(g, "Min", [index, g.constant(np.int64(high))], np.int64)


def _within(g: Graph, index: Value, high: int) -> Value:
    """0 <= index <= high."""
    low = elementwise(g, "GreaterOrEqual", [index, g.constant(np.int64(0))], bool)
    top = elementwise(g, "LessOrEqual", [index, g.constant(np.int64(high))], bool)
    return elementwise(g, "And", [low, top], bool)


@lowers("dynamic_slice")
def _dynamic_slice(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    x, shape = g.full(values[0], eqn.invars[0].aval.shape), list(eqn.invars[0].aval.shape)
    for axis, size in enumerate(eqn.params["slice_sizes"]):
        if size == shape[axis]:
            continue
        start = _clipped(g, g.cast(values[1 + axis], np.int64), shape[axis] - size)
        at = elementwise(
            g, "Add", [g.reshape(start, (1,)), g.constant(np.arange(size, dtype=np.int64))],
            np.int64,
        )  # fmt: skip
        shape[axis] = size
        x = g.op("Gather", [x, at], shape, x.dtype, axis=axis)
    return x


@lowers("dynamic_update_slice")
def _dynamic_update_slice(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    x, part = (g.full(v, a.aval.shape) for v, a in zip(values[:2], eqn.invars, strict=False))
    inside: Value | None = None
    shape = list(part.shape)
    for axis, (n, size) in enumerate(zip(x.shape, part.shape, strict=False)):
        if n == size:
            continue
        start = _clipped(g, g.cast(values[2 + axis], np.int64), n - size)
        place = g.constant(np.arange(n, dtype=np.int64))
        offset = elementwise(g, "Sub", [place, g.reshape(start, (1,))], np.int64)
        at = _clipped(g, offset, size - 1)
        shape[axis] = n
        part = g.op("Gather", [part, at], shape, part.dtype, axis=axis)
        here = _within(g, offset, size - 1)
        here = g.reshape(here, [n if i == axis else 1 for i in range(len(shape))])
        inside = here if inside is None else elementwise(g, "And", [inside, here], bool)
    return part if inside is None else where(g, inside, part, x, x.dtype)


def _starts(
    g: Graph, index: Value, dims: Sequence[int], limits: Sequence[int]
) -> tuple[list[Value], Value | None]:
    """The start of every window along each indexed axis, [..., n] -> n of [...], within
    ``limits``; and which windows lie inside."""
    lead = index.shape[:-1]
    found, inside = [], None
    for k in range(len(dims)):
        one = index
        if index.shape[-1] > 1:
            one = sliced(g, index, len(lead), k, k + 1)
        one = g.cast(g.reshape(one, lead), np.int64)
        safe = _clipped(g, one, limits[k])
        here = _within(g, one, limits[k])
        inside = here if inside is None else elementwise(g, "And", [inside, here], bool)
        found.append(safe)
    return found, inside


def _places(shape: Sequence[int]) -> np.ndarray:
    """Row-major strides."""
    return np.cumprod([1, *shape[::-1]], dtype=np.int64)[:-1][::-1]


@lowers("gather")
def _gather(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    x, index = (g.full(v, a.aval.shape) for v, a in zip(values, eqn.invars, strict=False))
    p, d, out = eqn.params, eqn.params["dimension_numbers"], eqn.outvars[0].aval
    sizes = p["slice_sizes"]
    batching = tuple(d.operand_batching_dims)
    gone = (*d.collapsed_slice_dims, *batching)
    whole = [
        i for i, n in enumerate(x.shape)
        if sizes[i] == n and i not in gone and i not in d.start_index_map
    ]  # fmt: skip
    taken = [i for i in range(len(x.shape)) if i not in whole]
    stride = dict(zip(taken, _places([x.shape[i] for i in taken]), strict=False))
    limits = [x.shape[i] - sizes[i] for i in d.start_index_map]
    starts, inside = _starts(g, index, d.start_index_map, limits)
    lead = index.shape[:-1]
    # where in the result the axes of the index, and those of the window, are
    windows = [i for i in range(len(x.shape)) if i not in gone]
    spots = [i for i in range(len(out.shape)) if i not in d.offset_dims]
    kept = {axis: d.offset_dims[k] for k, axis in enumerate(windows)}
    # the result in an order whose last axes are those that are taken whole
    first = [i for i in range(len(out.shape)) if i not in [kept[w] for w in whole]]
    order = [*first, *(kept[w] for w in whole)]
    shape = [1] * len(out.shape)
    for axis, n in zip(spots, lead, strict=False):
        shape[axis] = n
    linear = g.constant(np.zeros((), np.int64))
    for axis, start in zip(d.start_index_map, starts, strict=False):
        step = elementwise(g, "Mul", [start, g.constant(np.int64(stride[axis]))], np.int64)
        linear = elementwise(g, "Add", [linear, g.reshape(step, shape)], np.int64)
    offsets = np.zeros((1,) * len(out.shape), np.int64)
    for axis in taken:
        if axis in kept:
            n = [1] * len(out.shape)
            n[kept[axis]] = sizes[axis]
            offsets = offsets + stride[axis] * np.arange(sizes[axis]).reshape(n)
    for axis, spot in zip(batching, d.start_indices_batching_dims, strict=False):
        n = [1] * len(out.shape)
        n[spots[spot]] = x.shape[axis]
        offsets = offsets + stride[axis] * np.arange(x.shape[axis]).reshape(n)
    linear = elementwise(g, "Add", [linear, g.constant(offsets)], np.int64)
    linear = g.reshape(g.full(linear, [1 if i not in first else out.shape[i]
                                       for i in range(len(out.shape))]),
                       [out.shape[i] for i in first])  # fmt: skip
    rows = int(np.prod([x.shape[i] for i in taken], dtype=int))
    table = g.reshape(g.transpose(x, [*taken, *whole]), [rows, *(x.shape[i] for i in whole)])
    shape = [out.shape[i] for i in order]
    y = g.op("Gather", [table, linear], shape, x.dtype, axis=0)
    y = g.transpose(y, np.argsort(order))
    if p["mode"] == GatherScatterMode.FILL_OR_DROP and inside is not None:
        fill = p["fill_value"]
        if fill is None:
            floating = np.issubdtype(y.dtype, np.floating)
            fill = np.nan if floating else (True if truth(out.dtype) else np.iinfo(out.dtype).min)
        there = [1] * len(out.shape)
        for axis, n in zip(spots, lead, strict=False):
            there[axis] = n
        y = where(g, g.reshape(inside, there), y, g.constant(np.asarray(fill, y.dtype)), y.dtype)
    return y


@lowers("scatter", "scatter-add", "scatter_add", "scatter-max", "scatter-min", "scatter-mul")
def _scatter(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    x, index, new = (g.full(v, a.aval.shape) for v, a in zip(values, eqn.invars, strict=False))
    p, d, out = eqn.params, eqn.params["dimension_numbers"], eqn.outvars[0].aval
    kind = eqn.primitive.name.replace("_", "-").partition("-")[2] or "none"
    batching = tuple(d.operand_batching_dims)
    gone = (*d.inserted_window_dims, *batching)
    windows = [i for i in range(len(x.shape)) if i not in gone]
    sizes = {axis: new.shape[d.update_window_dims[k]] for k, axis in enumerate(windows)}
    stride = _places(x.shape)
    limits = [x.shape[i] - sizes.get(i, 1) for i in d.scatter_dims_to_operand_dims]
    starts, inside = _starts(g, index, d.scatter_dims_to_operand_dims, limits)
    lead, count = index.shape[:-1], len(new.shape)
    spots = [i for i in range(count) if i not in d.update_window_dims]
    shape = [1] * count
    for axis, n in zip(spots, lead, strict=False):
        shape[axis] = n
    linear = g.constant(np.zeros((), np.int64))
    for axis, start in zip(d.scatter_dims_to_operand_dims, starts, strict=False):
        step = elementwise(g, "Mul", [start, g.constant(np.int64(stride[axis]))], np.int64)
        linear = elementwise(g, "Add", [linear, g.reshape(step, shape)], np.int64)
    offsets = np.zeros((1,) * count, np.int64)
    for k, axis in enumerate(windows):
        n = [1] * count
        n[d.update_window_dims[k]] = sizes[axis]
        offsets = offsets + stride[axis] * np.arange(sizes[axis]).reshape(n)
    for axis, spot in zip(batching, d.scatter_indices_batching_dims, strict=False):
        n = [1] * count
        n[spots[spot]] = x.shape[axis]
        offsets = offsets + stride[axis] * np.arange(x.shape[axis]).reshape(n)
    linear = elementwise(g, "Add", [linear, g.constant(offsets)], np.int64)
    total = int(np.prod(x.shape, dtype=int))
    table = g.reshape(x, [total])
    flags = truth(x.dtype)
    if flags:
        table, new = g.cast(table, np.int32), g.cast(new, np.int32)
    drops = inside is not None and p["mode"] == GatherScatterMode.FILL_OR_DROP
    if inside is not None and drops:  # one place more, for those that fall outside
        linear = where(g, g.reshape(inside, shape), linear, g.constant(np.int64(total)), np.int64)
        table = padded(g, table, g.constant(np.zeros((), table.dtype)), [(0, 1, 0)])
    size = int(np.prod(new.shape, dtype=int))
    linear = g.reshape(g.full(linear, new.shape), [size])
    y = g.op(
        "ScatterElements", [table, linear, g.reshape(new, [size])], table.shape, table.dtype,
        axis=0, reduction=kind,
    )  # fmt: skip
    y = sliced(g, y, 0, 0, total) if drops else y
    y = g.reshape(g.cast(y, bool) if flags else y, x.shape)
    return g.rounded(y, out.dtype)


@lowers("top_k")
def _top_k(g: Graph, eqn: Equation, values: list[Value]) -> list[Value]:
    x, k = g.full(values[0], eqn.invars[0].aval.shape), int(eqn.params["k"])
    found, at = _ordered(g, x, k, len(x.shape) - 1, largest=True)
    return [found, g.cast(at, eqn.outvars[1].aval.dtype)]


@lowers("sort")
def _sort(g: Graph, eqn: Equation, values: list[Value]) -> list[Value]:
    axis, keys = int(eqn.params["dimension"]), eqn.params["num_keys"]
    full = [g.full(v, a.aval.shape) for v, a in zip(values, eqn.invars, strict=False)]
    for key in range(keys - 1, -1, -1):  # the last key first: each order keeps the one before
        by = g.cast(full[key], np.int32) if truth(full[key].dtype) else full[key]
        at = _ordered(g, by, by.shape[axis], axis, largest=False)[1]
        full = [_along(g, v, at, axis) for v in full]
    return full


def _ordered(g: Graph, x: Value, k: int, axis: int, *, largest: bool) -> tuple[Value, Value]:
    """The k best along the axis and their places, equal values as they came. ONNX Runtime's TopK
    does so by itself; OpenVINO's takes any of the equal ones, and ONNX cannot ask it not to."""
    n = x.shape[axis]
    if k * n >= 2**31:  # OpenVINO computes int64 in 32 bits
        raise UnsupportedOperation(f"the {k} best of {n}")
    best, at = _best(g, x, k, axis, largest)
    if k < 2 and k == n:
        return best, at
    line = lambda m: g.constant(
        np.arange(m).reshape([m if i == axis else 1 for i in range(len(x.shape))]), np.int64
    )
    whole = lambda kind, *v: elementwise(g, kind, list(v), np.int64)
    if k > 1:  # equal ones by their places: number of the run of equals, then place
        ahead, behind = sliced(g, best, axis, 1, k), sliced(g, best, axis, 0, k - 1)
        new = elementwise(g, "Not", [elementwise(g, "Equal", [ahead, behind], bool)], bool)
        zero = [1 if i == axis else m for i, m in enumerate(best.shape)]
        first = g.constant(np.zeros(zero, np.int64))
        new = g.op("Concat", [first, g.cast(new, np.int64)], best.shape, np.int64, axis=axis)
        run = g.op("CumSum", [new, g.constant(np.int64(axis))], best.shape, np.int64)
        key = whole("Add", whole("Mul", run, g.constant(np.int64(n))), at)
        at = _along(g, at, _best(g, key, k, axis, False)[1], axis)
    if k < n:  # of those that equal the last one, the first ones
        last = sliced(g, best, axis, k - 1, k)
        better = elementwise(g, "Equal", [best, last], bool)
        better = g.cast(elementwise(g, "Not", [better], bool), np.int64)
        axes = g.constant(np.asarray([axis], np.int64))
        count = g.op("ReduceSum", [better, axes], last.shape, np.int64, keepdims=1)
        tied = elementwise(g, "Equal", [x, last], bool)
        place = where(g, tied, line(n), g.constant(np.int64(n)), np.int64)
        ties = _best(g, g.full(place, x.shape), k, axis, False)[0]
        turn = whole("Sub", line(k), count)
        nth = g.full(whole("Max", turn, g.constant(np.int64(0))), best.shape)
        here = elementwise(g, "Less", [line(k), count], bool)
        at = where(g, here, at, _along(g, ties, nth, axis), np.int64)
    return best, at


def _best(g: Graph, x: Value, k: int, axis: int, largest: bool) -> tuple[Value, Value]:
    """TopK: values in order, and their places."""
    shape = tuple(k if i == axis else n for i, n in enumerate(x.shape))
    count = g.constant(np.asarray([k], np.int64))
    names = g.node("TopK", [x, count], 2, axis=axis, largest=int(largest), sorted=1)
    return Value(names[0], shape, x.dtype), Value(names[1], shape, np.dtype("q"))


def _along(g: Graph, x: Value, at: Value, axis: int) -> Value:
    return g.op("GatherElements", [x, at], at.shape, x.dtype, axis=axis)


@lowers("reduce_window_max", "reduce_window_sum")
def _window(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    p, out = eqn.params, eqn.outvars[0].aval
    x = g.full(values[0], eqn.invars[0].aval.shape)
    sizes = p["window_dimensions"]
    axes = [i for i, n in enumerate(sizes) if n > 1 or p["window_strides"][i] > 1]
    others = [i for i in range(len(sizes)) if i not in axes]
    dilated = any(d != 1 for d in (*p["base_dilation"], *p["window_dilation"]))
    if dilated or any(p["padding"][i] != (0, 0) for i in others) or len(axes) not in (1, 2):
        raise UnsupportedOperation(f"{eqn.primitive.name} over {len(axes)} axes, or dilated")
    order = [*others, *axes]
    rows = int(np.prod([x.shape[i] for i in others], dtype=int))
    y = g.reshape(g.transpose(x, order), [1, rows, *(x.shape[i] for i in axes)])
    shape = [1, rows, *(out.shape[i] for i in axes)]
    pads = [p["padding"][i][side] for side in (0, 1) for i in axes]
    fields = dict(kernel_shape=[sizes[i] for i in axes], strides=[p["window_strides"][i]
                  for i in axes], pads=[int(n) for n in pads])  # fmt: skip
    if eqn.primitive.name == "reduce_window_max":
        y = g.op("MaxPool", [y], shape, x.dtype, **fields)
    else:
        y = g.op("AveragePool", [y], shape, x.dtype, count_include_pad=1, **fields)
        size = np.prod([sizes[i] for i in axes]).astype(x.dtype)
        y = elementwise(g, "Mul", [y, g.constant(size)], x.dtype)
    y = g.reshape(y, [out.shape[i] for i in order])
    return g.rounded(g.transpose(y, np.argsort(order)), out.dtype)


@lowers("stack")
def _stack(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    axis, out = int(eqn.params["axis"]), eqn.outvars[0].aval.shape
    shape = [1 if i == axis else n for i, n in enumerate(out)]
    full = [
        g.reshape(g.full(v, a.aval.shape), shape) for v, a in zip(values, eqn.invars, strict=False)
    ]
    return full[0] if len(full) == 1 else g.op("Concat", full, out, full[0].dtype, axis=axis)


@lowers("unstack")
def _unstack(g: Graph, eqn: Equation, values: list[Value]) -> list[Value]:
    x, axis = g.full(values[0], eqn.invars[0].aval.shape), int(eqn.params["axis"])
    n = x.shape[axis]
    parts = [sliced(g, x, axis, i, i + 1) for i in range(n)]
    return [g.reshape(p, v.aval.shape) for p, v in zip(parts, eqn.outvars, strict=False)]


@lowers("tile")
def _tile(g: Graph, eqn: Equation, values: list[Value]) -> Value:
    x = g.full(values[0], eqn.invars[0].aval.shape)
    reps = g.constant(np.int64(eqn.params["reps"]))
    return g.op("Tile", [x, reps], eqn.outvars[0].aval.shape, x.dtype)
