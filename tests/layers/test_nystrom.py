"""Nystrom attention against transformers' Nystromformer and against full attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.nystrom import (
    NystromAttention,
    nystrom_attention,
    pseudo_inverse,
    segment_means,
)

STEPS, DIM, HEADS = 12, 16, 2


def qkv(seed, steps=STEPS, batch=2):
    keys = jax.random.split(jax.random.key(seed), 3)
    return [jax.random.normal(k, (batch, steps, HEADS, DIM // HEADS)) for k in keys]


@pytest.mark.parametrize(
    "landmarks, kernel, masked",
    [(4, None, False), (4, 5, True), (3, 3, False), (STEPS, 3, True)],
)
def test_parity_with_transformers(landmarks, kernel, masked):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.models.nystromformer import modeling_nystromformer as hf

    config = transformers.NystromformerConfig(
        hidden_size=DIM,
        num_attention_heads=HEADS,
        num_landmarks=landmarks,
        segment_means_seq_len=STEPS,
        conv_kernel_size=kernel or 3,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    layer = hf.NystromformerSelfAttention(config).eval()
    layer.conv_kernel_size = kernel
    x = torch.randn(2, STEPS, DIM) * 2
    mask = np.ones((2, STEPS), bool)
    if masked:
        mask[0, 9:], mask[1, 4:6] = False, False
    bias = torch.where(torch.tensor(mask), 0.0, torch.finfo(torch.float32).min)[:, None, None]
    with torch.no_grad():
        want = layer(x, bias if masked else None)[0].numpy()
        heads = [
            jnp.asarray(f(x).numpy().reshape(2, STEPS, HEADS, -1))
            for f in (layer.query, layer.key, layer.value)
        ]
        conv = None if kernel is None else jnp.asarray(layer.conv.weight.numpy()[:, 0, :, 0].T)
    call = jax.jit(lambda q, k, v: nystrom_attention(q, k, v, landmarks, conv=conv, mask=keep))
    keep = jnp.asarray(mask) if masked else None
    got = call(*heads)
    np.testing.assert_allclose(got.reshape(want.shape), want, atol=1e-5)


@pytest.mark.parametrize("landmarks", [STEPS, STEPS + 5])
def test_as_many_landmarks_as_tokens_is_full_attention(landmarks):
    q, k, v = qkv(0)
    want = jax.nn.dot_product_attention(q, k, v)
    np.testing.assert_allclose(nystrom_attention(q, k, v, landmarks), want, atol=1e-5)


def test_the_inverse_converges():
    a = np.eye(6) + 0.2 * np.random.default_rng(0).random((3, 6, 6))
    a = (a / a.sum(-1, keepdims=True)).astype(np.float32)
    for per_matrix in (False, True):
        got = pseudo_inverse(jnp.asarray(a), 10, per_matrix=per_matrix)
        np.testing.assert_allclose(got, np.linalg.inv(a.astype(np.float64)), atol=1e-3)


def test_segments_of_unequal_length():
    x = jnp.arange(7.0)[:, None]
    np.testing.assert_allclose(segment_means(x, 3)[:, 0], [1.0, 3.5, 5.5])
    np.testing.assert_allclose(segment_means(x[:6], 3)[:, 0], [0.5, 2.5, 4.5])


def test_streams_of_a_batch_do_not_meet():
    q, k, v = qkv(1)
    both = nystrom_attention(q, k, v, 4, per_matrix=True)
    one = nystrom_attention(q[:1], k[:1], v[:1], 4, per_matrix=True)
    np.testing.assert_allclose(both[:1], one, atol=1e-6)


def test_more_landmarks_come_closer_to_full_attention():
    """Smooth keys, as in a picture: the error falls with the number of landmarks."""
    q, k, v = qkv(2, steps=64, batch=1)
    smooth = lambda x: jnp.cumsum(x, axis=1) / 8
    q, k = smooth(q), smooth(k)
    want = jax.nn.dot_product_attention(q, k, v)
    approximate = functools.partial(nystrom_attention, per_matrix=True)
    approximate = jax.jit(approximate, static_argnums=(3, 4))
    gaps = [float(jnp.abs(approximate(q, k, v, m, 12) - want).mean()) for m in (2, 8, 32)]
    assert gaps[0] > gaps[1] > gaps[2]


def test_layer_has_gradients_and_takes_bfloat16():
    layer = NystromAttention(DIM, HEADS, landmarks=4, kernel=3, dtype=jnp.bfloat16)
    x = jax.random.normal(jax.random.key(0), (2, 13, DIM))
    variables = jax.jit(layer.init)(jax.random.key(1), x)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def grad_of(p):
        y = layer.apply(p, x)
        return y.astype(jnp.float32).sum(), y

    grad, y = grad_of(variables)
    assert y.dtype == jnp.bfloat16
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grad))
    assert float(jnp.abs(grad["params"]["conv"]).max()) > 0


def test_bad_arguments_are_named():
    q, k, v = qkv(0)
    with pytest.raises(ValueError, match="landmarks 0"):
        nystrom_attention(q, k, v, 0)
    with pytest.raises(ValueError, match="4 taps"):
        nystrom_attention(q, k, v, 4, conv=jnp.zeros((4, HEADS)))
    with pytest.raises(ValueError, match="dim 16 is not divisible by heads 3"):
        NystromAttention(16, 3).init(jax.random.key(0), jnp.zeros((1, 4, 16)))
