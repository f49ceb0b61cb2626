"""A step as StableHLO for CPUs, NVIDIA GPUs and TPUs in one file; parameters are arguments."""

from __future__ import annotations

from typing import Any

import jax
from jax import export

from ...layers.kernels.dispatch import portable
from ...layers.streaming import AnyArray, Carry, Fields, Params
from ...zoo.registry import Card
from ..precision import RuntimeRefused
from .traced import Leaf, apply, leaves, named, shape_of

PLATFORMS = ("cpu", "cuda", "tpu")


def lower(
    model: Any,
    params: Params,
    card: Card,
    args: tuple[Carry, AnyArray, AnyArray, Fields],
    *,
    dynamic: bool,
) -> tuple[export.Exported, list[Leaf], list[Leaf], list[Leaf]]:
    """(program, its parameters, its other arguments, its results): a function of a list of arrays.

    Args:
      args: (carry, frames, valid, extras), arrays or their shapes, batch 1 if ``dynamic``.
      dynamic: the batch is a symbol, any number of streams.

    Raises:
      RuntimeRefused: ``dynamic``, of a model whose program depends on the number.
    """
    args = jax.tree.map(shape_of, args)
    shapes = jax.tree.map(shape_of, params)
    told = jax.eval_shape(lambda *a: apply(model, a[0], card, *a[1:]), shapes, *args)
    if dynamic:
        (symbol,) = export.symbolic_shape("streams")
        args = jax.tree.map(lambda a: jax.ShapeDtypeStruct((symbol, *a.shape[1:]), a.dtype), args)
    flat, tree = jax.tree.flatten((shapes, *args))

    def run(arrays: list[Any]) -> list[Any]:
        params, *rest = jax.tree.unflatten(tree, arrays)
        with portable():
            return jax.tree.leaves(apply(model, params, card, *rest))

    try:
        program = export.export(jax.jit(run), platforms=PLATFORMS)(flat)
    except jax.errors.InconclusiveDimensionOperation:
        raise RuntimeRefused(
            f"--batch dynamic: the program of {card.name} depends on the number of streams (how"
            " much memory it reads at a time does); give a number"
        ) from None
    results = [*leaves(told[0], "carry_out"), *leaves(told[1], "out")]
    return program, leaves(shapes, "weights"), named(*args), results
