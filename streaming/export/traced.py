"""The step of a model as a function of a flat list of named arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from ...layers.kernels.dispatch import portable
from ...layers.streaming import AnyArray, Carry, Fields, Params
from ...zoo.preprocess import preprocess
from ...zoo.registry import Card
from ..slim import slim
from .unroll import flat

FORMS = ("convolution",)  # backends of the operations that other runtimes run faster


class Leaf(NamedTuple):
    """A named array."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype


class Traced(NamedTuple):
    """A step's program: ``inputs`` are the carry's leaves, the frames, what else is given;
    ``outputs`` the new carry's leaves in the same order, then the answer's."""

    program: core.ClosedJaxpr
    inputs: list[Leaf]
    outputs: list[Leaf]
    answer: Any  # tree of (new carry, output)

    @property
    def states(self) -> int:
        """Leaves of the carry."""
        return sum(leaf.name.startswith("carry/") for leaf in self.inputs)


def leaves(tree: Any, prefix: str) -> list[Leaf]:
    """Names of a tree's arrays: the prefix and the path."""
    found = []
    for path, a in jax.tree_util.tree_leaves_with_path(tree):
        end = jax.tree_util.keystr(path, simple=True, separator="/")
        found.append(Leaf(f"{prefix}/{end}" if end else prefix, tuple(a.shape), np.dtype(a.dtype)))
    return found


def named(carry: Carry, frames: AnyArray, valid: AnyArray, extras: Fields) -> list[Leaf]:
    """The step's arguments by name."""
    carried = leaves(carry, "carry")
    rest = [x for name in sorted(extras) for x in leaves(extras[name], name)]
    return [*carried, *leaves(frames, "frames"), *leaves(valid, "valid"), *rest]


def shape_of(a: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(a), a.dtype)


def apply(
    model: Any,
    params: Params,
    card: Card,
    carry: Carry,
    frames: AnyArray,
    valid: AnyArray,
    extras: Fields,
) -> Any:
    """uint8 frames -> (new carry, output without what only training reads)."""
    carry, out = model.apply(params, carry, preprocess(frames, card), valid, **extras)
    return carry, slim(out)


def trace(
    model: Any,
    params: Params,
    card: Card,
    carry: Carry,
    frames: AnyArray,
    valid: AnyArray,
    extras: Fields,
) -> Traced:
    """The program of one shape, the parameters among its constants. The arguments are arrays or
    their shapes, uint8 frames [B, T, H, W, 3]."""
    args = jax.tree.map(shape_of, (carry, frames, valid, extras))

    def run(*args: Any) -> Any:
        with portable(*FORMS):
            return apply(model, params, card, *args)

    with jax.enable_x64(False):
        program, shapes = flat(run, *args)
    outputs = [*leaves(shapes[0], "carry_out"), *leaves(shapes[1], "out")]
    return Traced(program, named(*args), outputs, jax.tree.structure(shapes))
