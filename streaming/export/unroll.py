"""A traced program in the form that other runtimes run well: no loops over depth, no calls, and all
that is known is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.extend import core

from ...layers.streaming import Params

LONGEST = 64  # turns of a loop that are written out; deeper stacks do not exist here

# Calls whose body is run in their place; name of the parameter that holds it.
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


# What is computed without compiling for it: exact in numpy too.
_NUMPY: dict[str, Callable[..., Any]] = {
    "reshape": lambda p, a: a.reshape(p["new_sizes"]),
    "squeeze": lambda p, a: np.squeeze(a, tuple(p["dimensions"])),
    "expand_dims": lambda p, a: np.expand_dims(a, tuple(p["dimensions"])),
    "transpose": lambda p, a: a.transpose(p["permutation"]),
    "convert_element_type": lambda p, a: a.astype(p["new_dtype"]),
    "concatenate": lambda p, *a: np.concatenate(a, p["dimension"]),
    "slice": lambda p, a: a[tuple(map(slice, p["start_indices"], p["limit_indices"],
                                      p["strides"] or [1] * a.ndim))],
    "broadcast_in_dim": lambda p, a: np.broadcast_to(
        a.reshape([a.shape[p["broadcast_dimensions"].index(i)]
                   if i in p["broadcast_dimensions"] else 1 for i in range(len(p["shape"]))]),
        p["shape"]),
    "select_n": lambda p, w, *a: np.where(w, a[1], a[0]) if len(a) == 2 else np.choose(w, a),
    **{name: lambda p, *a, f=f: f(*a) for name, f in {
        "add": np.add, "sub": np.subtract, "mul": np.multiply, "neg": np.negative,
        "max": np.maximum, "min": np.minimum, "lt": np.less, "le": np.less_equal,
        "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
        "and": np.bitwise_and, "or": np.bitwise_or, "not": np.invert, "floor": np.floor,
        "stop_gradient": lambda a: a,
    }.items()},
}  # fmt: skip


def _known(value: Any) -> bool:
    return not isinstance(value, Tracer)


def flat(run: Callable[..., Any], *args: Any) -> tuple[core.ClosedJaxpr, Any]:
    """(``run(*args)`` as one list of equations on the leaves of ``args``, shapes of its result).

    Loops of known length up to :data:`LONGEST` are written out, with their slices of the weights
    as constants; what depends on no argument is computed; a switch over the platform takes the
    CPU's branch.
    """
    traced, shapes = jax.make_jaxpr(run, return_shape=True)(*args)
    consts = [np.asarray(c) for c in traced.consts]
    again = lambda *a: _run(traced.jaxpr, consts, a)
    return _pruned(jax.make_jaxpr(again)(*jax.tree.leaves(args))), shapes


def _run(jaxpr: core.Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    values: dict[core.Var, Any] = {}

    def read(atom: core.Var | core.Literal) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    values.update(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        out = _equation(eqn, [read(a) for a in eqn.invars])
        values.update(zip(eqn.outvars, out, strict=True))
    return [read(a) for a in jaxpr.outvars]


def _equation(eqn: core.JaxprEqn, given: list[Any]) -> Sequence[Any]:
    name, params = eqn.primitive.name, eqn.params
    if name in CALLS:
        body = params[CALLS[name]]
        return _run(body.jaxpr, body.consts, given) if hasattr(body, "consts") else _run(
            body, (), given)  # fmt: skip
    if name == "scan" and params["length"] <= LONGEST:
        return _scan(params, given)
    if name == "platform_index":
        chosen = [i for i, p in enumerate(params["platforms"]) if p is None or "cpu" in p]
        return [np.int32(chosen[0])]
    if name == "cond" and _known(given[0]):
        branches = params["branches"]
        body = branches[int(np.clip(given[0], 0, len(branches) - 1))]
        return _run(body.jaxpr, body.consts, given[1:])
    if name == "dynamic_slice" and all(map(_known, given[1:])) and not _known(given[0]):
        shape, sizes = given[0].shape, params["slice_sizes"]
        start = [
            min(max(int(i), 0), n - s) for i, n, s in zip(given[1:], shape, sizes, strict=False)
        ]
        return [lax.slice(given[0], start, [i + s for i, s in zip(start, sizes, strict=False)])]
    if name == "dynamic_update_slice" and all(map(_known, given[2:])) and not _known(given[0]):
        return [_written(given[0], given[1], [int(i) for i in given[2:]])]
    bind = lambda: eqn.primitive.bind(*given, **params)
    if all(map(_known, given)) and not eqn.effects:
        if name in _NUMPY:
            return [np.asarray(_NUMPY[name](params, *map(np.asarray, given)))]
        with jax.ensure_compile_time_eval():
            out = bind()
    else:
        out = bind()
    return out if eqn.primitive.multiple_results else [out]


def _scan(params: Params, given: list[Any]) -> list[Any]:
    consts, carries = params["num_consts"], params["num_carry"]
    body, length = params["jaxpr"], params["length"]
    fixed, carry, sequences = (
        given[:consts],
        given[consts : consts + carries],
        given[consts + carries :],
    )
    turns = range(length - 1, -1, -1) if params["reverse"] else range(length)
    answers: list[Any] = [None] * length
    for i in turns:
        out = _run(body.jaxpr, body.consts, [*fixed, *carry, *(_at(s, i) for s in sequences)])
        carry, answers[i] = out[:carries], out[carries:]
    return [*carry, *(_stacked(column) for column in zip(*answers, strict=True))]


def _at(a: Any, i: int) -> Any:
    return np.asarray(a)[i] if _known(a) else lax.index_in_dim(a, i, keepdims=False)


def _stacked(column: Sequence[Any]) -> Any:
    if all(map(_known, column)):
        return np.stack([np.asarray(a) for a in column])
    if len(column) == 1:
        return lax.expand_dims(column[0], (0,))
    return lax.concatenate([lax.expand_dims(a, (0,)) for a in column], 0)


def _written(a: Any, part: Any, start: list[int]) -> Any:
    """``a`` with ``part`` at ``start``, as a joining of slices: no scatter."""
    start = [min(max(i, 0), n - s) for i, n, s in zip(start, a.shape, part.shape, strict=False)]
    axes = [k for k, (n, s) in enumerate(zip(a.shape, part.shape, strict=False)) if n != s]
    if not axes:
        return part
    if len(axes) > 1:
        at = [np.int32(i) for i in start]
        return lax.dynamic_update_slice_p.bind(a, part, *at)
    axis = axes[0]
    end = start[axis] + part.shape[axis]
    parts = [
        lax.slice_in_dim(a, 0, start[axis], axis=axis),
        part,
        lax.slice_in_dim(a, end, a.shape[axis], axis=axis),
    ]
    return lax.concatenate([p for p in parts if p.shape[axis]], axis)


def _pruned(closed: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """Without equations that nobody reads."""
    jaxpr = closed.jaxpr
    read = {v for v in jaxpr.outvars if not isinstance(v, core.Literal)}
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(v in read for v in eqn.outvars):
            kept.append(eqn)
            read.update(v for v in eqn.invars if not isinstance(v, core.Literal))
    pairs = [(v, c) for v, c in zip(jaxpr.constvars, closed.consts, strict=True) if v in read]
    jaxpr = jaxpr.replace(eqns=kept[::-1], constvars=[v for v, _ in pairs])
    return core.ClosedJaxpr(jaxpr, [c for _, c in pairs])
