"""linear_scan: every backend against the reference, the reference against strangers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from streamzoo.layers.kernels.dispatch import KernelError
from streamzoo.layers.kernels.linear_scan import linear_scan
from streamzoo.layers.kernels.linear_scan import pallas_generic as generic

from ..compare import close
from . import linear_scan_cases as cases


@functools.cache
def compiled(implementation, blocks):
    options = {"implementation": implementation, "blocks": dict(blocks) if blocks else None}
    return jax.jit(lambda a, b, h0, reset: linear_scan(a, b, h0, reset=reset, **options))


def run(implementation, arrays, blocks=None):
    return compiled(implementation, tuple(blocks.items()) if blocks else None)(*arrays)


def loop(a, b, h0, reset):
    """The definition in float64."""
    a, b, h = (np.asarray(x, np.float64) for x in (a, b, h0))
    states = []
    for t in range(a.shape[1]):
        forget = np.asarray(reset)[:, t].reshape(-1, *[1] * (h.ndim - 1)) | (a[:, t] == 0)
        h = np.where(forget, 0.0, a[:, t] * h) + b[:, t]
        states.append(h)
    return np.stack(states, axis=1), h


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("seed", range(12))
def test_kernel_and_reference_equal_the_float64_loop(seed, dtype):
    # bf16 inputs are converted once, exactly: the recurrence itself is fp32 there too.
    arrays, options = cases.random_case(seed, dtype)
    want = loop(*arrays)
    for implementation in ("reference", "interpret"):
        got = run(implementation, arrays, **(options if implementation == "interpret" else {}))
        for name, x, y in zip(("h", "last"), got, want, strict=False):
            assert x.dtype == jnp.float32
            close(f"{implementation} {name}", x, y, 1e-5)


@pytest.mark.parametrize("shape", [(2, 1, 24), (2, 21, 5, 8), (1, 40, 24)])
@pytest.mark.parametrize("implementation", ["reference", "interpret"])
def test_gradients_equal_autodiff_of_the_loop(shape, implementation):
    rng = np.random.default_rng(0)
    a, b = rng.uniform(-1, 1, shape), rng.normal(size=shape)
    h0, weight = rng.normal(size=(shape[0], *shape[2:])), rng.normal(size=shape)
    reset = rng.uniform(size=shape[:2]) < 0.2
    blocks = {"frames": 8, "rows": 2, "channels": 8} if implementation == "interpret" else None

    def plain(a, b, h, reset):
        def step(h, x):
            forget = x[2].reshape(-1, *[1] * (h.ndim - 1))
            h = jnp.where(forget, 0.0, x[0] * h) + x[1]
            return h, h

        last, h = jax.lax.scan(step, h, tuple(x.swapaxes(0, 1) for x in (a, b, reset)))
        return h.swapaxes(0, 1), last

    def gradient(op):
        def loss(a, b, h0):
            h, last = op(a, b, h0, reset)
            return (h * weight).sum() + (last**3).sum()

        return jax.jit(jax.grad(loss, (0, 1, 2)))(*(jnp.float32(x) for x in (a, b, h0)))

    want = gradient(plain)
    got = gradient(lambda *x: run(implementation, x, blocks))
    for name, x, y in zip(("a", "b", "h0"), got, want, strict=False):
        close(f"gradient of {name}", x, y, 1e-5)


def test_the_gradient_keeps_only_the_inputs_and_the_states():
    a = jnp.ones((2, 64, 16))
    _, pullback = jax.vjp(lambda *x: linear_scan(*x), a, a, a[:, 0])
    kept = sum(x.size for x in jax.tree.leaves(pullback))
    assert kept <= 2.2 * a.size, kept  # a and h


def test_recurrentgemma_reads_the_same_states():
    torch = pytest.importorskip("torch")
    gemma = pytest.importorskip("transformers.models.recurrent_gemma.modeling_recurrent_gemma")
    rng = np.random.default_rng(1)
    a, x = rng.uniform(0.5, 1, (2, 19, 8)), rng.normal(size=(2, 19, 8))
    h0, reset = rng.normal(size=(2, 8)), rng.uniform(size=(2, 19)) < 0.2
    t = lambda x: torch.tensor(np.float32(x))
    want, last = gemma.RecurrentGemmaRglru._rnn_scan(
        None, t(x), t(a), torch.tensor(reset)[..., None], recurrent_states=t(h0)
    )
    for implementation in ("reference", "interpret"):
        h, got = run(implementation, [jnp.float32(v) for v in (a, x, h0)] + [reset])
        close("h", h, want.numpy(), 1e-6)
        close("last", got, last.numpy(), 1e-6)


@pytest.mark.slow
def test_it_works_under_vmap_scan_and_shard_map():
    arrays, _ = cases.random_case(3)
    a, b, h0, reset = arrays
    want = run("reference", arrays)
    op = compiled("interpret", None)
    stacked = jax.jit(jax.vmap(op))(*(jnp.stack([x, x]) for x in arrays))
    close("vmap", stacked[0][1], want[0], 1e-6)

    def frame(h, x):
        y, h = op(*(z[:, None] for z in x[:2]), h, x[2][:, None])
        return h, y[:, 0]

    last, h = jax.jit(lambda h, xs: jax.lax.scan(frame, h, xs))(
        h0, tuple(x.swapaxes(0, 1) for x in (a, b, reset))
    )
    close("scan", h.swapaxes(0, 1), want[0], 1e-6)
    close("scan last", last, want[1], 1e-6)
    spec = PartitionSpec("data")
    mapped = jax.shard_map(
        op, mesh=Mesh(jax.devices()[:1], ("data",)), in_specs=spec, out_specs=spec, check_vma=False
    )
    close("shard_map", jax.jit(mapped)(*arrays)[0], want[0], 1e-6)


def test_blocks_of_the_models_fit():
    for name, (a, _b, _h0), _ in cases.zoo_shapes():
        rows = a.shape[2] if a.ndim == 4 else None
        block = generic.tpu_blocks(a.shape[1], rows, a.shape[-1])
        assert np.prod(block) * 24 < 10 << 20, (name, block)
        frames, high, wide = generic.gpu_blocks(a.shape[1], rows, a.shape[-1])
        assert frames == a.shape[1] and (rows or 1) % high == 0 and a.shape[-1] % wide == 0


@pytest.mark.parametrize(
    "change,message",
    [
        ({"b": np.ones((2, 3, 5))}, "b has shape"),
        ({"h0": np.ones((2, 5))}, "h0 has shape"),
        ({"reset": np.ones((2, 4))}, "reset is"),
        ({"blocks": {"lanes": 8}}, "no block size"),
        ({"implementation": "palas"}, "did you mean 'pallas'"),
        ({"implementation": "pallas"}, "4 channels.*these can: reference, interpret"),
        ({"a": np.ones((2, 0, 4)), "b": np.ones((2, 0, 4))}, "a has shape"),
    ],
)
def test_bad_input_names_the_argument(change, message):
    arguments = {"a": np.ones((2, 3, 4)), "b": np.ones((2, 3, 4)), "h0": np.ones((2, 4)), **change}
    with pytest.raises(KernelError, match=message):
        linear_scan(**arguments)
