"""The dispatcher: which implementation is lowered where, and what is said when none can be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from streamzoo.layers.kernels.dispatch import GPU_PALLAS, Backend, KernelError, Op


def odd(a, b, k=1):
    return f"a has width {a.shape[-1]}, which is odd" if a.shape[-1] % 2 else None


OP = Op(
    "mix",
    Backend("reference", lambda a, b, k=1: a + k * b),
    Backend("pallas", lambda a, b, k=1: a - k * b, ("tpu", "cuda"), ("tpu", "cuda"), odd),
)
A, B = jnp.arange(8.0).reshape(2, 4), jnp.ones((2, 4))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.vmap, lambda f: jax.jit(jax.vmap(f))])
def test_the_reference_runs_here(wrap):
    run = wrap(functools.partial(OP, k=2))
    np.testing.assert_array_equal(run(A, B), A + 2 * B)


def test_under_shard_map_and_scan():
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    sharded = jax.shard_map(OP, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    np.testing.assert_array_equal(jax.jit(sharded)(A, B), A + B)
    last, _ = jax.lax.scan(lambda c, b: (OP(c, b), None), A[0], B)
    np.testing.assert_array_equal(last, A[0] + 2)


@pytest.mark.parametrize("name", [None, "pallas"])
@pytest.mark.parametrize("platform", ["tpu", "cuda", "cpu"])
def test_the_platform_that_is_lowered_for_decides(platform, name):
    run = jax.jit(functools.partial(OP, implementation=name))
    make = lambda: export.export(run, platforms=[platform])(A, B).mlir_module()
    if platform == "cpu" and name:
        with pytest.raises(KernelError, match="mix.*'pallas' does not run on cpu.*reference"):
            make()
        return
    kernel = platform == "tpu" or platform == "cuda" and (GPU_PALLAS or name)
    assert ("stablehlo.subtract" in make()) == bool(kernel)


def test_a_program_for_two_platforms_holds_both():
    text = export.export(jax.jit(OP), platforms=["cpu", "tpu"])(A, B).mlir_module()
    assert "stablehlo.subtract" in text and "stablehlo.add" in text


def test_with_several_devices_kernels_are_for_shard_map(monkeypatch):
    """XLA cannot split a kernel: outside of shard_map such a program must not hold one."""
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    sharded = jax.shard_map(
        lambda a, b: OP(a, b), mesh=mesh, in_specs=P("data"), out_specs=P("data")
    )
    monkeypatch.setattr(jax, "device_count", lambda: 4)

    def holds_the_kernel(run):
        text = export.export(jax.jit(run), platforms=["tpu"])(A, B).mlir_module()
        return "stablehlo.subtract" in text

    assert not holds_the_kernel(lambda a, b: OP(a, b))
    assert holds_the_kernel(sharded)
    assert holds_the_kernel(lambda a, b: OP(a, b, implementation="pallas"))
    library = Op("mix", OP.reference, Backend("own", lambda a, b: a - b, automatic=("tpu",),
                                              divisible=True))  # fmt: skip
    assert holds_the_kernel(lambda a, b: library(a, b))


def test_arguments_that_no_kernel_takes_fall_back():
    text = export.export(jax.jit(OP), platforms=["tpu"])(A[:, :3], B[:, :3]).mlir_module()
    assert "stablehlo.subtract" not in text


@pytest.mark.parametrize(
    "run",
    [OP, jax.jit(OP, static_argnames="implementation"), lambda *a, **k: jax.grad(
        lambda a, b: OP(a, b, **k).sum())(*a)],
)  # fmt: skip
def test_a_named_backend_fails_loudly(run):
    with pytest.raises(KernelError, match="does not run on cpu, only on tpu, cuda"):
        run(A, B, implementation="pallas")


def test_errors_name_the_argument_and_what_would_work():
    with pytest.raises(KernelError, match=r"a has width 3, which is odd; these can: reference"):
        OP(A[:, :3], B[:, :3], implementation="pallas")
    with pytest.raises(KernelError, match="no implementation 'palas': did you mean 'pallas'"):
        OP(A, B, implementation="palas")
