"""A kernel on many devices: each runs it on its own streams and heads.

XLA cannot cut a kernel. The mesh that a call's arrays are placed on is known while the call is
traced, so the kernel is put into a ``shard_map`` there: mesh axes called as in :data:`HEAD_AXES`
share out the heads, all others the streams, as far as their numbers divide. Arrays that lie
otherwise are moved by the compiler, as before any operation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import batching, mlir
from jax.sharding import AbstractMesh, AxisType, get_abstract_mesh
from jax.sharding import PartitionSpec as P

HEAD_AXES = ("tensor", "model")
LETTERS = {"b": "streams", "h": "heads"}


@dataclass(frozen=True)
class Split:
    """How one call is shared out over a mesh.

    Attributes:
      mesh: what the arrays are placed on; None: nothing says so (one device, or not yet known).
      axes: ("b" streams or "h" heads, mesh axis) of what is shared out.
      whole: mesh axes along which every device computes the same, as nothing divides.
      own: the program that is traced is one device's already (``shard_map`` over all axes).
    """

    mesh: AbstractMesh | None = None
    axes: tuple[tuple[str, str], ...] = ()
    whole: tuple[str, ...] = ()
    own: bool = False

    def __str__(self) -> str:
        told = [f"{LETTERS[letter]} over {name}" for letter, name in self.axes]
        whole = [name for name in self.whole if self.mesh is not None and self.mesh.shape[name] > 1]
        return ", ".join([*told, *(f"whole on each of {name}" for name in whole)])

    def ways(self, letter: str) -> int:
        """Into how many parts the streams ("b") or heads ("h") are cut."""
        assert not self.axes or self.mesh is not None
        count = 1
        for own, name in self.axes:
            count *= self.mesh.shape[name] if own == letter and self.mesh else 1
        return count

    def run(
        self, kernel: Callable[..., Any], plain: Callable[..., Any], inputs: Any, outputs: Any
    ) -> Callable[..., Any]:
        """``kernel`` on each device's part of its arguments.

        Args:
          kernel: of arrays; what it is called with are one device's.
          plain: the same for all of the arrays, which XLA can cut; for programs that turn out to
            be for several devices without saying so.
          inputs, outputs: prefix trees of strings, a letter per axis: "b" streams, "h" heads, "."
            an axis that is never cut.
        """
        if self.own:
            return kernel
        if self.mesh is None:
            return lambda *arrays: _guarded(kernel, plain, arrays)
        names = {name for _, name in self.axes} | set(self.whole)
        spec = lambda dims: P(*(self._names(letter) for letter in dims))
        specs = [jax.tree.map(spec, dims) for dims in (inputs, outputs)]
        mesh = None if get_abstract_mesh().axis_names else self.mesh
        mapped = jax.shard_map(
            kernel, mesh=mesh, in_specs=specs[0], out_specs=specs[1], axis_names=names,
            check_vma=False,
        )  # fmt: skip
        return jax.jit(mapped)  # eager calls learn by it which devices the mesh stands for

    def _names(self, letter: str) -> tuple[str, ...] | None:
        found = tuple(name for own, name in self.axes if own == letter)
        return found or None


def mesh_of(arrays: Any) -> AbstractMesh | None:
    """The mesh that is traced under, or that some of these arrays are placed on."""
    context = get_abstract_mesh()
    if context.axis_names:
        return context
    for leaf in jax.tree.leaves(arrays):
        mesh = getattr(getattr(jax.typeof(leaf), "sharding", None), "mesh", None)
        if mesh is not None and mesh.axis_names:
            return mesh
    return None


def split_of(arrays: Any, counts: Mapping[str, int]) -> Split | str:
    """How a call is shared out.

    Args:
      arrays: its arguments, of which some say on which mesh they lie.
      counts: number of streams ("b") and of heads ("h"), or of what else can be cut apart.

    Returns:
      the split, or why there is none.
    """
    mesh = mesh_of(arrays)
    if mesh is None:
        return Split()
    free = [name for name in mesh.axis_names if name not in mesh.manual_axes]
    if not free or mesh.size == 1:
        return Split(own=True)
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if explicit := [name for name in free if types[name] == AxisType.Explicit]:
        return (
            f"mesh axis {explicit[0]!r} is Explicit, where a kernel's result has no type: make the "
            "mesh with AxisType.Auto, or call within shard_map"
        )
    axes, whole, left = [], [], dict(counts)
    for name in free:
        letter, size = "h" if name in HEAD_AXES else "b", mesh.shape[name]
        if left.get(letter, 1) % size == 0 and size > 1:
            left[letter] //= size
            axes.append((letter, name))
        else:
            whole.append(name)
    return Split(mesh, tuple(axes), tuple(whole))


# --- programs of which nothing says for how many devices they are -----------------------------


def _guarded(kernel: Callable[..., Any], plain: Callable[..., Any], arrays: tuple) -> Any:
    """The kernel where the program is lowered for one device, else the plain form."""
    leaves, tree = jax.tree.flatten(arrays)
    of_leaves = lambda run: lambda *leaves: run(*jax.tree.unflatten(tree, leaves))
    one, out = jax.make_jaxpr(of_leaves(kernel), return_shape=True)(*leaves)
    other = jax.make_jaxpr(of_leaves(plain))(*leaves)
    found = _either_p.bind(*leaves, one=one, other=other)
    return jax.tree.unflatten(jax.tree.structure(out), found)


_either_p = Primitive("one_device_or_many")
_either_p.multiple_results = True
_either_p.def_abstract_eval(lambda *avals, one, other: one.out_avals)
_either_p.def_impl(lambda *arrays, one, other: jax.jit(jaxpr_as_fun(one))(*arrays))


def _batch(arrays: Any, axes: Any, *, one: Any, other: Any) -> Any:
    def mapped(jaxpr: Any) -> Any:
        return jax.make_jaxpr(jax.vmap(jaxpr_as_fun(jaxpr), tuple(axes)))(*arrays)

    found = _either_p.bind(*arrays, one=mapped(one), other=mapped(other))
    return found, [0] * len(found)


batching.primitive_batchers[_either_p] = _batch


def _lower(context: Any, *values: Any, one: Any, other: Any) -> Any:
    where = context.module_context.axis_context
    if getattr(where, "num_devices", 1) == 1:
        chosen = one
    else:
        warnings.warn(
            f"a kernel is left out: this program is for {where.num_devices} devices, and no "
            "argument says how it lies on them: give jax.jit placed arrays, or use jax.set_mesh",
            stacklevel=2,
        )
        chosen = other
    return mlir.lower_fun(jaxpr_as_fun(chosen), multiple_results=True)(context, *values)


mlir.register_lowering(_either_p, _lower)
