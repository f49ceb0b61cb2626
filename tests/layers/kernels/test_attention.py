"""Attention with its written gradient against float64 and automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.kernels.attention import attention, attention_with_rows
from streamzoo.layers.vit import gelu


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


def test_gelu_and_its_slope():
    x = jnp.linspace(-8, 8, 401)
    np.testing.assert_allclose(gelu(x), jax.nn.gelu(x, approximate=False), atol=1e-6)
    slope = jax.vmap(jax.grad(lambda x: jax.nn.gelu(x, approximate=False)))(x)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(x), slope, atol=1e-6)
