"""The codecs against brute force: nearest levels, integer sums, rotations that change nothing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import mixers, transformer
from streamzoo.layers.codec import (
    hadamard,
    integers,
    kivi,
    nvfp4,
    packing,
    paretoq,
    spin,
    spin_blocks,
    w8a8,
)


def weights(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * rng.lognormal(size=shape[-1])).astype(np.float32)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_code_is_the_nearest_of_its_group(bits, symmetric):
    w = weights(3, 64)
    w[0, :16] = 0
    codes = integers.quantise(w, bits, group=16, symmetric=symmetric)
    levels = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1))
    grid = (levels - codes.zero[..., None]) * codes.scale[..., None]  # [3, 4, levels]
    error = np.abs(w.reshape(3, 4, 16, 1) - grid[:, :, None]).min(-1).reshape(3, 64)
    got = np.abs(integers.dequantise(codes) - w)
    assert (got <= error * (1 + 1e-4) + 1e-6).all()
    packed = packing.pack(codes.codes, bits)
    assert packed.shape == (3, 64 * bits // 32)
    np.testing.assert_array_equal(packing.unpack(packed, bits, 64), codes.codes)
    # as one number of many digits
    whole = sum((int(c) + 2 ** (bits - 1)) << (bits * i) for i, c in enumerate(codes.codes[1]))
    digits = [whole >> (32 * i) & 0xFFFFFFFF for i in range(packed.shape[1])]
    np.testing.assert_array_equal(np.asarray(packed)[1].view(np.uint32), digits)


def test_words_are_packed_along_any_axis():
    codes = np.random.default_rng(0).integers(-4, 4, (2, 21, 5)).astype(np.int8)
    packed = packing.pack(codes, 3, axis=1)
    assert packed.shape == (2, 2, 5)
    np.testing.assert_array_equal(packing.unpack(packed, 3, 21, axis=1), codes)


def test_groups_that_do_not_divide_are_refused_with_those_that_do():
    with pytest.raises(ValueError, match="192 does not divide into groups of 128; groups of 64"):
        integers.quantise(weights(2, 192), 4, group=128)


def test_the_integer_product_is_exact():
    rng = np.random.default_rng(0)
    a = rng.integers(-127, 128, (5, 3, 700), dtype=np.int8)
    b = rng.integers(-127, 128, (700, 4), dtype=np.int8)
    got = jax.jit(w8a8.integer_product)(a, b)
    np.testing.assert_array_equal(got, a.astype(np.int64) @ b.astype(np.int64))
    x, w = weights(6, 96), weights(4, 96, seed=1)
    qw, sw = w8a8.per_row(jnp.asarray(w))
    got = np.asarray(w8a8.product(jnp.asarray(x), qw.T, sw[:, 0]))
    bound = (
        np.abs(x).max(1)[:, None] * np.abs(w).sum(1) + np.abs(w).max(1) * np.abs(x).sum(1)[:, None]
    )
    assert (np.abs(got - x @ w.T) <= bound / 254 * 1.01 + 1e-3).all()
    assert np.abs(got - x @ w.T).max() > 0


def test_nvfp4_values_survive_a_second_time_and_a_value_is_the_nearest():
    x = weights(4, 64)
    x[0, :16] = 0
    once = nvfp4.dequantise(packed := nvfp4.quantise(jnp.asarray(x)))
    again = nvfp4.dequantise(nvfp4.quantise(once, whole=packed.whole))
    np.testing.assert_array_equal(once, again)
    grid = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    grid = np.concatenate([-grid, grid])
    scale = np.asarray(packed.scale.astype(jnp.float32) * packed.whole)[..., None]
    near = np.abs(x.reshape(4, 4, 16, 1) - (grid * scale)[:, :, None]).min(-1).reshape(4, 64)
    assert (np.abs(once - x) <= near + 1e-5).all()


@pytest.mark.parametrize("bits, count", [(1, 2), (1.58, 3), (2, 4), (3, 8), (4, 16)])
def test_paretoq_has_its_levels_and_its_gradients_only_inside(bits, count):
    w = weights(512, 2, seed=3)
    alpha = paretoq.first_alpha(w, bits)
    assert alpha.shape == (1, 2)
    y, back = jax.vjp(lambda w, a: paretoq.fake_quantise(w, a, bits), w, alpha * 0.7)
    assert len(np.unique(np.asarray(y)[:, 0])) <= count
    assert len(np.unique(np.asarray(y)[:, 0])) >= min(count, 8) - 1
    gw, ga = back(jnp.ones_like(y))
    ratio = np.abs(w / np.asarray(alpha) / 0.7)
    edge = {1: 1, 1.58: 0.99, 2: 0.99, 3: 4, 4: 8}[bits]
    np.testing.assert_array_equal(np.asarray(gw)[ratio > edge], 0)
    assert ga.shape == alpha.shape and np.abs(ga).min() > 0
    with pytest.raises(ValueError, match="not 5"):
        paretoq.levels(w, alpha, 5)


@pytest.mark.parametrize("n", [8, 12, 24, 28, 48, 168, 336, 384])
def test_hadamard_matrices_are_orthogonal_and_their_products_fast(n):
    matrix = hadamard.hadamard(n)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(n), atol=1e-12)
    np.testing.assert_allclose(np.abs(matrix) * n**0.5, 1)
    x = weights(3, n)
    np.testing.assert_allclose(hadamard.transform(jnp.asarray(x)), x @ matrix.T, atol=1e-4)


def test_an_order_without_a_matrix_is_refused():
    with pytest.raises(ValueError, match="order 23"):
        hadamard.hadamard(23)
    assert len(spin.random_rotation(23)) == 23  # a random orthogonal one instead


def test_layer_norm_commutes_with_rotations_that_keep_the_ones():
    norm = lambda x: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = weights(7, 48).astype(np.float64) + 3
    for blocks in ([48], [12, 36]):
        r = spin.block_diagonal(
            [spin.random_rotation(n, i, ones=True) for i, n in enumerate(blocks)]
        )
        np.testing.assert_allclose(r @ r.T, np.eye(48), atol=1e-12)
        np.testing.assert_allclose(norm(x @ r), norm(x) @ r, atol=1e-10)
    plain = spin.random_rotation(48)
    assert np.abs(norm(x @ plain) - norm(x) @ plain).max() > 0.1
    # where the mean is gone, LayerNorm is RMSNorm, which any rotation commutes with
    bare = np.asarray(spin.centre(x))
    rms = lambda x: x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(rms(bare @ plain), norm(x) @ plain, atol=1e-10)


def test_a_rotation_takes_outliers_away_and_learns():
    x = np.random.default_rng(0).normal(size=(64, 48))
    x[:, 5] *= 40
    r = spin.random_rotation(48, 1)
    assert float(spin.kurtosis(x @ r)) < 5 < float(spin.kurtosis(x)) / 4
    few = jnp.asarray(x / x.std(), jnp.float32)
    fourth = lambda r: ((few @ r) ** 4).mean()
    start = np.linalg.qr(np.random.default_rng(1).normal(size=(48, 48)))[0]
    learned, losses = spin.learn_rotation(start, fourth, steps=20, rate=0.1)
    np.testing.assert_allclose(learned @ learned.T, np.eye(48), atol=1e-5)
    assert float(fourth(learned)) < 0.5 * losses[0] < 0.1 * float(fourth(jnp.eye(48)))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_keys_per_channel_lose_less_than_per_token(bits):
    keys = weights(2, 64, 32, seed=5)  # channels of their own size
    keys[0, :32, 3] = 7.0  # a constant group
    packed = kivi.quantise_keys(jnp.asarray(keys), bits)
    back = np.asarray(kivi.dequantise_keys(packed, bits))
    np.testing.assert_array_equal(back[0, :32, 3], 7.0)
    half = np.asarray(packed.scale)[:, :, 0].repeat(32, axis=1) / 2
    assert (np.abs(back - keys) <= half + 1e-5).all()
    rows = kivi.quantise_values(jnp.asarray(keys), bits)
    token = np.asarray(kivi.dequantise_values(rows, bits))
    assert np.abs(back - keys).mean() < np.abs(token - keys).mean()
    assert packed.codes.nbytes == keys.nbytes * bits // 32 == rows.codes.nbytes


def test_the_least_error_is_searched_for():
    w = weights(4, 64)
    plain, best = integers.quantise(w, 3, convention="whole"), integers.search(w, 3)
    loss = lambda c: (np.abs(integers.dequantise(c) - w) ** 2.4).sum(-1)
    assert (loss(best) <= loss(plain) + 1e-6).all() and (loss(best) < loss(plain)).any()


def test_reading_and_writing_in_rotated_channels_changes_nothing():
    x, up, down = weights(5, 24), weights(24, 48, seed=1), weights(48, 24, seed=2)
    r = spin.random_rotation(24, 3)
    want = np.maximum(x @ up, 0) @ down
    hidden = np.maximum((x @ r) @ np.asarray(spin.reader(jnp.asarray(up), r)), 0)
    turned = np.asarray(hadamard.transform(jnp.asarray(hidden)))
    got = turned @ np.asarray(spin.hadamard_read(spin.writer(jnp.asarray(down), r)))
    np.testing.assert_allclose(got @ r.T, want, atol=1e-3 * np.abs(want).max())
    heads = np.stack([spin.random_rotation(12, i) for i in range(4)])
    value, out = weights(24, 48, seed=4), weights(48, 24, seed=5)
    turned = spin.heads_written(jnp.asarray(value), heads), spin.heads_read(jnp.asarray(out), heads)
    np.testing.assert_allclose(turned[0] @ turned[1], value @ out, atol=2e-3)
    assert np.abs(turned[0] - value).max() > 0.1


@pytest.mark.slow
def test_a_tsa_in_rotated_channels_is_the_same_function():
    """Through three blocks and frames, LayerNorm, layer scale and the shift included."""
    config = transformer.BlockConfig(dim=48, heads=4, layer_scale=0.3)
    stack = transformer.BlockStack(config, 3, (mixers.mix("shift", fraction=1 / 4),))
    x = jnp.asarray(weights(1, 4, 5, 48)) + 2  # a mean that differs from frame to frame
    carry = stack.init_carry(1, 5)
    variables = stack.init(jax.random.key(0), carry, x)
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [a + 0.1 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    params = jax.tree.unflatten(tree, moved)["params"]
    r1 = spin_blocks.shift_rotation(48, 12)
    r2 = np.stack([spin.random_rotation(12, seed) for seed in range(4)])
    run = jax.jit(lambda params, x: stack.apply({"params": params}, carry, x)[1])
    want = run(params, x)

    def gap(r1):
        rotated = spin_blocks.rotate_stack(params, r1, r2)
        return np.abs(run(rotated, x @ r1) @ r1.T - want).max() / np.abs(want).max()

    assert gap(r1) < 1e-5
    # a rotation of all channels mixes what moves with what stays
    assert gap(spin.random_rotation(48, ones=True)) > 0.01
    with pytest.raises(ValueError, match="vector of ones"):
        gap(spin.random_rotation(48))
    with pytest.raises(ValueError, match="no rotated form"):
        spin_blocks.rotate_stack({"layer0": params["layer0"] | {"mixer": {}}}, r1, r2)
