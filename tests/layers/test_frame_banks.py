"""Frames in clusters as they come: Flash-VStream's two memories, VideoTree's tree; systems."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.cluster.vq import kmeans2

from streamzoo.layers.memory.flash import FlashMemory
from streamzoo.layers.memory.star import StarMemory
from streamzoo.layers.memory.tree import ClusterTree
from streamzoo.layers.policies import POLICIES, create
from streamzoo.layers.policies.systems import FRAMES, SYSTEMS, system
from streamzoo.layers.policies.token_drop import TokenDrop


def film(scenes=4, frames=48, seed=0, noise=0.05, dim=6):
    """(frames [1, T, 4, D], the scene of each, in any order but the first of each first)."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((scenes, 4, dim))
    which = np.concatenate([np.arange(scenes), rng.integers(0, scenes, frames - scenes)])
    shown = centres[which] + noise * rng.standard_normal((frames, 4, dim))
    return shown[None].astype(np.float32), which


def test_flash_memory_has_the_scenes_and_a_whole_frame_of_the_heaviest():
    shown, which = film()
    memory = FlashMemory(long=4, side=2, details=2, bank=6)
    step = jax.jit(memory.__call__)
    carry, told = step(memory.init_carry(1, 4, 6), shown)
    # a stretch at a time is the same
    part, parts = memory.init_carry(1, 4, 6), []
    for at in (0, 24):
        part, y = step(part, shown[:, at : at + 24])
        parts.append(y)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), told)
    means = np.stack([shown[0, which == s].mean(axis=0) for s in range(4)])
    times = np.array([np.flatnonzero(which == s).mean() for s in range(4)])
    order = np.argsort(times)
    np.testing.assert_allclose(carry.centroids[0], means[order], atol=1e-4)
    np.testing.assert_allclose(carry.times[0], times[order], rtol=1e-5)
    counts = np.bincount(which)
    np.testing.assert_array_equal(carry.weights[0], counts[order])
    # the first tokens are a frame of the heaviest scene, as it was shown
    assert told.shape == (1, 48, 2 * 4 + 4 * 4, 6)
    heavy = int(carry.weights[0].argmax())
    whole = np.asarray(told)[0, -1, :4]
    own = np.flatnonzero(which == order[heavy])
    assert min(np.abs(shown[0, i] - whole).max() for i in own) == 0
    with pytest.raises(ValueError, match="a larger bank"):
        FlashMemory(bank=30, details=30)


def test_the_tree_is_k_means_where_scenes_are_apart_and_near_it_where_not():
    shown, which = film()
    tree = ClusterTree(4, side=2, leaves=3, wide=1, alike=0.8)
    carry, told = jax.jit(tree.__call__)(tree.init_carry(1, 4, 6), shown)
    means = np.stack([shown[0, which == s].mean(axis=0) for s in range(4)])
    np.testing.assert_allclose(carry.centroids[0], means, atol=1e-5)
    np.testing.assert_array_equal(carry.weights[0], np.bincount(which))
    for scene in range(4):
        times = np.asarray(carry.times)[0, scene]
        assert (which[times] == scene).all() and (np.diff(times) > 0).all()
        np.testing.assert_array_equal(carry.leaves[0, scene], shown[0, times])
    # a question that is like a scene reads its frames
    read = tree.tokens(carry, jnp.asarray(means[2][None]))
    np.testing.assert_array_equal(read[0, :12], carry.leaves[0, 2].reshape(12, 6))
    assert told.shape == (1, 48, 3 * 4 + 4 * 4, 6)
    # eleven scenes in five clusters: two become one again and again
    shown, _ = film(scenes=11, frames=120, noise=0.3, seed=1)
    tree = dataclasses.replace(tree, clusters=5, alike=0.7)
    carry, _ = jax.jit(tree.__call__)(tree.init_carry(1, 4, 6), shown)
    assert float(carry.weights.sum()) == 120
    rows = shown.reshape(120, -1).astype(float)
    cost = lambda centres: ((rows[:, None] - centres) ** 2).sum(axis=-1).min(axis=1).sum()
    best = min(
        cost(kmeans2(rows, 5, minit="++", rng=np.random.default_rng(s))[0]) for s in range(8)
    )
    assert cost(np.asarray(carry.centroids)[0].reshape(5, -1)) < 1.25 * best
    with pytest.raises(ValueError, match="9 clusters read in full, of 8"):
        ClusterTree(8, wide=9)


def test_every_system_of_the_list_has_a_name_and_one_value():
    wanted = (
        "streaming-llm", "streaming-vlm", "rekv", "livevlm", "resv", "flash-vstream-2024",
        "flash-vstream-2025", "stc", "dtd", "longvu", "livestar", "videotree", "full", "vst",
    )  # fmt: skip
    assert set(wanted) <= set(SYSTEMS) == {*POLICIES, *FRAMES}
    for name in SYSTEMS:
        one = system(name, 128, 16, 8)
        assert one == system(name, 128, 16, 8), name
        assert one.policy.capacity <= 128 + 16, name
        if one.bank is not None:  # what a bank gives is what the policy has room for
            give = one.bank
            made = (
                give.init_carry(1, 16)
                if isinstance(give, StarMemory)
                else give.init_carry(1, 16, 8)
            )
            shape = jax.eval_shape(give.tokens, made).shape
            assert shape[1] == one.policy.capacity, name
    assert isinstance(system("dtd", 128, 16, 8).drop, TokenDrop)
    with pytest.raises(ValueError, match="unknown policy 'flash-vstream'; did you mean flash"):
        system("flash-vstream", 128, 16, 8)
    with pytest.raises(ValueError, match="at least 32"):
        system("dtd", 20, 16, 8)
    with pytest.raises(ValueError, match="stc chooses among frames"):
        create("stc", 128)
