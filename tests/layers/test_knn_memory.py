"""kNN memory: full attention when everything is near, brute force when it is not, the carry law."""

import functools

import jax
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.layers.knn_memory import KNNMemory

DIM, TOKENS, HEADS = 32, 2, 2


def make(seed, batch, steps):
    return jax.random.normal(jax.random.key(seed), (batch, steps, TOKENS, DIM))


@functools.cache
def build(**options):
    module = KNNMemory(DIM, heads=HEADS, **{"page": 1, **options})
    variables = jax.jit(module.init)(jax.random.key(0), module.init_carry(1, TOKENS), make(0, 1, 2))
    return module, jax.tree.map(lambda a: a * 2, variables)


def attention(variables, x, *, window, nearest, capacity):
    """Frame by frame in float64, no positions: the last ``window`` frames, and the ``nearest`` of
    the frames before them that are among the last ``capacity``."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    x = np.asarray(x, np.float64)
    batch, steps = x.shape[:2]
    q, k, v = np.split(x @ p["qkv"]["kernel"] + p["qkv"]["bias"], 3, -1)
    q, k, v = (z.reshape(batch, steps, TOKENS, HEADS, -1) for z in (q, k, v))
    y = np.zeros_like(q)
    for b, t, n, h in np.ndindex(batch, steps, TOKENS, HEADS):
        logits = k[b, : t + 1, n, h] @ q[b, t, n, h] * q.shape[-1] ** -0.5
        old = np.arange(max(0, t + 1 - capacity), max(0, t + 1 - window))
        near = old[np.argsort(-logits[old], kind="stable")[:nearest]]
        keys = np.r_[near, max(0, t + 1 - window) : t + 1].astype(int)
        w = np.exp(logits[keys] - logits[keys].max())
        y[b, t, n, h] = w / w.sum() @ v[b, keys, n, h]
    return y.reshape(x.shape) @ p["out"]["kernel"] + p["out"]["bias"]


@pytest.mark.parametrize(
    "options",
    [
        {"window": 3, "nearest": 11, "capacity": 16},  # k = all: full causal attention
        {"window": 2, "nearest": 3, "capacity": 6},
    ],
)
def test_equals_brute_force_in_float64(options):
    module, variables = build(rope_base=None, **options)
    x = make(1, 2, 11)
    _, got = jax.jit(module.apply)(variables, module.init_carry(2, TOKENS), x)
    np.testing.assert_allclose(got, attention(variables, x, **options), atol=3e-5)
    if options["nearest"] >= 11:
        full = attention(variables, x, window=11, nearest=0, capacity=11)
        np.testing.assert_allclose(got, full, atol=3e-5)


def subject(**options):
    module, variables = build(**options)
    init = lambda batch: module.init_carry(batch, TOKENS)
    # 67 frames at once add up in another order than one by one
    return Subject.of(module, variables, make, init_carry=init, atol=5e-5)


@pytest.mark.parametrize("law", ["chunking", "gaps", "gradients"])
@pytest.mark.slow
def test_carry_law_while_frames_are_given_up(law):
    options = {"chunking": {"seeds": 4}, "gaps": {"seeds": 1}, "gradients": {}}
    s = subject(window=2, nearest=2, capacity=5)
    getattr(contract, f"check_{law}")(s, **options[law])


@pytest.mark.slow
def test_pages_of_several_frames():
    contract.check_chunking(subject(window=2, nearest=1, capacity=3, page=2), seeds=2)


@pytest.mark.slow
def test_counters_are_safe_for_a_year():
    """Keys are stored un-turned: moving the counters moves nothing."""
    contract.check_year(subject(window=2, nearest=2, capacity=5), warm=9)


@pytest.mark.parametrize(
    "options, message",
    [({"window": 9, "capacity": 4}, "window 9 exceeds the 4"), ({"nearest": 0}, "nearest 0")],
)
def test_bad_options_are_named(options, message):
    module = KNNMemory(DIM, page=1, **options)
    with pytest.raises(ValueError, match=message):
        module.init(jax.random.key(0), module.init_carry(1, TOKENS), make(0, 1, 1))
