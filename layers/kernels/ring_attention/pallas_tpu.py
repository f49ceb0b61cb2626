"""Ring attention on TPU: slots in blocks along a sequential grid axis.

Any window fits, because only one block of slots is in VMEM while the next one is fetched; the
online softmax lives in scratch between them. The step itself is that of ``pallas_generic``.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ...streaming import DType
from .pallas_generic import Operands, Plan, finish, specs, start_state, walk

Array = jax.Array


def _kernel(_: Any, *refs: Any, plan: Plan, dtype: DType, inputs: int) -> None:
    operands = Operands(*refs[:inputs], *([None] * (8 - inputs)))
    out, scratch = refs[inputs], refs[inputs + 1 :]
    block = pl.program_id(4)
    empty = start_state(plan)
    tree = jax.tree.structure(empty)

    @pl.when(block == 0)
    def _():
        for ref, value in zip(scratch, jax.tree.leaves(empty), strict=True):
            ref[...] = value

    state = jax.tree.unflatten(tree, [ref[...] for ref in scratch])
    state = walk(operands, state, block * plan.slots, plan, dtype)
    for ref, value in zip(scratch, jax.tree.leaves(state), strict=True):
        ref[...] = value

    @pl.when(block == pl.num_programs(4) - 1)
    def _():
        finish(state, out, plan)


def call(
    plan: Plan, operands: Operands, dtype: DType, layer: Array | None = None, **params: Any
) -> Array:
    """Blocks of slots one after the other; with ``layer`` those of one layer of a stack, fetched
    from where they lie."""
    grid, in_specs, arrays, out = specs(plan, operands, slot_axis=True, stack=layer is not None)
    state = jax.eval_shape(lambda: start_state(plan))
    if not params:
        axes = ("parallel",) * 4 + ("arbitrary",)
        params = {"compiler_params": pltpu.CompilerParams(dimension_semantics=axes)}
    return pl.pallas_call(
        functools.partial(_kernel, plan=plan, dtype=dtype, inputs=len(arrays)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=grid,
            in_specs=in_specs,
            out_specs=out,
            scratch_shapes=[pltpu.VMEM(x.shape, jnp.float32) for x in jax.tree.leaves(state)],
        ),
        out_shape=jax.ShapeDtypeStruct(operands.q.shape, operands.q.dtype),
        name="ring_attention",
        **params,
    )(jnp.zeros(1, jnp.int32) if layer is None else layer.reshape(1), *arrays)
