"""Where the weights, the optimiser and the streams lie on a mesh of devices.

The mesh has three axes by name: ``data``, ``fsdp``, ``tensor``. Arrays are only placed; the
compiler inserts the communication, so that every mesh computes the same step.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from typing import Annotated, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ..layers.streaming import Params
from ..zoo.ranges import Checked, Range
from .optim import BLOCK, path_of

Tree = TypeVar("Tree")  # of arrays
Devices = Annotated[int, Range(1, also=(-1,), note="-1: what the others leave")]
LANES = ("data", "fsdp")  # the mesh axes that share out the lanes
# Megatron's cut: the matrices that open a layer by their outputs, those that close it by their
# inputs, so that one sum per layer remains (arXiv 1909.08053)
_OUTPUTS = re.compile(r"/(?:qkv|up)/(?:kernel|bias)$")
_INPUTS = re.compile(r"/(?:out|down)/kernel$")


class MeshError(ValueError):
    """A mesh that does not fit the devices, the processes or the batch."""


@dataclasses.dataclass(frozen=True)
class MeshConfig(Checked):
    """Devices per axis; -1 (for one of them): what the others leave.

    Attributes:
      data: copies of the weights; each takes its share of the lanes.
      fsdp: the lanes are shared out as well, and so are weights and optimiser.
      tensor: matrices of attention and MLP are cut; one process must hold the whole axis.
    """

    data: Devices = -1
    fsdp: Devices = 1
    tensor: Devices = 1


def connect(distributed: bool = False) -> None:
    """Joins the processes of a multi-host run; must come before any other use of jax.

    Done when asked, or when JAX_COORDINATOR_ADDRESS (host:port of process 0) is set. Number of
    processes and own index come from JAX_NUM_PROCESSES and JAX_PROCESS_ID, or else from what jax
    finds by itself (TPU pods on GKE, Slurm, Open MPI). Raises MeshError if that fails.
    """
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if not (distributed or address) or jax.distributed.is_initialized():
        return
    count, index = os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_PROCESS_ID")
    try:
        jax.distributed.initialize(
            address or None,
            num_processes=int(count) if count else None,
            process_id=int(index) if index else None,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise MeshError(
            f"could not join the other processes ({reason}); set JAX_COORDINATOR_ADDRESS=host:port,"
            " JAX_NUM_PROCESSES and JAX_PROCESS_ID, or leave --distributed out"
        ) from None


def make_mesh(config: MeshConfig, lanes: int, accumulate: int = 1) -> Mesh:
    """A mesh over all devices of all processes.

    Raises MeshError where it does not fit their number, or cannot share out the lanes.
    """
    devices, sizes = jax.device_count(), dataclasses.asdict(config)
    given = ", ".join(f"{name}={size}" for name, size in sizes.items())
    if any(size < 1 and size != -1 for size in sizes.values()) or (
        list(sizes.values()).count(-1) > 1
    ):
        raise MeshError(f"mesh {given}: sizes are at least 1, and -1 for at most one of them")
    known = math.prod(size for size in sizes.values() if size != -1)
    if -1 in sizes.values() and devices % known == 0:
        sizes = {name: devices // known if n == -1 else n for name, n in sizes.items()}
    elif known != devices:
        number = lambda n: f"{n} device{'s' * (n > 1)}"
        if -1 in sizes.values():
            told = f"does not divide {number(devices)}: the other sizes, {known} together, have to"
        else:
            there = "there is" if devices == 1 else "there are"
            told = f"is of {number(known)} and {there} {devices}: a size of -1 takes what is there"
        raise MeshError(f"mesh {given} {told}")
    share = sizes["data"] * sizes["fsdp"]
    if accumulate < 1 or lanes < 1 or lanes % (share * accumulate):
        parts = f" and {accumulate} micro-batches" if accumulate != 1 else ""
        least = share * max(accumulate, 1)
        near = max(1, round(lanes / least)) * least
        raise MeshError(
            f"loop.batch={lanes} cannot be shared out over data={sizes['data']} x "
            f"fsdp={sizes['fsdp']} devices{parts}; loop.batch={near} can"
        )
    if jax.local_device_count() % sizes["tensor"]:
        raise MeshError(
            f"mesh tensor={sizes['tensor']} would span processes, which hold "
            f"{jax.local_device_count()} devices each; it has to divide that"
        )
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * 3)


def spec_of(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """Where one weight lies: over ``tensor`` by its name, over ``fsdp`` by its largest other axis
    that divides. The stacked axis of blocks is never cut: a scan runs over it."""
    axes: list[str | None] = [None] * len(shape)
    first = 1 if BLOCK.search(path) and shape else 0
    size = mesh.shape["tensor"]
    cut = -1 if _OUTPUTS.search(path) else -2 if _INPUTS.search(path) else None
    if size > 1 and cut is not None and len(shape) + cut >= first and shape[cut] % size == 0:
        axes[cut] = "tensor"
    size = mesh.shape["fsdp"]
    free = [i for i in range(first, len(shape)) if axes[i] is None and shape[i] % size == 0]
    if size > 1 and free:
        axes[max(free, key=lambda i: shape[i])] = "fsdp"
    return P(*axes)


def of_weights(tree: Params, mesh: Mesh) -> Any:
    """Sharding per leaf of weights, or of a state made of weights such as an optimiser's."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, spec_of("/" + path_of(path), np.shape(leaf), mesh)),
        tree,
    )


def of_lanes(mesh: Mesh) -> NamedSharding:
    """Sharding of arrays [lanes, ...]."""
    return NamedSharding(mesh, P(LANES))


def whole(mesh: Mesh) -> NamedSharding:
    """Every device has all of it."""
    return NamedSharding(mesh, P())


def place(tree: Tree, shardings: Any) -> Tree:
    """Arrays that every process has in full, laid out as ``shardings`` says; may share memory."""
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def one(leaf: np.ndarray | jax.Array, sharding: NamedSharding) -> jax.Array:
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(one, tree, shardings)


def copied(tree: Tree) -> Tree:
    """The same arrays in memory of their own, so that they can be donated."""
    where = jax.tree.map(lambda a: a.sharding, tree)
    return jax.jit(lambda t: jax.tree.map(jnp.copy, t), out_shardings=where)(tree)


def place_batch(batch: Tree, mesh: Mesh) -> Tree:
    """A batch of this process's lanes as part of the batch of all processes."""
    sharding = of_lanes(mesh)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return jax.tree.map(
        lambda a: jax.make_array_from_process_local_data(sharding, np.asarray(a)), batch
    )


def gather(tree: Tree, mesh: Mesh) -> Tree:
    """Every array in full on one device of this process."""
    if mesh.size > 1:
        tree = jax.jit(lambda t: t, out_shardings=whole(mesh))(tree)
    return jax.tree.map(lambda a: a.addressable_data(0), tree)
