"""Attention in linear time: Nystromformer's and Linformer's, alone and as a teacher's choice."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.linformer import linformer_attention
from streamzoo.layers.nystrom import nystrom_attention, pseudo_inverse, segment_means
from streamzoo.zoo import init_params, model_config

GOLDEN = pathlib.Path(__file__).parent / "data" / "hf_nystromformer.npz"
STEPS, DIM, HEADS = 12, 16, 2


def qkv(seed, steps=STEPS, batch=2):
    keys = jax.random.split(jax.random.key(seed), 3)
    return [jax.random.normal(k, (batch, steps, HEADS, DIM // HEADS)) for k in keys]


@pytest.mark.parametrize("case", range(4))
def test_parity_with_transformers(case):
    """Golden: transformers 5.24 ``NystromformerSelfAttention`` with random weights, behind its
    projections: 4 or 3 landmarks of 12 tokens, or all; without a convolution, with 5 taps, with 3;
    the second and the last with tokens that are masked."""
    with np.load(GOLDEN) as file:
        z = {k[2:]: v for k, v in file.items() if k.startswith(f"{case}/")}
    call = jax.jit(
        lambda q, k, v: nystrom_attention(
            q, k, v, int(z["landmarks"]), conv=z.get("conv"), mask=z.get("mask")
        )
    )
    got = call(z["q"], z["k"], z["v"])
    np.testing.assert_allclose(got.reshape(z["out"].shape), z["out"], atol=1e-5)


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


def linformer_loop(q, k, v, e, f):
    """Equation 7 in float64, head by head."""
    q, k, v, e, f = (np.asarray(x, np.float64) for x in (q, k, v, e, f))
    y = np.zeros(q.shape)
    for b, h in np.ndindex(q.shape[0], q.shape[2]):
        logits = q[b, :, h] @ (e @ k[b, :, h]).T / np.sqrt(q.shape[-1])
        rows = np.exp(logits - logits.max(-1, keepdims=True))
        y[b, :, h] = rows / rows.sum(-1, keepdims=True) @ (f @ v[b, :, h])
    return y


def test_linformer_is_its_equation_and_with_as_many_rows_as_tokens_full_attention():
    q, k, v = qkv(3)
    e, f = (0.5 * jax.random.normal(jax.random.key(i), (5, STEPS)) for i in (8, 9))
    got = jax.jit(linformer_attention)(q, k, v, e, f)
    np.testing.assert_allclose(got, linformer_loop(q, k, v, e, f), atol=1e-5)
    one = jnp.eye(STEPS)[::-1]  # rank = T: any order of the tokens
    want = jax.nn.dot_product_attention(q, k, v)
    np.testing.assert_allclose(linformer_attention(q, k, v, one, one), want, atol=1e-5)
    with pytest.raises(ValueError, match="made for 12 tokens, and 11 came"):
        linformer_attention(q[:, :11], k[:, :11], v[:, :11], e, f)


SMALL = dict(image_size=(16, 32), patch=8, dim=32, depth=2, heads=2, frames=4, num_classes=3)
TEACHER = "videomae-s16"  # two tubelets of 2 x 4 patches: 16 tokens


def teacher(**choice):
    return init_params(TEACHER, **SMALL, **choice)


@pytest.mark.slow
def test_a_teacher_with_as_many_landmarks_as_tokens_is_the_full_one():
    """And with fewer it is not; its clip then costs no attention of 16 x 16."""
    clip = jax.random.normal(jax.random.key(0), (2, 4, 16, 32, 3))
    model, params = teacher()
    params = jax.tree.map(lambda a: a + 0.1 * jnp.cos(jnp.arange(a.size)).reshape(a.shape), params)
    want = jax.jit(model.apply)(params, clip).box_logits
    answer = lambda model, params: jax.jit(model.apply)(params, clip).box_logits
    all_of, few = (teacher(attention="nystrom", rank=rank)[0] for rank in (16, 3))
    np.testing.assert_allclose(answer(all_of, params), want, atol=1e-5)
    assert float(jnp.abs(answer(few, params) - want).max()) > 1e-4

    model, own = teacher(attention="linformer", rank=16)
    one = jnp.broadcast_to(jnp.eye(16), (2, 16, 16))
    given = jax.tree.map(lambda a: a, own)
    given["params"] = {**params["params"], "blocks": dict(params["params"]["blocks"])}
    layer = dict(given["params"]["blocks"]["layer0"])
    layer["attn"] = {**layer["attn"], "approximate": {"shorten_k": one, "shorten_v": one}}
    given["params"]["blocks"]["layer0"] = layer
    np.testing.assert_allclose(answer(model, given), want, atol=1e-5)
    with pytest.raises(ValueError, match="made for 16 tokens, and 8 came"):
        model.apply(own, clip[:, :2])
    with pytest.raises(ValueError, match="linformer attention makes no attention rows"):
        model.apply(own, clip, taps=("attention",))


@pytest.mark.slow
@pytest.mark.parametrize("kind, more", [("nystrom", {"value_taps": 3}), ("linformer", {})])
def test_every_weight_of_such_a_teacher_learns(kind, more):
    clip = jax.random.normal(jax.random.key(0), (1, 4, 16, 32, 3), jnp.bfloat16)
    model, params = teacher(attention=kind, rank=4, dtype="bfloat16", **more)
    params = jax.tree.map(lambda a: a + 0.1 * jnp.cos(jnp.arange(a.size)).reshape(a.shape), params)
    loss = lambda p: model.apply(p, clip).box_logits.astype(jnp.float32).sum()
    grad = jax.jit(jax.grad(loss))(params)["params"]["blocks"]["layer0"]["attn"]["approximate"]
    assert set(grad) == ({"conv"} if kind == "nystrom" else {"shorten_k", "shorten_v"})
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grad))


@pytest.mark.parametrize(
    "choice, message",
    [
        ({"attention": "performer"}, "attention 'performer': choose full or one of"),
        ({"attention": "nystrom", "rank": 0}, "rank 0 of nystrom attention must be at least 1"),
        ({"attention": "linformer", "value_taps": 3}, "taps 3: an odd number, and of nystrom"),
        ({"attention": "nystrom", "value_taps": 4}, "taps 4: an odd number"),
    ],
)
def test_a_choice_that_is_none_is_named(choice, message):
    with pytest.raises(ValueError, match=message):
        model_config(TEACHER, **choice)


def test_bad_arguments_are_named():
    q, k, v = qkv(0)
    with pytest.raises(ValueError, match="landmarks 0"):
        nystrom_attention(q, k, v, 0)
    with pytest.raises(ValueError, match="4 taps"):
        nystrom_attention(q, k, v, 4, conv=jnp.zeros((4, HEADS)))
