"""Chips that need not be here: lowering for them, and compiling where their compiler is installed.

libtpu is a compiler without a TPU; the CUDA plugin needs no card either. Both are optional: their
tests skip with a reason where the package is absent.
"""

import functools
import os
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export
from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, Mesh, NamedSharding, PartitionSpec

from streamzoo.layers.kernels.dispatch import GPU_PALLAS

# What libtpu otherwise asks a metadata server for.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip is opened: nothing to lock
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")

# name -> platform, topology, device kind
TARGETS = {
    "v5e": ("tpu", "v5e:2x2", "TPU v5 lite"),
    "v5p": ("tpu", "v5p:2x2x1", "TPU v5"),
    "v6e": ("tpu", "v6e:2x2", "TPU v6 lite"),
    "7x": ("tpu", "tpu7x:2x2x1", "TPU7x"),
    "h200": ("cuda", "h200", "NVIDIA H200"),
}
# Custom calls that jax.export would otherwise refuse: their format may change between versions.
UNSTABLE = [
    export.DisabledSafetyCheck.custom_call(name)
    for name in ("__gpu$xla.gpu.triton", "mosaic_gpu_v2")
]


def pretend(target: str):
    """A context in which kernels are traced for a chip of this kind."""
    platform, _, kind = TARGETS[target]
    device = AbstractDevice(kind, 1, platform)
    mesh = AbstractMesh((), (), abstract_device=device)
    from jax.sharding import use_abstract_mesh

    return use_abstract_mesh(mesh)


@functools.cache
def topology(target: str):
    """The chips of a target; skips the test where its compiler is absent."""
    platform, name, _ = TARGETS[target]
    if platform == "tpu":
        pytest.importorskip("libtpu", reason="libtpu compiles for TPU: pip install 'jax[tpu]'")
        return topologies.get_topology_desc(platform="tpu", topology_name=name)
    if not GPU_PALLAS:
        pytest.skip("Pallas kernels for GPUs want jax >= 0.11, which wants Python 3.12")
    pytest.importorskip("jax_cuda13_plugin", reason="the CUDA plugin is not installed")
    card = (Path(__file__).parent / "h200.txtpb").read_text()
    return topologies.get_topology_desc(
        platform="cuda", topology_name=name, topology="1x1x1", target_config=card
    )


def lowered(target: str, run, arrays) -> str:
    """StableHLO of ``run(*arrays)`` exported for the platform of ``target``."""
    platform = TARGETS[target][0]
    with pretend(target):
        exported = export.export(jax.jit(run), platforms=[platform], disabled_checks=UNSTABLE)
        return exported(*arrays).mlir_module()


def compiled(target: str, run, arrays, donate=()):
    """``run(*arrays)`` compiled for one chip of ``target``."""
    mesh = Mesh(np.array(topology(target).devices[:1]), ("x",))
    there = NamedSharding(mesh, PartitionSpec())
    place = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=there)
    with pretend(target):
        placed = jax.tree.map(place, arrays)
        return jax.jit(run, donate_argnums=donate).lower(*placed).compile()


CALLS = ("tpu_custom_call", "__gpu$xla.gpu.triton", "mosaic_gpu")


def holds_kernel(text: str, op: str) -> bool:
    """Whether a program, StableHLO or compiled, calls a kernel that bears this operation's name.

    A custom call alone proves nothing: XLA brings Triton kernels and TPU calls of its own.
    """
    name = re.compile(rf"(?<!\w){op}(_[a-z]+)*(?!\w)")
    calls = (line for line in text.splitlines() if any(call in line for call in CALLS))
    encoded = re.compile(r"[\w+/=\\]{100,}")  # the kernel's body
    return any(name.search(encoded.sub("", line)) for line in calls)


def copies(text: str, elements: int) -> list[str]:
    """Lines of compiled HLO that copy an array of at least that many elements."""
    found = []
    for line in text.splitlines():
        match = re.search(r"= \w+\[([\d,]+)\]\S* copy\(", line)
        if match and np.prod([int(n) for n in match[1].split(",")]) >= elements:
            found.append(line.strip()[:200])
    return found


def size(tree) -> int:
    """Bytes of all arrays of a pytree."""
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(tree))
