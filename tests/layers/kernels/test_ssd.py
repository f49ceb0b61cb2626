"""SSD: every backend against the reference, the reference against strangers, and bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from streamzoo.layers.kernels.dispatch import KernelError
from streamzoo.layers.kernels.ssd import linear_attention, recurrent, ssd

from .ssd_cases import SHAPES, random_case, zoo_shapes

SEEDS = 48


@functools.cache
def backend(name, chunk):
    return jax.jit(functools.partial(linear_attention, implementation=name, chunk=chunk))


def worst(got, want):
    """Largest |got - want| / max(1, |want|) of outputs and state."""
    return max(
        float(np.max(np.abs(a - b) / np.maximum(1.0, np.abs(b))))
        for a, b in zip(
            (np.asarray(x, np.float64) for x in got),
            (np.asarray(x, np.float64) for x in want),
            strict=False,
        )
    )


@pytest.mark.parametrize("index", range(len(SHAPES)))
def test_interpreted_kernels_equal_the_reference(index):
    gaps = {}
    for dtype, limit in ((jnp.float32, 1e-5), (jnp.bfloat16, 1e-2)):
        seeds = range(index, SEEDS if dtype == jnp.float32 else 2 * len(SHAPES), len(SHAPES))
        for seed in seeds:
            arrays, options = random_case(seed, dtype)
            got = backend("interpret", **options)(*arrays)
            want = backend("reference", **options)(*arrays)
            assert got[0].dtype == dtype and got[1].dtype == jnp.float32
            gap = worst(got, want)
            gaps[dtype.__name__] = max(gaps.get(dtype.__name__, 0), gap)
            assert gap <= limit, (seed, dtype)  # bf16: one step of the output's last bit
    print(SHAPES[index], gaps)


@pytest.mark.parametrize("index", range(len(SHAPES)))
def test_reference_equals_a_float64_loop(index):
    gap = 0.0
    for seed in (index, index + len(SHAPES)):
        (q, k, v, g, state), options = random_case(seed)
        got = backend("reference", **options)(q, k, v, g, state)
        q, k, v, g, s = (np.asarray(a, np.float64) for a in (q, k, v, g, state))
        batch, steps, groups, n = k.shape
        heads = g.shape[2]
        s = s.reshape(batch, n, heads, -1)
        v = v.reshape(batch, steps, heads, -1)
        q, k = (np.repeat(a, heads // groups, axis=2) for a in (q, k))
        o = []
        for t in range(steps):
            s = s * np.exp(g[:, t])[:, None, :, None]
            s = s + np.einsum("bhn,bhp->bnhp", k[:, t], v[:, t])
            o.append(np.einsum("bhn,bnhp->bhp", q[:, t], s).reshape(batch, -1))
        gap = max(gap, worst(got, (np.stack(o, 1), s.reshape(batch, n, -1))))
    print(SHAPES[index], gap)
    assert gap <= 1e-5


def test_reference_equals_transformers_scan():
    torch = pytest.importorskip("torch")
    mamba = pytest.importorskip("transformers.models.mamba2.modeling_mamba2")
    rng = np.random.default_rng(0)
    x, dt, b, c, d, h = (
        rng.normal(size=s).astype(np.float32)
        for s in ((2, 37, 4, 8), (2, 37, 4), (2, 37, 2, 16), (2, 37, 2, 16), (4,), (2, 4, 8, 16))
    )
    a = -rng.uniform(1, 16, 4).astype(np.float32)
    with torch.no_grad():
        want, last = mamba.mamba2_chunk_scan(
            *(torch.tensor(z) for z in (x, dt, a, b, c)), chunk_size=8, D=torch.tensor(d),
            initial_states=torch.tensor(h), dt_softplus=True, return_final_states=True,
        )  # fmt: skip
    got, state = jax.jit(ssd, static_argnames="chunk")(
        x.reshape(2, 37, 32), jax.nn.softplus(dt), a, b, c,
        h.transpose(0, 3, 1, 2).reshape(2, 16, 32), d=d, chunk=8,
    )  # fmt: skip
    want = want.numpy().reshape(2, 37, 32), last.numpy().transpose(0, 3, 1, 2).reshape(2, 16, 32)
    gap = worst((got, state), want)
    print("transformers:", gap)
    assert gap <= 1e-5


def test_split_anywhere_resets_and_gaps():
    """Chunks of a stream, a reset in the middle, and frames with dt = 0."""
    rng = np.random.default_rng(1)
    shapes = ((1, 20, 8), (1, 20, 1, 4), (1, 20, 1, 4))
    x, b, c = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes)
    dt = jnp.asarray(rng.uniform(0, 1, (1, 20, 2)), jnp.float32)
    a = -jnp.asarray([1.0, 5.0])
    reset = jnp.zeros((1, 20), bool).at[0, 9].set(True)
    run = jax.jit(functools.partial(ssd, chunk=4))
    cut = lambda i, j: [z[:, i:j] for z in (x, dt)] + [a] + [z[:, i:j] for z in (b, c)]
    want, last = run(*cut(0, 20), reset=reset)
    _, state = run(*cut(0, 9))
    tail, again = run(*cut(9, 20))
    np.testing.assert_allclose(want[:, 9:], tail, atol=1e-5)
    np.testing.assert_allclose(last, again, atol=1e-5)
    for t in range(9, 13):
        y, state = run(*cut(t, t + 1), state, reset=reset[:, t : t + 1])
        np.testing.assert_allclose(want[:, t : t + 1], y, atol=1e-5)
    still = cut(0, 20)
    _, held = run(still[0], jnp.zeros_like(dt), *still[2:], state)
    np.testing.assert_array_equal(held, state)


@pytest.mark.parametrize("index", [1, 4])
@pytest.mark.slow
def test_gradients_equal_those_of_the_definition(index):
    arrays, options = random_case(index)
    weight = np.random.default_rng(9).normal(size=arrays[2].shape).astype(np.float32)

    def grads(op):
        def loss(*a):
            o, s = op(*a)
            return (o * weight).sum() + (s * s).sum()

        return jax.jit(jax.grad(loss, argnums=range(5)))(*arrays)

    want = grads(recurrent)
    for name in (None, "interpret"):
        got = grads(functools.partial(linear_attention, implementation=name, **options))
        for part, a, b in zip("qkvgs", got, want, strict=True):
            scale = max(1.0, float(jnp.abs(b).max()))
            np.testing.assert_allclose(a / scale, b / scale, atol=1e-5, err_msg=f"{name} {part}")


@pytest.mark.parametrize("index", [0, 4])
@pytest.mark.slow
def test_under_vmap_scan_and_shard_map(index):
    arrays, options = random_case(index)
    op = functools.partial(linear_attention, implementation="interpret", **options)
    want = jax.jit(op)(*arrays)
    two = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), arrays)
    got = jax.jit(jax.vmap(op))(*two)
    assert worst([a[0] for a in got], want) <= 1e-5
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.shard_map(op, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False)
    assert worst(jax.jit(sharded)(*arrays), want) <= 1e-6

    def frame(state, inputs):
        o, state = op(*(a[:, None] for a in inputs), state)
        return state, o[:, 0]

    *inputs, state = arrays
    state, o = jax.jit(lambda s, x: jax.lax.scan(frame, s, x))(
        state, tuple(a.swapaxes(0, 1) for a in inputs)
    )
    assert worst((o.swapaxes(0, 1), state), want) <= 1e-5


def test_long_clips_run_in_segments(monkeypatch):
    from streamzoo.layers.kernels.ssd import pallas_generic

    monkeypatch.setattr(pallas_generic, "SEGMENT", 32)
    arrays, _ = random_case(6)  # 40 frames: two segments of 32 and 8
    op = functools.partial(linear_attention, implementation="interpret", chunk=16)
    assert worst(jax.jit(lambda *a: op(*a))(*arrays), recurrent(*arrays)) <= 1e-5


def test_a_batch_that_no_block_divides_and_blocks_of_ones_own():
    arrays, options = random_case(0)
    for blocks in ({"rows": 1, "lanes": 64}, {"rows": 4, "lanes": 256}):
        op = functools.partial(linear_attention, implementation="interpret", blocks=blocks)
        assert worst(jax.jit(op)(*arrays), recurrent(*arrays)) <= 1e-5


def test_bad_input_is_named():
    (q, k, v, g, state), _ = random_case(4)
    with pytest.raises(KernelError, match=r"ssd: q \(2, 17, 4, 16\) is not .* like k"):
        linear_attention(q, k[..., :8], v, g, state)
    with pytest.raises(KernelError, match=r"ssd: v .* no multiple of 3 heads"):
        linear_attention(q[:, :, :1], k[:, :, :1], v, g[..., :3], state)
    with pytest.raises(KernelError, match=r"ssd: g .* 2 heads, no multiple of the 4 groups"):
        linear_attention(q, k, v, g[..., :2], state)
    with pytest.raises(KernelError, match=r"ssd: state \(2, 8, 256\) is not \[2, 16, 256\]"):
        linear_attention(q, k, v, g, state[:, :8])
    with pytest.raises(KernelError, match="chunk 0"):
        linear_attention(q, k, v, g, state, chunk=0)
    with pytest.raises(KernelError, match="x .* is not .* with the 4 heads of dt"):
        ssd(v[..., :6], g, g[0, 0], q, k)
    with pytest.raises(KernelError, match="no implementation 'palas'.*pallas"):
        linear_attention(q, k, v, g, state, implementation="palas")
    for change, why in (
        ((q, k, v[..., :192], g[..., :4], state[..., :192]), "192 channels.*multiple of 128"),
        ((q[..., :12], k[..., :12], v, g, state[:, :12]), "12 features.*power of two"),
    ):
        with pytest.raises(KernelError, match=f"{why}.*these can: reference"):
            linear_attention(*change, implementation="interpret")
    with pytest.raises(KernelError, match="chunk 24 is no power of two"):
        linear_attention(q, k, v, g, state, chunk=24, implementation="interpret")
    with pytest.raises(ValueError, match="ssd: no block size .*row"):
        linear_attention(q, k, v, g, state, blocks={"row": 1}, implementation="interpret", chunk=16)
    with pytest.raises(KernelError, match="lanes=48 does not fit 256 channels"):
        linear_attention(q, k, v, g, state, blocks={"lanes": 48}, implementation="interpret")
    with pytest.raises(KernelError, match="does not run on cpu"):
        linear_attention(q, k, v, g, state, implementation="pallas", chunk=16)


def test_the_kernels_take_the_shapes_of_the_zoo():
    from streamzoo.layers.kernels.ssd import SSD

    for name, arrays, options in zoo_shapes():
        assert SSD.able(*arrays, **options) == ["reference", "pallas", "interpret"], name
