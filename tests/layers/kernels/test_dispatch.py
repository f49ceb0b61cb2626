"""The dispatcher: which implementation is lowered where, and what is said when none can be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from streamzoo.layers.kernels import explain
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


# A backend that XLA could not split: it says how many streams it has, and runs by what it is given.
SPLIT = Op(
    "cut",
    Backend("reference", lambda a, b: a + b),
    Backend(
        "pallas",
        lambda a, b, split: split.run(lambda a, b: a - b, jnp.add, ("b.", "b."), "b.")(a, b),
        automatic=("tpu",),
        parts=lambda a, b: {"b": a.shape[0]},
    ),
)


def holds_the_kernel(run, a, b):
    text = export.export(jax.jit(run), platforms=["tpu"])(a, b).mlir_module()
    return "stablehlo.subtract" in text


def on(mesh, *spec):
    place = NamedSharding(mesh, P(*spec))
    return [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for x in (A, B)]


def test_placed_arrays_put_a_kernel_into_a_shard_map():
    mesh = AbstractMesh((2, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    choices = explain(SPLIT, *on(mesh, "data"))
    assert str(choices["tpu"].split) == "streams over data, whole on each of tensor"
    text = export.export(jax.jit(SPLIT), platforms=["tpu"])(*on(mesh, "data")).mlir_module()
    body = text[text.index("manual_computation") :]
    assert "stablehlo.subtract" in body and "tensor<1x4xf32>" in body


def test_streams_that_do_not_divide_stay_whole():
    said = explain(SPLIT, *on(AbstractMesh((4,), ("data",), axis_types=(AxisType.Auto,))))["tpu"]
    assert said.implementation == "pallas" and str(said.split) == "whole on each of data"


def test_an_explicit_mesh_is_refused_and_named():
    mesh = AbstractMesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    said = explain(SPLIT, *on(mesh, "data"))["tpu"]
    assert said.implementation == "reference" and "Explicit" in said.refused["pallas"]
    with pytest.raises(KernelError, match="cut: implementation 'pallas' cannot run: mesh axis"):
        SPLIT(*on(mesh, "data"), implementation="pallas")


def test_within_shard_map_it_is_one_devices_already():
    mesh = AbstractMesh((2,), ("data",), axis_types=(AxisType.Auto,))
    run = jax.shard_map(SPLIT, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    assert holds_the_kernel(run, *on(mesh, "data"))


def test_a_program_that_never_says_so_is_told_that_its_kernel_is_left_out():
    """jax.jit(in_shardings=) of numpy arrays: the mesh is known when the trace is over."""
    assert holds_the_kernel(SPLIT, A, B)  # and one device keeps it, on a host of many, too
    place = NamedSharding(AbstractMesh((2,), ("data",), axis_types=(AxisType.Auto,)), P("data"))
    run = jax.jit(lambda a, b: SPLIT(a, b), in_shardings=(place, place))
    with pytest.warns(UserWarning, match="a kernel is left out: this program is for 2 devices"):
        text = export.export(run, platforms=["tpu"])(np.asarray(A), np.asarray(B)).mlir_module()
    assert "stablehlo.subtract" not in text


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
