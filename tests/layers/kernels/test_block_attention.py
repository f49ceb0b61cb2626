"""block_attention: backends against the reference, the reference against a loop in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from streamzoo.layers.kernels.block_attention import OP, block_attention, merge, pallas_tpu
from streamzoo.layers.kernels.dispatch import KernelError

from . import block_attention_cases as cases


@functools.cache
def compiled(implementation, dtype, options):
    options = dict(options)
    options["blocks"] = dict(options.get("blocks", ()))
    call = functools.partial(
        block_attention, implementation=implementation, with_lse=True, **options
    )
    return jax.jit(lambda arrays: call(**arrays))


def run(implementation, arrays, options, dtype="float32"):
    return compiled(implementation, dtype, tuple(sorted(options.items())))(arrays)


def loop(q, k, v, pages, key_pos, query_pos, *, page, heads, kv_heads, window):
    """Query by query, head by head, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    pages, key_pos, query_pos = (np.asarray(x) for x in (pages, key_pos, query_pos))
    (batch, steps), slots = q.shape[:2], k.shape[1]
    q = q.reshape(batch, steps, heads, -1)
    k, v = k.reshape(batch, slots, kv_heads, -1), v.reshape(batch, slots, kv_heads, -1)
    while pages.ndim < 4:
        pages = pages[:, None] if pages.ndim == 2 else pages[:, :, None]
    y = np.zeros((batch, steps, heads, v.shape[-1]))
    lse = np.full((batch, steps, heads), -1e30)
    for b, t, h in np.ndindex(batch, steps, heads):
        own = h // (heads // kv_heads)
        group = t // (steps // pages.shape[1])
        chosen = set(pages[b, group, own if pages.shape[2] > 1 else 0].tolist())
        now = query_pos[b, t]
        keys = [
            s
            for s in range(slots)
            if s // page in chosen
            and 0 <= key_pos[b, s] <= now
            and (window is None or key_pos[b, s] > now - window)
        ]
        if keys:
            logits = k[b, keys, own] @ q[b, t, h] * q.shape[-1] ** -0.5
            lse[b, t, h] = np.logaddexp.reduce(logits)
            y[b, t, h] = np.exp(logits - lse[b, t, h]) @ v[b, keys, own]
    return y.reshape(batch, steps, -1), lse


@pytest.mark.parametrize("shape", [*cases.SHAPES, *cases.ODD])
def test_reference_equals_a_loop_in_float64(shape):
    arrays, options = cases.draw(shape, cases.SHAPES.index(shape) if shape in cases.SHAPES else 3)
    if shape[1] > 100:
        arrays["q"], arrays["query_pos"] = arrays["q"][:, -9:], arrays["query_pos"][:, -9:]
    want, want_lse = loop(**arrays, **options)
    got, lse = run("reference", arrays, options)
    np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(lse, want_lse, atol=1e-5, rtol=1e-5)


BACKENDS = ("interpret", "interpret_tpu")


@pytest.mark.parametrize("shape", range(len(cases.SHAPES)))
def test_backends_equal_the_reference(shape):
    for seed in range(shape, cases.SEEDS, len(cases.SHAPES)):
        arrays, options = cases.random_case(seed)
        want, want_lse = run("reference", arrays, options)
        for name in BACKENDS:
            got, lse = run(
                name, arrays, {**options, "blocks": (("keys", 2 * options["page"]), ("rows", 32))}
            )
            np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5, err_msg=f"{name} {seed}")
            np.testing.assert_allclose(lse, want_lse, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 10])
def test_bfloat16(seed):
    """Of values of size 1: to 0.03, four steps of bf16, from the same inputs in fp32."""
    arrays, options = cases.random_case(seed, jnp.bfloat16)
    wide = {k: a.astype(jnp.float32) if a.dtype == jnp.bfloat16 else a for k, a in arrays.items()}
    want, _ = run("reference", wide, options)
    for name in ("reference", *BACKENDS):
        got, lse = run(name, arrays, options, "bfloat16")
        assert got.dtype == jnp.bfloat16 and lse.dtype == jnp.float32
        np.testing.assert_allclose(got.astype(jnp.float32), want, atol=0.03)


@pytest.mark.parametrize("width, kv_heads", [(64, 3), pytest.param(96, 2, marks=pytest.mark.slow)])
def test_heads_that_do_not_fill_lanes_and_more_page_numbers_than_fit_at_once(
    width, kv_heads, monkeypatch
):
    """Three heads of 64 lie in one block of 192 lanes; two entries take a call each."""
    arrays, options = cases.draw((2, 2, 2, True, 2 * kv_heads, kv_heads, width, 16, 48, 2), 3)
    want, want_lse = run("reference", arrays, options)
    monkeypatch.setattr(pallas_tpu, "ENTRIES", 4 * kv_heads)  # those of one entry
    call = functools.partial(block_attention, implementation="interpret_tpu", with_lse=True)
    got, lse = jax.jit(lambda arrays: call(**arrays, **options))(arrays)
    np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(lse, want_lse, atol=1e-5, rtol=1e-5)


def test_a_partial_last_page():
    """The TPU kernel takes it (what lies beyond the end is masked), the generic one says no."""
    arrays, options = cases.draw(cases.ODD[0], 3)
    want, _ = run("reference", arrays, options)
    np.testing.assert_allclose(run("interpret_tpu", arrays, options)[0], want, atol=1e-5)
    with pytest.raises(KernelError, match="k has 41 slots.*these can: .*interpret_tpu"):
        block_attention(**arrays, **options, implementation="interpret")


@pytest.mark.parametrize("implementation", BACKENDS)
@pytest.mark.slow
def test_gradients_and_invalid_slots(implementation):
    """Those of autodiff through the reference; nothing comes from slots that hold NaN."""
    arrays, options = cases.random_case(1)
    ints = {k: arrays.pop(k) for k in ("pages", "key_pos", "query_pos")}

    def loss(floats, name):
        y, lse = block_attention(**floats, **ints, **options, with_lse=True, implementation=name)
        return jnp.sin(y).sum() + jnp.where(lse > -1e29, jnp.sin(lse), 0.0).sum()

    grad = jax.jit(jax.grad(loss), static_argnums=1)
    want, got = grad(arrays, None), grad(arrays, implementation)
    for name, a in want.items():
        assert bool(jnp.isfinite(a).all()) and float(jnp.abs(a).max()) > 0
        np.testing.assert_allclose(got[name], a, atol=1e-5)
    gone = np.asarray(ints["key_pos"]) < 0
    assert gone.any() and not np.asarray(want["k"])[gone].any()


@pytest.mark.parametrize("implementation", [None, *BACKENDS])
@pytest.mark.slow
def test_under_vmap_scan_and_shard_map(implementation):
    arrays, options = cases.random_case(11)
    call = functools.partial(block_attention, **options, implementation=implementation)
    want, _ = run("reference", arrays, options)
    twice = {k: jnp.stack([a, a[::-1]]) for k, a in arrays.items()}
    both = jax.jit(jax.vmap(lambda a: call(**a)))(twice)
    np.testing.assert_allclose(both, [want, want[::-1]], atol=1e-5)
    _, ys = jax.jit(lambda a: jax.lax.scan(lambda c, x: (c, call(**x)), 0, a))(twice)
    np.testing.assert_allclose(ys, [want, want[::-1]], atol=1e-5)
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    shard = jax.shard_map(
        lambda a: call(**a), mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False
    )
    np.testing.assert_allclose(jax.jit(shard)(arrays), want, atol=1e-5)


def test_pages_count_once_and_minus_one_selects_nothing():
    arrays, options = cases.random_case(3)
    arrays["pages"] = jnp.asarray([2, 0]) + jnp.zeros((1, 1, 6, 2), jnp.int32)
    want, _ = run("reference", arrays, options)
    arrays["pages"] = jnp.asarray([0, 2, -1, 0, 2, 2]) + jnp.zeros((1, 1, 6, 6), jnp.int32)
    np.testing.assert_allclose(run("reference", arrays, options)[0], want, atol=1e-6)
    many = jnp.asarray([0, 2] * 20 + [-1])  # longer lists are sorted
    arrays["pages"] = many + jnp.zeros((1, 1, 6, 41), jnp.int32)
    np.testing.assert_allclose(run("reference", arrays, options)[0], want, atol=1e-6)
    # inside jit numbers are not known: out of range selects nothing
    arrays["pages"] = jnp.asarray([0, 2, 4, 99, -7]) + jnp.zeros((1, 1, 6, 5), jnp.int32)
    np.testing.assert_allclose(run("reference", arrays, options)[0], want, atol=1e-6)


def test_all_pages_are_full_attention_and_parts_merge():
    key = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(k, (2, n, 4 * 16)) for k, n in zip(key, (3, 20, 20), strict=True))
    call = jax.jit(functools.partial(block_attention, page=5, heads=4, with_lse=True, scale=0.2))
    split = lambda x: x.reshape(*x.shape[:2], 4, 16)
    want = jax.nn.dot_product_attention(split(q), split(k), split(v), scale=0.2)
    want = want.reshape(q.shape)
    pages = lambda *p: jnp.broadcast_to(jnp.asarray(p, jnp.int32), (2, len(p)))
    y, _ = call(q, k, v, pages(0, 1, 2, 3))
    np.testing.assert_allclose(y, want, atol=1e-5)
    parts = [call(q, k, v, pages(1, 3)), call(q, k, v, pages(0, 2)), call(q, k, v, pages(-1, -1))]
    np.testing.assert_allclose(merge(parts), want, atol=1e-5)
    short = jnp.asarray([20, 7])
    y, _ = call(q, k, v, pages(0, 1, 2, 3), length=short)
    cut = jax.nn.dot_product_attention(split(q)[1:], split(k)[1:, :7], split(v)[1:, :7], scale=0.2)
    np.testing.assert_allclose(y[1:], cut.reshape(1, 3, -1), atol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"pages": jnp.asarray([[0, 3]])}, "pages holds 3, out of range; 48 keys .* 0 .. 2"),
        ({"pages": jnp.asarray([[-2, 0]])}, "pages holds -2"),
        ({"pages": jnp.zeros((1, 3, 1), jnp.int32)}, r"pages has shape \(1, 3, 1, 1\)"),
        ({"pages": jnp.zeros((1, 1))}, "pages is float32"),
        ({"heads": 3}, "heads 3 is no multiple of kv_heads 2"),
        ({"k": jnp.zeros((1, 48, 64))}, r"k has shape \(1, 48, 64\)"),
        ({"window": 4}, "window 4 must be >= 1 and wants query_pos"),
        ({"implementation": "palas"}, "no implementation 'palas': did you mean 'pallas'"),
        ({"implementation": "pallas_tpu"}, "does not run on cpu"),
        ({"implementation": "pallas", "page": 12}, "page 12 is no multiple of 16"),
        ({"implementation": "pallas_tpu", "page": 12}, "page 12 is no multiple of 8"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {
        "q": jnp.zeros((1, 4, 4 * 64)),
        "k": jnp.zeros((1, 48, 2 * 64)),
        "v": jnp.zeros((1, 48, 2 * 64)),
        "pages": jnp.zeros((1, 1), jnp.int32),
        "page": 16,
        "heads": 4,
        "kv_heads": 2,
    }
    with pytest.raises(KernelError, match=message):
        block_attention(**{**arguments, **change})


def test_backends_say_what_they_cannot_take():
    shape = jax.ShapeDtypeStruct
    ints = shape((1, 1, 1, 4), jnp.int32), shape((1, 64), jnp.int32), shape((1, 1), jnp.int32)
    able = lambda q, kv, **o: OP.able(
        shape(q, jnp.float32),
        shape(kv, jnp.float32),
        shape(kv, jnp.float32),
        *ints,
        kv_heads=1,
        **o,
    )
    assert able((1, 1, 64), (1, 64, 64), heads=1, page=16) == list(OP.backends)
    tpu = ["reference", "pallas_tpu", "interpret_tpu"]
    assert able((1, 1, 48), (1, 64, 48), heads=1, page=16) == tpu
    assert able((1, 1, 640), (1, 64, 640), heads=1, page=16) == tpu
    assert able((1, 1, 576), (1, 64, 576), heads=1, page=16) == ["reference"]
    assert able((1, 1, 64), (1, 64, 64), heads=1, page=1) == ["reference"]
    huge = able((1, 32768, 64), (1, 64, 64), heads=1, page=16)
    assert huge == ["reference", "pallas", "interpret"]
