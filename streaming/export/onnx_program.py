"""A traced program as an ONNX model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import core
from onnx import helper

from ...layers.streaming import DType
from . import onnx_moves  # noqa: F401  (registers its lowerings)
from .onnx_graph import OPSET, REPEATED, Graph, UnsupportedOperation, Value, carried, info
from .onnx_ops import LOWER, where
from .unroll import CALLS

IR_VERSION = 10  # what onnxruntime 1.17 and newer read


def model(
    program: core.ClosedJaxpr,
    inputs: Sequence[str],
    outputs: Sequence[str],
    name: str,
    *,
    least: int = REPEATED,
) -> Any:
    """The ONNX model of a flat program (:func:`~.unroll.flat`); names of its arguments and
    results in order. Constants of ``least`` bytes are written without their repetitions.

    An argument or result of bfloat16 is float32 there: numpy has no bfloat16.

    Raises:
      UnsupportedOperation: naming the operation that has no ONNX form.
    """
    g = Graph(least=least)
    values: dict[Any, Value] = {}
    given, taken = [], []
    for var, title in zip(program.jaxpr.invars, inputs, strict=True):
        dtype = border(var.aval.dtype)
        given.append(info(title, dtype, var.aval.shape))
        outside = Value(title, var.aval.shape, dtype)
        values[var] = g.rounded(g.cast(outside, var.aval.dtype), var.aval.dtype)
    for var, array in zip(program.jaxpr.constvars, program.consts, strict=True):
        values[var] = g.repeated(array)
    results = _run(g, program.jaxpr, values)
    for var, value, title in zip(program.jaxpr.outvars, results, outputs, strict=True):
        dtype = border(var.aval.dtype)
        value = g.full(value, var.aval.shape)
        if value.dtype != dtype:
            value = Value(_cast(g, value, dtype), value.shape, dtype)
        g.nodes.append(helper.make_node("Identity", [value.name], [title]))
        taken.append(info(title, dtype, var.aval.shape))
    return helper.make_model(
        g.proto(name, given, taken),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="streamzoo",
    )


def border(dtype: DType) -> np.dtype:
    """The type of an argument or result outside of the model."""
    return carried(dtype) if str(np.dtype(dtype)) in ("bfloat16", "float16") else np.dtype(dtype)


def _cast(g: Graph, value: Value, dtype: np.dtype) -> str:
    return g.node("Cast", [value], to=helper.np_dtype_to_tensor_dtype(dtype))[0]


def _run(g: Graph, jaxpr: Any, values: dict[Any, Value]) -> list[Value]:
    def read(atom: Any) -> Value:
        if isinstance(atom, core.Literal):
            kind: Any = atom.aval
            return g.repeated(atom.val, kind.dtype)
        return values[atom]

    for eqn in jaxpr.eqns:
        found = _equation(g, eqn, [read(a) for a in eqn.invars])
        found = found if isinstance(found, list) else [found]
        values.update(zip(eqn.outvars, found, strict=True))
    return [read(a) for a in jaxpr.outvars]


def _body(g: Graph, body: Any, given: Sequence[Value]) -> list[Value]:
    jaxpr, consts = (body.jaxpr, body.consts) if hasattr(body, "consts") else (body, ())
    values = dict(zip(jaxpr.invars, given, strict=True))
    values |= {v: g.repeated(c) for v, c in zip(jaxpr.constvars, consts, strict=True)}
    return _run(g, jaxpr, values)


def _equation(g: Graph, eqn: Any, given: list[Value]) -> Any:
    name = eqn.primitive.name
    if name in CALLS:
        return _body(g, eqn.params[CALLS[name]], given)
    if name == "while":
        return _while(g, eqn, given)
    if name == "cond":
        return _cond(g, eqn, given)
    if name not in LOWER:
        raise UnsupportedOperation(f"the operation {name} has no ONNX form here")
    return LOWER[name](g, eqn, given)


def _while(g: Graph, eqn: Any, given: list[Value]) -> list[Value]:
    p = eqn.params
    first, second = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    test, fixed, state = given[:first], given[first:second], given[second:]
    shapes = [v.aval for v in eqn.outvars]
    state = [g.full(v, a.shape) for v, a in zip(state, shapes, strict=False)]
    begin = _any(g, _body(g, p["cond_jaxpr"], [*test, *state])[0])
    inner = Graph(g)
    turn, going = inner.fresh("turn"), inner.fresh("going")
    loop = [Value(inner.fresh("state"), a.shape, carried(a.dtype)) for a in shapes]
    new = _body(inner, p["body_jaxpr"], [*fixed, *loop])
    goes = p["cond_jaxpr"].out_avals[0].shape
    if goes:  # of vmap: a row that is done keeps what it has
        here = inner.full(_body(inner, p["cond_jaxpr"], [*test, *loop])[0], goes)
        rows = lambda n: inner.reshape(here, [*goes, *[1] * (n - len(goes))])
        new = [
            where(inner, rows(len(a.shape)), v, old, carried(a.dtype))
            for v, old, a in zip(new, loop, shapes, strict=False)
        ]
    new = [_named(inner, inner.full(v, a.shape)) for v, a in zip(new, shapes, strict=False)]
    again = _named(inner, _any(inner, _body(inner, p["cond_jaxpr"], [*test, *new])[0]))
    body = inner.proto(
        inner.fresh("body"),
        [info(turn, np.int64, ()), info(going, bool, ()), *(info(*_told(v)) for v in loop)],
        [info(again.name, bool, ()), *(info(*_told(v)) for v in new)],
    )
    names = g.node("Loop", ["", begin, *state], len(state), body=body)
    return [Value(n, a.shape, carried(a.dtype)) for n, a in zip(names, shapes, strict=False)]


def _any(g: Graph, flags: Value) -> Value:
    """One flag: whether any is set."""
    if not flags.shape:
        return flags
    axes = g.constant(np.arange(len(flags.shape), dtype=np.int64))
    most = g.op("ReduceMax", [g.cast(flags, np.int32), axes], (), np.int32, keepdims=0)
    return g.cast(most, bool)


def _cond(g: Graph, eqn: Any, given: list[Value]) -> list[Value]:
    branches, (which, *rest) = eqn.params["branches"], given
    shapes = [v.aval for v in eqn.outvars]

    def branch(number: int) -> Any:
        inner = Graph(g)
        out = _body(inner, branches[number], rest)
        out = [_named(inner, inner.full(v, a.shape)) for v, a in zip(out, shapes, strict=False)]
        return inner.proto(inner.fresh("branch"), [], [info(*_told(v)) for v in out])

    if len(branches) != 2:
        raise UnsupportedOperation(f"a switch between {len(branches)} branches")
    names = g.node(
        "If", [g.cast(which, bool)], len(shapes), then_branch=branch(1), else_branch=branch(0)
    )
    return [Value(n, a.shape, carried(a.dtype)) for n, a in zip(names, shapes, strict=False)]


def _told(v: Value) -> tuple[str, np.dtype, tuple[int, ...]]:
    return v.name, v.dtype, v.shape


def _named(g: Graph, v: Value) -> Value:
    """A tensor of this graph: what a body gives back may be neither a constant nor outside."""
    return g.op("Identity", [v], v.shape, v.dtype)
