"""FAVOR+ against brute force in float64, exact softmax attention, and its own streamed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.favor import Favor, favor_attention, init_sums, orthogonal_features

KEY = jax.random.key


def draw(seed, steps, batch=2, heads=2, width=8, scale=1.0):
    rng = np.random.default_rng(seed)
    q, k = scale * rng.normal(size=(2, batch, steps, heads, width))
    return (
        q.astype(np.float32),
        k.astype(np.float32),
        rng.normal(size=(batch, steps, heads * width)).astype(np.float32),
    )


def run(q, k, v, projection, lengths, **options):
    heads = q.shape[2]
    sums = init_sums(len(q), len(projection), heads, v.shape[2])
    attend = jax.jit(lambda s, q, k, v, o: favor_attention(s, q, k, v, projection, **o))
    parts, at = [], 0
    for n in lengths:
        cut = slice(at, at + n)
        own = {name: a[:, cut] for name, a in options.items()}
        sums, y = attend(sums, q[:, cut], k[:, cut], v[:, cut], own)
        parts.append(np.asarray(y))
        at += n
    return sums, np.concatenate(parts, 1)


def weigh(weights, v, heads):
    """weights [B, H, T, T] of a causal average, v [B, T, H * dv] -> [B, T, H * dv]."""
    batch, steps = v.shape[:2]
    weights = weights * np.tril(np.ones((steps, steps)))
    weights = weights / weights.sum(-1, keepdims=True)
    v = v.reshape(batch, steps, heads, -1)
    return np.einsum("bhij,bjhv->bihv", weights, v).reshape(batch, steps, -1)


def brute_force(q, k, v, projection, forget=None):
    """From the definition, unstabilised, in float64."""
    heads, width = q.shape[2:]

    def phi(x):
        x = x.astype(np.float64) * width**-0.25
        return np.exp(x @ projection.T.astype(np.float64) - (x * x).sum(-1, keepdims=True) / 2)

    weights = np.einsum("bihm,bjhm->bhij", phi(q), phi(k))
    if forget is not None:
        total = np.cumsum(forget, axis=1)
        weights = weights * np.exp(total[:, None, :, None] - total[:, None, None, :])
    return weigh(weights, v, heads)


def softmax(q, k, v):
    heads, width = q.shape[2:]
    logits = np.einsum("bihd,bjhd->bhij", q.astype(np.float64), k) / np.sqrt(width)
    return weigh(np.exp(logits), v, heads)


@pytest.mark.parametrize("lengths", [[37], [1] * 37, [20, 1, 16]])
def test_equals_brute_force(lengths):
    q, k, v = draw(0, 37)
    projection = orthogonal_features(24, 8)
    forget = np.where(np.arange(37) > 9, -0.3, 0.0) * np.ones((2, 1))
    for options in ({}, {"forget": forget.astype(np.float32)}):
        _, got = run(q, k, v, projection, lengths, **options)
        want = brute_force(q, k, v, projection, options.get("forget"))
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_the_error_to_exact_softmax_falls_with_features():
    q, k, v = draw(1, 24, batch=4, scale=0.6)
    want, errors = softmax(q, k, v), []
    for features in (16, 256, 4096):
        gaps = []
        for seed in range(3):
            _, got = run(q, k, v, orthogonal_features(features, 8, seed), [24])
            gaps.append(np.abs(got - want).mean())
        errors.append(np.mean(gaps))
    print("mean error at 16, 256, 4096 features:", errors, "std of the answer:", want.std())
    assert errors[1] < errors[0] / 2 and errors[2] < errors[1] / 2
    assert errors[2] < 0.05 * want.std()


def test_extreme_keys_neither_overflow_nor_vanish():
    """Log features from -3000 to 1000: the running peak keeps all of them in range."""
    q, k, v = draw(2, 30, scale=25.0)
    k[:, 10:] *= 0.01
    projection = orthogonal_features(32, 8)
    sums, got = run(q, k, v, projection, [30])
    _, steps = run(q, k, v, projection, [1] * 30)
    assert all(np.isfinite(a).all() for a in (got, steps, *sums))
    np.testing.assert_allclose(steps, got, atol=1e-4)
    assert np.abs(got).max() <= np.abs(v).max() + 1e-4  # an average of values
    np.testing.assert_allclose(got[:, 0], v[:, 0], atol=1e-5)  # the first frame sees itself


def test_directions_are_orthogonal_gaussian_and_fixed():
    w = orthogonal_features(200, 64, 3)
    first = w[:64] / np.linalg.norm(w[:64], axis=1, keepdims=True)
    np.testing.assert_allclose(first @ first.T, np.eye(64), atol=1e-5)
    assert abs((w**2).mean() - 1) < 0.1
    np.testing.assert_array_equal(w, orthogonal_features(200, 64, 3))
    # Changed directions would change what trained weights mean.
    np.testing.assert_allclose(orthogonal_features(4, 2, 0)[0], GOLDEN, atol=1e-6)


GOLDEN = (0.37021014, 0.20540135)


def module_of(**options):
    module = Favor(16, heads=2, features=12, **options)
    x = jax.random.normal(KEY(0), (1, 2, 3, 16))
    return module, jax.jit(module.init)(KEY(1), module.init_carry(1, 3), x)


def test_old_frames_fade_behind_the_horizon_only():
    x = jax.random.normal(KEY(2), (1, 12, 3, 16))
    outputs = {}
    for horizon in (None, 6):
        module, params = module_of(horizon=horizon)
        step = jax.jit(module.apply)
        carry, outputs[horizon] = step(params, module.init_carry(1, 3), x)
        state, parts = module.init_carry(1, 3), []
        for t in range(12):
            state, y = step(params, state, x[:, t : t + 1])
            parts.append(y)
        np.testing.assert_allclose(np.concatenate(parts, 1), outputs[horizon], atol=1e-5)
    assert int(carry.seen[0]) == 6
    gap = np.abs(np.asarray(outputs[None] - outputs[6])).max(axis=(0, 2, 3))
    assert (gap[:6] == 0).all() and (gap[6:] > 1e-5).all()


def test_a_stream_of_a_year_still_takes_frames_in():
    """Behind the horizon the sums stand still in size, so a new frame keeps its weight."""
    module, params = module_of(horizon=100)
    step = jax.jit(module.apply)
    clip = jax.random.normal(KEY(3), (1, 500, 3, 16))
    carry, _ = step(params, module.init_carry(1, 3), clip)
    size = float(carry.z.max())
    for _ in range(4):
        carry, y = step(params, carry, clip)
    assert float(carry.z.max()) < 1.5 * size < 1.5 * 100
    other, _ = step(params, carry, clip[:, :100] + 1.0)
    _, before = step(params, carry, clip[:, :1])
    _, after = step(params, other, clip[:, :1])
    assert float(jnp.abs(before - after).max()) > 1e-3


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="heads 3 of Favor does not divide dim 16"):
        Favor(16, heads=3).init_carry(1, 3)
    module = Favor(16, horizon=1)
    with pytest.raises(ValueError, match="horizon 1 of Favor"):
        module.init(KEY(0), module.init_carry(1, 3), jnp.zeros((1, 1, 3, 16)))


def test_bf16_computes_with_an_fp32_state():
    plain, params = module_of()
    module = Favor(16, heads=2, features=12, dtype=jnp.bfloat16)
    x = jax.random.normal(KEY(4), (2, 6, 3, 16))
    carry, y = jax.jit(module.apply)(params, module.init_carry(2, 3), x)
    _, want = jax.jit(plain.apply)(params, plain.init_carry(2, 3), x)
    assert carry.s.dtype == jnp.float32 and y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), want, atol=0.05 * float(jnp.abs(want).max()))
