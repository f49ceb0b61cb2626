"""Schedule, average, layer-wise rates and weight decay against closed forms."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.train import optim
from streamzoo.train.optim import OptimConfig
from streamzoo.zoo.weights import shapes_of


def params(value=1.0):
    full = lambda *shape: jnp.full(shape, value)
    layer = {"mlp": {"up": {"kernel": full(3, 4, 5), "bias": full(3, 5)}}, "norm": full(3, 4)}
    return {
        "student": {
            "pos_embed": full(6, 4),
            "patch_embed": {"kernel": full(7, 4), "bias": full(4)},
            "blocks": {"layer0": layer, "layer1": layer},
            "head": {"kernel": full(4, 2), "bias": full(2)},
        },
        "log_variance": full(3),
    }


def one_update(config, steps=10, scale=None, grad=0.0, weights=None):
    """The change of the weights at the step of the highest rate, from a gradient of ``grad``."""
    weights = params() if weights is None else weights
    optimiser = optim.make_optimiser(config, steps, weights, scale)
    return second_change(
        optimiser, jax.tree.map(lambda p: jnp.full_like(p, grad), weights), weights
    )


def second_change(optimiser, slope, weights):
    @jax.jit
    def two(slope, weights):  # the rate of step 0 is 0
        _, state = optimiser.update(slope, optimiser.init(weights), weights)
        return optimiser.update(slope, state, weights)[0]

    return two(slope, weights)


@pytest.mark.parametrize("warmup, peak", [(0.1, 10), (25, 25), (0.0, 1), (500, 99)])
def test_schedule(warmup, peak):
    config = OptimConfig(learning_rate=0.3, warmup=warmup, final=0.1)
    rate = optim.schedule(config, 100)
    assert optim.warmup_steps(config, 100) == peak
    for step in (0, peak // 2, peak, (peak + 100) // 2, 99, 100):
        if step <= peak:
            want = 0.3 * step / peak
        else:
            cosine = 0.5 * (1 + math.cos(math.pi * (step - peak) / (100 - peak)))
            want = 0.3 * (0.1 + 0.9 * cosine)
        assert rate(step) == pytest.approx(want, rel=1e-5)


def test_average_is_a_weighted_mean_of_all_weights():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=40)
    average, share = 0.0, np.zeros(40)
    for step, w in enumerate(weights):
        average = optim.averaged(average, w, jnp.int32(step), 0.8)
        keep = min(0.8, (1 + step) / (10 + step))
        share = keep * share
        share[step] = 1 - keep
    assert float(average) == pytest.approx(float(share @ weights), rel=1e-5)
    assert float(optim.averaged(5.0, 7.0, jnp.int32(3), 0.0)) == 7.0


def test_only_matrices_decay():
    change = one_update(OptimConfig(learning_rate=0.5, weight_decay=0.2, warmup=1))
    decayed = {optim.path_of(p): float(v.ravel()[0]) for p, v in jax.tree.leaves_with_path(change)}
    for name, value in decayed.items():
        assert value == pytest.approx(-0.1 if name.endswith("kernel") else 0.0, abs=1e-7), name


def test_layer_decay_counts_blocks_from_the_head():
    scale = optim.layer_scale(params(), 0.5)["student"]
    up = [scale["blocks"][f"layer{i}"]["mlp"]["up"]["kernel"] for i in (0, 1)]
    assert up[0].shape == (3, 1, 1)
    # depth 6: block d = repeat * 2 + index has 0.5 ** (6 - d)
    np.testing.assert_allclose(up[0].ravel(), [0.5**6, 0.5**4, 0.5**2])
    np.testing.assert_allclose(up[1].ravel(), [0.5**5, 0.5**3, 0.5**1])
    assert scale["pos_embed"] == scale["patch_embed"]["kernel"] == np.float32(0.5**7)
    assert scale["head"]["kernel"] == 1


def test_layer_decay_of_a_real_model():
    shapes = shapes_of("tsa-ti16", image_size=(32, 32), depth=4, num_classes=3)["params"]
    leaves = jax.tree.leaves_with_path(optim.layer_scale(shapes, 0.5))
    low = {optim.path_of(path): np.min(leaf) for path, leaf in leaves}
    assert low["blocks/layer0/attn/qkv/kernel"] == 0.5**4
    assert low["pos_embed"] == low["patch_embed/kernel"] == 0.5**5
    rest = {n: v for n, v in low.items() if "blocks" not in n and "embed" not in n}
    assert rest and set(rest.values()) == {1}


@pytest.mark.parametrize("name", optim.NAMES)
def test_layer_decay_scales_the_changes(name):
    plain = one_update(OptimConfig(name, weight_decay=0.2), grad=1e-3)
    scaled = one_update(OptimConfig(name, weight_decay=0.2, layer_decay=0.5), grad=1e-3)
    scale = optim.layer_scale(params(), 0.5)
    jax.tree.map(
        lambda p, s, k: np.testing.assert_allclose(s, p * k, rtol=1e-5), plain, scaled, scale
    )
    given = one_update(OptimConfig(name, weight_decay=0.2), grad=1e-3, scale=scale)
    jax.tree.map(np.testing.assert_array_equal, given, scaled)


def test_adam_moves_by_the_rate_and_clipping_bounds_the_gradient():
    change = one_update(OptimConfig(learning_rate=0.5, weight_decay=0.0, warmup=1), grad=3.0)
    for leaf in jax.tree.leaves(change):
        np.testing.assert_allclose(leaf, -0.5, rtol=1e-3)
    big = OptimConfig("muon", learning_rate=0.5, weight_decay=0.0, clip=1.0)
    a, b = (one_update(big, grad=g) for g in (50.0, 500.0))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), a, b)


def test_muon_orthogonalises_the_blocks_matrices_only():
    rng = np.random.default_rng(1)
    weights = {
        "blocks": {"layer0": {"kernel": jnp.zeros((2, 8, 8)), "scale": jnp.zeros((2, 8))}},
        "head": {"kernel": jnp.zeros((8, 8))},
    }
    config = OptimConfig("muon", learning_rate=1.0, weight_decay=0.0, warmup=1, clip=0.0)
    optimiser = optim.make_optimiser(config, 10, weights)
    slope = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), weights)
    change = second_change(optimiser, slope, weights)
    pair = (tree["blocks"]["layer0"]["kernel"] for tree in (change, slope))
    for matrix, grad in zip(*pair, strict=True):
        values = np.linalg.svd(matrix, compute_uv=False) / (0.2 * math.sqrt(8))
        assert values.min() > 0.5 and values.max() < 1.5  # all near 1
        assert float((matrix * grad).sum()) < 0  # downhill
    # the rest is Adam's, with Nesterov's look ahead: the sign, a little above the rate
    signs = change["head"]["kernel"] / -np.sign(slope["head"]["kernel"])
    assert signs.min() > 1.0 and signs.max() < 1.2


def test_unknown_optimiser():
    with pytest.raises(ValueError, match="adamw, muon"):
        OptimConfig("sgd")


def test_weights_stay_on_the_sphere_along_the_tokens_axis():
    """Every vector that reads the tokens, and every one that writes them, has length 1 after a
    step; what is no block's matrix moves as it would."""
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params())
    blocks = weights["student"]["blocks"]
    for layer in blocks.values():
        layer["mlp"] = {**layer["mlp"], "down": {"kernel": jnp.asarray(rng.normal(size=(3, 5, 4)))}}
    slope = jax.tree.map(jnp.sin, weights)
    plain = OptimConfig(learning_rate=0.1, warmup=1, weight_decay=0.0)
    change = {
        sphere: second_change(
            optim.make_optimiser(dataclasses.replace(plain, sphere=sphere), 10, weights),
            slope, weights,
        )
        for sphere in (False, True)
    }  # fmt: skip
    after = jax.tree.map(jnp.add, weights, change[True])
    mlp = after["student"]["blocks"]["layer1"]["mlp"]
    np.testing.assert_allclose(jnp.linalg.norm(mlp["up"]["kernel"], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(mlp["down"]["kernel"], axis=2), 1, rtol=1e-5)
    for path in (("head", "kernel"), ("patch_embed", "kernel"), ("pos_embed",)):
        pick = lambda tree, path=path: functools.reduce(lambda t, k: t[k], path, tree["student"])
        np.testing.assert_allclose(pick(change[True]), pick(change[False]), atol=1e-6)
    free = jax.tree.map(jnp.add, weights, change[False])["student"]["blocks"]["layer1"]["mlp"]
    want = free["up"]["kernel"] / jnp.linalg.norm(free["up"]["kernel"], axis=1, keepdims=True)
    np.testing.assert_allclose(mlp["up"]["kernel"], want, rtol=1e-4, atol=1e-6)
    zeros = jnp.zeros((2, 3, 3))
    assert not optim.unit_vectors("blocks/layer0/attention/q/kernel", zeros).any()
