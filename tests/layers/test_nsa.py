"""NSA: fla's naive form, full attention when everything is selected, and the carry law."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.layers.nsa import NSA, choose_pages, compressed_attention, nsa_attention
from streamzoo.layers.paged_ring import init_ring, push, turn

from ..language import golden as shared
from ..language import needs_goldens

GOLDEN = pathlib.Path(__file__).parent / "data" / "fla_nsa.npz"
DIM, TOKENS = 32, 2
LAYERS = {
    "selects and forgets": NSA(DIM, heads=4, kv_heads=2, page=2, capacity=3, selected=2, window=3),
    "single frame pages": NSA(DIM, heads=2, page=1, capacity=4, selected=2, window=2),
    "means, no positions": NSA(
        DIM, page=3, capacity=2, selected=1, window=4, compress="mean", rope_base=None
    ),
}


def golden(name):
    with np.load(GOLDEN) as data:
        case = {k.split("/")[1]: data[k] for k in data.files if k.startswith(name + "/")}
    floats = ("q", "k", "v", "g_cmp", "g_slc", "g_swa", "o")
    return {k: x.astype(np.float32) if k in floats else x for k, x in case.items()}


@pytest.mark.parametrize("name", ["selected", "all", "counts", "defaults"])
def test_parity_with_fla(name):
    """Golden: fla-core 0.6.0 naive_nsa on fp32 inputs (stored as fp16, exactly). Two pieces that
    need a GPU were replaced by their formulas: mean_pooling (block mean, the last block over the
    tokens it has) and flash_attn_func (causal masked softmax, window)."""
    case = golden(name)
    gates = tuple(case.get(g) for g in ("g_cmp", "g_slc", "g_swa"))
    size, window = int(case["block_size"]), int(case["window_size"])
    call = jax.jit(lambda *x: nsa_attention(*x, block_size=size, window=window))
    chosen = jnp.asarray(case["block_indices"], jnp.int32)
    got = call(case["q"], case["k"], case["v"], gates, chosen)
    np.testing.assert_allclose(got, case["o"], atol=2e-6)


def test_the_choice_of_pages_is_flas():
    case = golden("all")
    gates = tuple(case[g] for g in ("g_cmp", "g_slc", "g_swa"))
    sizes = int(case["block_size"]), case["block_indices"].shape[-1], int(case["window_size"])
    call = jax.jit(lambda q, k, v, gates: nsa_attention(q, k, v, gates, None, *sizes))
    got = call(case["q"], case["k"], case["v"], gates)
    np.testing.assert_allclose(got, case["o"], atol=2e-6)


@pytest.mark.parametrize("implementation", [None, "interpret", "interpret_tpu"])
def test_the_layer_at_its_defaults_is_flas(implementation):
    """A stream through ``NSA`` as ``nsa-*`` holds it: page, selected pages and window are its
    defaults, the kernels take them, and fla's naive form on the same queries, keys and gates gives
    the same. 75 frames: at the end one of two pages is left out by its score."""
    case = golden("defaults")
    module = NSA(
        256, heads=16, kv_heads=1, compress="mean", rope_base=None, implementation=implementation
    )
    assert (module.page, module.window) == (int(case["block_size"]), int(case["window_size"]))
    assert module.selected == case["block_indices"].shape[-1]
    x = case["q"].reshape(1, 75, 1, 256)
    inverse = np.linalg.pinv(x[0, :, 0].astype(np.float64))  # fewer frames than channels: exact
    kv = np.concatenate([case["k"], case["v"]], -1).reshape(75, -1)
    gates = np.concatenate([case[g] for g in ("g_cmp", "g_slc", "g_swa")], -1)[0]
    logits = np.log(gates / (1 - gates.astype(np.float64)))
    dense = lambda w: {"kernel": w.astype(np.float32), "bias": np.zeros(w.shape[1], np.float32)}
    params = {
        "q": dense(np.eye(256)), "kv": dense(inverse @ kv),
        "gate": dense(inverse @ logits), "out": dense(np.eye(256)),
    }  # fmt: skip
    step = jax.jit(module.apply)
    carry, outputs = module.init_carry(1, 1), []
    for start, stop in [(0, 70), *((t, t + 1) for t in range(70, 75))]:
        carry, y = step({"params": params}, carry, x[:, start:stop])
        outputs.append(y)
    got = np.concatenate(outputs, axis=1).reshape(case["o"].shape)
    np.testing.assert_allclose(got, case["o"], atol=3e-5)


def full_attention(q, k, v):
    """Causal softmax attention in float64: q [B, T, H, D], k, v [B, T, X, D]."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    rep = q.shape[2] // k.shape[2]
    k, v = np.repeat(k, rep, 2), np.repeat(v, rep, 2)
    logits = np.einsum("bthd,bshd->bhts", q, k) * q.shape[-1] ** -0.5
    logits = np.where(np.tril(np.ones(logits.shape[-2:], bool)), logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("bhts,bshd->bthd", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("branch", [1, 2])
def test_selecting_everything_is_full_attention(branch):
    """Through the selected branch with top-n = all, and through a window as long as the clip."""
    key = jax.random.split(jax.random.key(0), 3)
    q = jax.random.normal(key[0], (2, 13, 4, 8))
    k, v = (jax.random.normal(k, (2, 13, 2, 8)) for k in key[1:])
    gates = tuple(jnp.ones((2, 13, 4)) if i == branch else None for i in range(3))
    got = jax.jit(lambda q, k, v, gates: nsa_attention(q, k, v, gates, None, 4, 4, 13))(
        q, k, v, gates
    )
    np.testing.assert_allclose(got, full_attention(q, k, v), atol=1e-5)


@functools.cache
def subject(name):
    module = LAYERS[name]
    make = lambda seed, batch, steps: jax.random.normal(
        jax.random.key(seed), (batch, steps, TOKENS, DIM)
    )
    init = lambda batch: module.init_carry(batch, TOKENS)
    variables = jax.jit(module.init)(jax.random.key(0), init(1), make(0, 1, 2))
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [a + 0.3 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return Subject.of(module, jax.tree.unflatten(tree, leaves), make, init_carry=init)


@pytest.mark.parametrize("law", ["chunking", "gaps", "gradients"])
@pytest.mark.slow
def test_carry_law_while_pages_are_given_up(law):
    options = {"chunking": {"seeds": 4}, "gaps": {"seeds": 1}, "gradients": {}}
    getattr(contract, f"check_{law}")(subject("selects and forgets"), **options[law])


@pytest.mark.parametrize("name", ["single frame pages", "means, no positions"])
@pytest.mark.slow
def test_a_scan_is_the_clip(name):
    contract.check_scan(subject(name))


@pytest.mark.slow
def test_counters_are_safe_for_a_year():
    """Without positions: moving the counters of keys that were turned already moves the keys."""
    contract.check_year(subject("means, no positions"), warm=12)


def test_turning_is_relative_and_exact_past_2_to_the_24():
    x = jax.random.normal(jax.random.key(0), (3, 2, 64))
    far = jnp.asarray([0, 2**24 + 5, 2**31 - 100], jnp.int32)
    products = [
        jnp.einsum("thd,thd->th", turn(x, far + shift, 1e4), turn(x[::-1], far + 7, 1e4))
        for shift in (0, 20)
    ]
    near = [
        jnp.einsum("thd,thd->th", turn(x, far * 0 + shift, 1e4), turn(x[::-1], far * 0 + 7, 1e4))
        for shift in (0, 20)
    ]
    np.testing.assert_allclose(products, near, atol=2e-5)
    half = 32  # the usual rotary embedding, halves convention
    angle = np.arange(3)[:, None] * 1e4 ** (-np.arange(half) / half)
    a, b = np.asarray(x[:, 0, :half], float), np.asarray(x[:, 0, half:], float)
    want = np.concatenate(
        [a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], 1
    )
    np.testing.assert_allclose(turn(x, jnp.arange(3), 1e4)[:, 0], want, atol=1e-5)


def test_heads_of_a_group_choose_together_and_the_own_page_is_always_read():
    ring = init_ring(1, 1, capacity=4, page=2, width=8, dtype=jnp.float32)
    k = jax.random.normal(jax.random.key(0), (1, 1, 9, 8))
    _, view = push(ring, k, k, jnp.asarray([9]), 2)
    pages = view.place.shape[1]
    weights = jax.random.uniform(jax.random.key(1), (1, 1, 9, 1, 3, pages)) / 10
    chosen = choose_pages(view, weights, 2)
    number = jnp.where(chosen >= 0, chosen + view.first[0], -1)[0, 0, :, 0]
    assert number.shape == (9, 2)
    np.testing.assert_array_equal(number[:, 0], np.arange(9) // 2)
    assert not (number[8] == 0).any()  # page 0 was given up when page 4 began
    y, rows = compressed_attention(
        jnp.ones((1, 1, 9, 1, 3, 8)),
        k[:, :, :pages, None],
        k[:, :, :pages, None],
        jnp.zeros((1, 9, pages), bool),
    )
    assert not y.any() and not rows.any()  # no page is whole yet


@pytest.mark.parametrize(
    "options, message",
    [
        ({"window": 40, "capacity": 3}, "window 40 exceeds the 33 frames"),
        ({"heads": 3}, "dim 32, heads 3"),
        ({"selected": 0}, "selected 0"),
        ({"compress": "max"}, "compress='max'"),
    ],
)
def test_bad_options_are_named(options, message):
    module = NSA(**{"dim": DIM, **options})
    with pytest.raises(ValueError, match=message):
        carry = module.init_carry(1, TOKENS)
        module.init(jax.random.key(0), carry, jnp.zeros((1, 1, TOKENS, DIM)))


def test_blocks_of_no_size_are_refused():
    x = jnp.zeros((1, 4, 1, 8))
    with pytest.raises(ValueError, match="block_size 0"):
        nsa_attention(x, x, x, (None, jnp.ones((1, 4, 1)), None), None, 0)


@needs_goldens
@pytest.mark.parametrize("implementation", [None, "interpret_tpu"])
def test_two_branches_of_the_shared_golden(implementation):
    """Its pages of 8 are what a TPU's kernel takes; which ones are read is our choice."""
    z, told = shared("nsa")
    size, count = told["constants"]["block"], z["block_indices"].shape[-1]
    gates = (z["g_cmp"], z["g_slc"], None)
    call = jax.jit(
        lambda q, k, v, *gates: nsa_attention(
            q, k, v, (*gates, None), None, size, count, implementation=implementation
        )
    )
    got = call(z["q"], z["k"], z["v"], *gates[:2])
    np.testing.assert_allclose(got, z["out"], atol=5e-6)
