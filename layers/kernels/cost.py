"""What one platform runs of a traced call: its kernels, their blocks and fast memory, bytes, FLOPs.

Read from the traced program, so that nothing is told that is not there. FLOPs are those of matrix
products and of elementwise operations on floats; a loop whose length is not static counts once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np


@dataclass(frozen=True)
class Kernel:
    """One Pallas call.

    Attributes:
      name: as it stands in the lowered program.
      grid: programs along each axis.
      blocks: shape and dtype of each operand's block, then of each result's.
      fast_memory: bytes of all blocks, each twice as the next one is fetched meanwhile, and scratch
        (VMEM of a TPU; on a GPU blocks are read into registers and shared memory as they are used).
    """

    name: str
    grid: tuple[int, ...]
    blocks: tuple[str, ...]
    fast_memory: int

    def __str__(self) -> str:
        grid = " x ".join(map(str, self.grid)) or "1"
        blocks = ", ".join(self.blocks)
        return f"kernel {self.name}, grid {grid}, {_size(self.fast_memory)} for blocks {blocks}"


@dataclass(frozen=True)
class Cost:
    """Of one call: its kernels, bytes of main memory at least moved, FLOPs. A kernel's are those
    of one device; what XLA shares out is counted whole."""

    kernels: tuple[Kernel, ...]
    moved: int
    flops: int

    def __str__(self) -> str:
        told = [
            *map(str, self.kernels),
            f"{_size(self.moved)} moved",
            f"{self.flops / 1e9:.3g} GFLOP",
        ]
        return ", ".join(told)


def cost_of(program: Any, platform: str) -> Cost:
    """The cost of a traced program (``jax.make_jaxpr``) where it is lowered for ``platform``."""
    calls = [eqn for eqn in _equations(program.jaxpr, platform) if _is_kernel(eqn)]
    if calls:
        moved = sum(map(_moved, calls))
    else:
        jaxpr = program.jaxpr
        moved = sum(_read(jaxpr, v) for v in jaxpr.invars)
        moved += sum(_written(jaxpr, v) for v in jaxpr.outvars)
    return Cost(tuple(map(_kernel, calls)), moved, _flops(program.jaxpr, platform))


def _size(count: int) -> str:
    return f"{count / 1e6:.3g} MB" if count >= 1e5 else f"{count / 1e3:.3g} kB"


def _is_kernel(eqn: Any) -> bool:
    return eqn.primitive.name == "pallas_call"


def _kernel(eqn: Any) -> Kernel:
    mapping = eqn.params["grid_mapping"]
    blocks = [block.block_aval for block in mapping.block_mappings]
    shapes = tuple(f"{b.dtype}{_own_axes(b.shape)}" for b in blocks)
    fast = 2 * _bytes(blocks) + _bytes(mapping.scratch_avals)
    return Kernel(eqn.params["name"], tuple(mapping.grid), shapes, fast)


def _own_axes(shape: tuple) -> list[int]:
    return [n for n in shape if isinstance(n, int)]  # squeezed axes are no numbers


def _bytes(avals: Any) -> int:
    sizes = ((a.shape, np.dtype(a.dtype)) for a in avals if hasattr(a, "shape"))
    return sum(math.prod(_own_axes(shape)) * dtype.itemsize for shape, dtype in sizes)


def _moved(eqn: Any) -> int:
    told = eqn.params["cost_estimate"]
    if told is not None:
        return int(told.bytes_accessed)
    grid, total = eqn.params["grid_mapping"].grid, 0
    for block in eqn.params["grid_mapping"].block_mappings:
        used = _reached(block.index_map_jaxpr.jaxpr)
        blocks = math.prod(n for n, here in zip(grid, used, strict=False) if here)
        total += blocks * _bytes([block.block_aval])
    return total


def _reached(jaxpr: Any) -> list[bool]:
    """Which arguments of an index map its results depend on."""
    wanted = {v for v in jaxpr.outvars if not hasattr(v, "val")}
    for eqn in reversed(jaxpr.eqns):
        if wanted & set(eqn.outvars):
            wanted |= {v for v in eqn.invars if not hasattr(v, "val")}
    return [v in wanted for v in jaxpr.invars]


def _one_inner(eqn: Any) -> Any:
    inner = eqn.params.get("jaxpr") if eqn.primitive.name in ("jit", "pjit") else None
    return None if inner is None else inner.jaxpr


def _read(jaxpr: Any, var: Any) -> int:
    """Bytes read of an argument: of one layer, where that is sliced out of a stack."""
    total, whole = 0, _bytes([var.aval])
    for eqn in jaxpr.eqns:
        for i, v in enumerate(eqn.invars):
            if v is not var:
                continue
            if (inner := _one_inner(eqn)) is not None:
                total += _read(inner, inner.invars[i])
            elif i == 0 and eqn.primitive.name in ("dynamic_slice", "gather"):
                total += _bytes([eqn.outvars[0].aval])
            elif i or eqn.primitive.name not in ("dynamic_update_slice", "scatter"):
                return whole
    return min(total, whole)


def _written(jaxpr: Any, var: Any) -> int:
    """Bytes written of a result: of one layer, where that is put into a stack."""
    for eqn in jaxpr.eqns:
        if var not in eqn.outvars:
            continue
        if (inner := _one_inner(eqn)) is not None:
            return _written(inner, inner.outvars[eqn.outvars.index(var)])
        if eqn.primitive.name == "dynamic_update_slice":
            return _bytes([eqn.invars[1].aval])
    return _bytes([var.aval])


def _inner(eqn: Any, platforms: dict[Any, tuple], platform: str) -> Iterator[tuple[Any, int]]:
    """Programs within an operation that ``platform`` runs, and how often."""
    name, params = eqn.primitive.name, eqn.params
    if name == "cond":
        if (known := platforms.get(eqn.invars[0])) is None:
            yield from ((branch.jaxpr, 1) for branch in params["branches"])
            return
        own = next(i for i, names in enumerate(known) if names is None or platform in names)
        yield params["branches"][own].jaxpr, 1
    elif name == "one_device_or_many":
        yield params["one"].jaxpr, 1
    elif name == "pallas_call":
        yield (
            params["jaxpr"],
            math.prod(n for n in params["grid_mapping"].grid if isinstance(n, int)),
        )
    else:
        times = params.get("length", 1) if name == "scan" else 1
        for value in params.values():
            for one in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(one, "jaxpr", one)
                if hasattr(inner, "eqns"):
                    yield inner, times


def _platforms(jaxpr: Any) -> dict[Any, tuple]:
    """Numbers that say which platform is lowered for -> the platforms they count."""
    found = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "platform_index"]
    return {eqn.outvars[0]: eqn.params["platforms"] for eqn in found}


def _equations(jaxpr: Any, platform: str) -> Iterator[Any]:
    platforms = _platforms(jaxpr)
    for eqn in jaxpr.eqns:
        yield eqn
        if not _is_kernel(eqn):
            for inner, _ in _inner(eqn, platforms, platform):
                yield from _equations(inner, platform)


def _flops(jaxpr: Any, platform: str) -> int:
    platforms, total = _platforms(jaxpr), 0
    for eqn in jaxpr.eqns:
        inner = [times * _flops(one, platform) for one, times in _inner(eqn, platforms, platform)]
        if inner:
            total += max(inner) if eqn.primitive.name == "cond" else sum(inner)
        else:
            total += _own_flops(eqn)
    return total


def _own_flops(eqn: Any) -> int:
    result: Any = eqn.outvars[0].aval if eqn.outvars else None
    if not hasattr(result, "dtype") or not jax.numpy.issubdtype(result.dtype, np.floating):
        return 0
    name = eqn.primitive.name
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        left = eqn.invars[0].aval.shape
        return 2 * math.prod(result.shape) * math.prod(left[i] for i in contracted)
    if name.startswith("reduce") or name.startswith("cum"):
        return math.prod(eqn.invars[0].aval.shape)
    return math.prod(result.shape) if name in _ELEMENTWISE else 0


_ELEMENTWISE = frozenset(
    "add add_any sub mul div neg exp exp2 log log1p expm1 sin cos tanh logistic rsqrt sqrt erf "
    "max min pow integer_pow abs".split()
)
