"""Attention with its written gradient against float64 and automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.kernels.attention import attention, attention_with_rows
from streamzoo.layers.transformer import gelu


def draw(seed, shape, dtype=jnp.float32):
    return [jax.random.normal(k, shape, dtype) for k in jax.random.split(jax.random.key(seed), 4)]


def exact(q, k, v):
    q, k, v = (np.float64(a).swapaxes(1, 2) for a in (q, k, v))
    logits = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[-1])
    rows = np.exp(logits - logits.max(-1, keepdims=True))
    rows /= rows.sum(-1, keepdims=True)
    return (rows @ v).swapaxes(1, 2), rows


@pytest.mark.parametrize("name", ["reference", "library", None])
@pytest.mark.parametrize("dtype, atol", [(jnp.float32, 1e-5), (jnp.bfloat16, 0.02)])
def test_equals_float64(name, dtype, atol):
    for seed, shape in enumerate([(2, 5, 3, 8), (1, 1, 1, 4), (3, 17, 2, 16)]):
        q, k, v, _ = draw(seed, shape, dtype)
        got = attention(q, k, v, implementation=name)
        assert got.dtype == dtype
        np.testing.assert_allclose(np.float64(got), exact(q, k, v)[0], atol=atol)


def test_rows_are_those_that_weigh_the_values():
    q, k, v, _ = draw(0, (2, 7, 3, 8))
    y, rows = attention_with_rows(q, k, v)
    want, want_rows = exact(q, k, v)
    np.testing.assert_allclose(rows, want_rows, atol=1e-6)
    np.testing.assert_allclose(y, want, atol=1e-5)


def test_gradient_equals_automatic_differentiation():
    """Of the values, of the rows, and of both together, for each of q, k and v."""
    q, k, v, w = draw(3, (2, 6, 2, 8))
    aim = jax.random.normal(jax.random.key(9), (2, 2, 6, 6))

    def plain(q, k, v):
        rows = jax.nn.softmax(jnp.einsum("mnhd,mkhd->mhnk", q, k) / np.sqrt(8), axis=-1)
        return jnp.einsum("mhnk,mkhd->mnhd", rows, v), rows

    for a, b in ((1, 0), (0, 1), (1, 1)):

        def loss(run, *args):
            y, rows = run(*args)
            return a * (y * w).sum() + b * (rows * aim).sum()

        got = jax.grad(loss, (1, 2, 3))(attention_with_rows, q, k, v)
        want = jax.grad(loss, (1, 2, 3))(plain, q, k, v)
        for one, other in zip(got, want, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


OPTIONS = {
    "mask": lambda m, n, k: dict(mask=jax.random.bernoulli(jax.random.key(1), 0.6, (m, 1, n, k))),
    "keys": lambda m, n, k: dict(mask=(jnp.arange(k) < k - 2)[None, None, None]),
    "bias": lambda m, n, k: dict(bias=jax.random.normal(jax.random.key(2), (1, 4, n, k))),
    "causal": lambda m, n, k: dict(causal=True),
    "window": lambda m, n, k: dict(causal=True, window=3),
    "scale": lambda m, n, k: dict(scale=0.7),
    "softcap": lambda m, n, k: dict(softcap=1.5),
    "all": lambda m, n, k: dict(
        mask=jnp.arange(k) != 1, bias=jnp.ones((n, k)), causal=True, window=4, scale=0.3
    ),
}


def brute_force(q, k, v, mask=True, bias=0.0, causal=False, window=None, softcap=None, scale=None):
    """One query of one head at a time, in float64; nothing is shared with the code under test."""
    m, n, heads, width = q.shape
    keys, group = k.shape[1], heads // k.shape[2]
    seen = np.broadcast_to(mask, (m, heads, n, keys))
    bias = np.broadcast_to(bias, (m, heads, n, keys))
    y = np.zeros((m, n, heads, v.shape[-1]))
    for b, i, h in np.ndindex(m, n, heads):
        at = i + keys - n  # the last query stands at the last key
        first = 0 if window is None else at - window + 1
        here = [
            j for j in range(keys) if seen[b, h, i, j] and (not causal or max(first, 0) <= j <= at)
        ]
        if not here:
            continue
        logits = k[b, here, h // group].astype(np.float64) @ q[b, i, h].astype(np.float64)
        logits = logits * (width**-0.5 if scale is None else scale)
        if softcap:
            logits = softcap * np.tanh(logits / softcap)
        weights = np.exp(logits + bias[b, h, i, here])
        y[b, i, h] = weights @ np.float64(v[b, here, h // group]) / weights.sum()
    return y


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("option", OPTIONS)
def test_options_equal_a_brute_force_form(option, groups):
    for n, keys in ((6, 6), (3, 7)):
        q, _, _, _ = draw(5, (2, n, 4, 8))
        k, v, _, _ = draw(6, (2, keys, groups, 8))
        given = OPTIONS[option](2, n, keys)
        want = brute_force(q, k, v, **given)
        for name in ("reference",) if option == "softcap" else ("reference", "library"):
            got = attention(q, k, v, implementation=name, **given)
            np.testing.assert_allclose(got, want, atol=1e-5, err_msg=f"{name} {n} of {keys}")


def test_a_query_that_sees_nothing_gives_zero_and_a_finite_gradient():
    q, k, v, _ = draw(7, (1, 4, 2, 8))
    mask = jnp.array([True, False, True, True])[:, None] & jnp.ones((4, 4), bool)

    def loss(q, k, v, name):
        return (attention(q, k, v, mask=mask, implementation=name) ** 2).sum()

    for name in ("reference", "library"):
        assert not attention(q, k, v, mask=mask, implementation=name)[:, 1].any()
        for slope in jax.grad(loss, (0, 1, 2))(q, k, v, name):
            assert np.isfinite(slope).all()


def test_heads_that_do_not_divide_and_windows_without_causal_are_refused():
    q, k, v, _ = draw(8, (1, 4, 4, 8))
    with pytest.raises(ValueError, match="3 key heads do not divide 4"):
        attention(q, k[:, :, :3], v[:, :, :3], implementation="reference")
    with pytest.raises(ValueError, match="causal"):
        attention(q, k, v, window=2, implementation="reference")


def test_gelu_and_its_slope():
    x = jnp.linspace(-8, 8, 401)
    np.testing.assert_allclose(gelu(x), jax.nn.gelu(x, approximate=False), atol=1e-6)
    slope = jax.vmap(jax.grad(lambda x: jax.nn.gelu(x, approximate=False)))(x)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(x), slope, atol=1e-6)
