"""gated_delta: every backend against the reference, the reference against strangers.

transformers' Qwen3-Next forms are compared in ``tests/layers/test_gated_delta.py``.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from streamzoo.layers.gated_delta import GatedDelta
from streamzoo.layers.kernels.dispatch import KernelError
from streamzoo.layers.kernels.gated_delta import gated_delta, gated_delta_recurrent
from streamzoo.layers.kernels.gated_delta import pallas_generic as generic
from streamzoo.layers.kernels.gated_delta import pallas_tpu as lanes
from streamzoo.layers.kernels.gated_delta.reference import unit_lower_inverse
from streamzoo.layers.stacked import Layer

from ..compare import close
from . import gated_delta_cases as cases

DATA = Path(__file__).parents[1] / "data"
NAMES = ("q", "k", "v", "g", "beta", "state")


@functools.cache
def compiled(implementation, chunk=64, blocks=None):
    options = {"chunk": chunk, "blocks": dict(blocks) if blocks else None}
    return jax.jit(
        lambda *x: gated_delta(*x[:6], reset=x[6], implementation=implementation, **options)
    )


def run(implementation, arrays, chunk=64, blocks=None):
    return compiled(implementation, chunk, tuple(blocks.items()) if blocks else None)(*arrays)


def loop(q, k, v, g, beta, state, reset):
    """The definition in float64."""
    q, k, v, g, beta, state = (np.asarray(x, np.float64) for x in (q, k, v, g, beta, state))
    q, k = (np.repeat(x, v.shape[2] // x.shape[2], axis=2) for x in (q, k))
    outputs = []
    for t in range(q.shape[1]):
        forget = np.asarray(reset)[:, t, None, None, None]
        state = np.where(forget, 0.0, np.exp(g[:, t])[..., None, None] * state)
        read = np.einsum("bhkv,bhk->bhv", state, k[:, t])
        update = beta[:, t, :, None] * (v[:, t] - read)
        state = state + k[:, t, :, :, None] * update[..., None, :]
        outputs.append(np.einsum("bhkv,bhk->bhv", state, q[:, t]) * q.shape[-1] ** -0.5)
    return np.stack(outputs, axis=1), state


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("seed", range(15))
def test_kernels_and_reference_equal_the_float64_loop(seed, dtype):
    # bf16 inputs are converted once, exactly, so that only the rounding of o (2 ** -9) is added.
    arrays, options = cases.random_case(seed, dtype)
    want = loop(*arrays)
    for implementation in ("reference", "interpret"):
        if implementation == "reference":
            options = {**options, "blocks": None}
        else:
            options = cases.random_case(seed)[1]
        o, state = run(implementation, arrays, **options)
        assert o.dtype == dtype and state.dtype == jnp.float32
        close(f"{implementation} o", o, want[0], 1e-5 if dtype == jnp.float32 else 4e-3)
        close(f"{implementation} state", state, want[1], 1e-5)


@pytest.mark.parametrize(
    "implementation,steps,heads",
    [("reference", 1, 2), ("reference", 21, 1), ("interpret", 1, 1), ("interpret", 21, 2)],
)
@pytest.mark.slow
def test_gradients_equal_autodiff_of_the_recurrence(implementation, steps, heads):
    arrays = cases.arrays_of(0, 2, steps, 2, heads, 8, 8)
    rng = np.random.default_rng(1)
    reset, weight = rng.uniform(size=(2, steps)) < 0.2, rng.normal(size=arrays[2].shape)

    def gradient(op):
        def loss(*x):
            o, state = op(*x, reset=reset)
            return (o * weight).sum() + (state**3).sum()

        return jax.jit(jax.grad(loss, range(6)))(*arrays)

    want = gradient(gated_delta_recurrent)
    got = gradient(functools.partial(gated_delta, implementation=implementation, chunk=8))
    for name, x, y in zip(NAMES, got, want, strict=False):
        close(f"gradient of {name}", x, y, 1e-5)


def test_the_inverse_is_exact_for_the_hardest_system():
    lower = jnp.tril(jnp.full((64, 64), 2.0), -1)  # one key, written over twice by every frame
    product = np.asarray(unit_lower_inverse(lower), np.float64) @ (np.eye(64) + lower)
    assert np.abs(product - np.eye(64)).max() == 0


def test_fla_recurrent_gives_the_same():
    """Golden of fla-core 0.6.0 (MIT), ``fla.ops.gated_delta_rule.naive``, torch 2.13 on a CPU.

    ``<seed>/o`` and ``<seed>/state`` are what ``naive_recurrent_gated_delta_rule`` returns in fp32
    for ``arrays_of(seed, *shape)`` with ``<seed>/shape`` (B, T, H, dk, dv), the initial state given
    and the scale left to its default.
    """
    golden = np.load(DATA / "fla_gated_delta.npz")
    for seed in range(3):
        B, T, H, dk, dv = golden[f"{seed}/shape"]
        arrays = (*cases.arrays_of(seed, B, T, H, H, dk, dv), np.zeros((B, T), bool))
        for implementation in ("reference", "interpret")[: 1 + (T < 100)]:
            o, state = run(implementation, arrays)
            close(f"{implementation} o", o, golden[f"{seed}/o"], 2e-6)
            close(f"{implementation} state", state, golden[f"{seed}/state"], 2e-6)


@pytest.mark.slow
def test_it_works_under_vmap_scan_and_shard_map():
    arrays, _ = cases.random_case(2)
    want = run("reference", arrays)
    op = compiled("interpret", 16)
    o, _ = jax.jit(jax.vmap(op))(*(jnp.stack([x, x]) for x in arrays))
    close("vmap", o[1], want[0], 1e-5)

    def frame(state, x):
        *x, reset = (z[:, None] for z in x)
        o, state = op(*x, state, reset)
        return state, o[:, 0]

    *x, state, reset = arrays
    frames = tuple(z.swapaxes(0, 1) for z in (*x, reset))
    last, o = jax.jit(lambda s, f: jax.lax.scan(frame, s, f))(state, frames)
    close("scan", o.swapaxes(0, 1), want[0], 1e-5)
    close("scan state", last, want[1], 1e-5)
    spec = PartitionSpec("data")
    mapped = jax.shard_map(
        op, mesh=Mesh(jax.devices()[:1], ("data",)), in_specs=spec, out_specs=spec, check_vma=False
    )
    close("shard_map", jax.jit(mapped)(*arrays)[0], want[0], 1e-5)


def test_the_layer_computes_the_same_with_the_kernels():
    x = jax.random.normal(jax.random.key(0), (2, 5, 3, 16))
    plain = GatedDelta(16, heads=2)
    params = jax.jit(plain.init)(jax.random.key(1), plain.init_carry(2, 3), x)
    kernels = GatedDelta(16, heads=2, implementation="interpret")
    want = jax.jit(plain.apply)(params, plain.init_carry(2, 3), x)
    for module, steps in ((kernels, 5), (kernels, 1), (plain, 1)):
        apply, carry, outputs = jax.jit(module.apply), module.init_carry(2, 3), []
        for t in range(0, 5, steps):
            carry, y = apply(params, carry, x[:, t : t + steps])
            outputs.append(y)
        close("y", jnp.concatenate(outputs, axis=1), want[1], 1e-5)
        close("state", carry.s, want[0].s, 1e-5)


def test_blocks_of_the_models_fit():
    for name, (q, _, _v, *_, state), _ in cases.zoo_shapes():
        B, H, dk, dv = state.shape
        size = 1 if q.shape[1] == 1 else generic.chunk_size(64, q.shape[1])
        rows, heads, chunks = generic.tpu_blocks(B, H, dk, dv, size, -(-q.shape[1] // size))
        wide = lambda d: -(-d // 128) * 128
        vectors = rows * chunks * size * (2 * wide(heads * dk) + 2 * wide(heads * dv))
        assert (4 * rows * heads * dk * wide(dv) + 2 * vectors) * 4 < 13 << 20, name
        assert size == 1 or heads == H or heads * dk % 128 == 0, name
    assert (
        lanes.suits(196, 64, 64) and not lanes.suits(196, 128, 128) and not lanes.suits(4, 64, 64)
    )


@pytest.mark.parametrize(
    "change,message",
    [
        ({"q": (2, 3, 4, 9)}, "q is"),
        ({"v": (2, 4, 4, 8)}, "v is"),
        ({"g": (2, 3, 1)}, "g is"),
        ({"state": (2, 4, 8, 9)}, "state is"),
        ({"reset": (2, 3)}, "reset is float"),
        ({"blocks": {"lanes": 8}}, "no block size"),
        ({"chunk": 0}, "chunk 0"),
        ({"implementation": "triton"}, "no implementation 'triton'"),
        ({"implementation": "pallas"}, "k has head width 8.*these can: reference, interpret"),
    ],
)
def test_bad_input_names_the_argument(change, message):
    shapes = {"q": (2, 3, 4, 8), "k": (2, 3, 4, 8), "v": (2, 3, 4, 8)}
    shapes |= {"g": (2, 3, 4), "beta": (2, 3, 4), "state": (2, 4, 8, 8), **change}
    arguments: dict[str, Any] = {
        n: np.ones(s) if isinstance(s, tuple) else s for n, s in shapes.items()
    }
    with pytest.raises(KernelError, match=message):
        gated_delta(**arguments)


@pytest.mark.parametrize("implementation", ["reference", "interpret"])
@pytest.mark.parametrize("dv", [8, 16])  # streams in the lanes, and not
def test_one_layer_of_a_stack_is_changed_and_no_other(implementation, dv):
    streams = 130 if dv == 8 else 3
    q, k, v, g, beta, _ = cases.arrays_of(0, streams, 1, 2, 2, 8, dv)
    stack = np.random.default_rng(1).normal(size=(1, 3, streams, 2, 8, dv)).astype(np.float32)
    arrays: Any = [jnp.asarray(x)[None] for x in (q, k, v, g, beta)]

    def of_stack(stack):
        options = dict(implementation=implementation)
        o, layer = gated_delta(*arrays, state=Layer(stack, jnp.int32(1)), **options)
        return o, layer.stack

    def of_part(stack):
        o, last = gated_delta(
            *(x[0] for x in arrays), state=stack[0, 1], implementation="reference"
        )
        return o[None], stack.at[0, 1].set(last)

    slope = lambda run: jax.grad(lambda s: sum((x**2).sum() for x in run(s)))(jnp.asarray(stack))
    for got, want in zip(of_stack(stack), of_part(jnp.asarray(stack)), strict=True):
        close("layer", got, want, 1e-5)
    close("slope", slope(of_stack), slope(of_part), 1e-5)
