"""Memories of clusters are Flash-VStream's, and streams."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.layers.memory.flash import details, flash_places, synopsis
from streamzoo.layers.memory.kmeans import apart, merge_neighbours, merge_pairs, weighted_kmeans
from streamzoo.layers.memory.star import StarMemory
from streamzoo.layers.policies.pooling import pool_square

from ..language import case, dense, golden, needs_goldens


@needs_goldens
@pytest.mark.parametrize("name", ["wk0", "wk1", "wk2", "wk3"])
def test_clusters_are_the_authors(name):
    z, _ = golden("flash_vstream_kmeans")
    z = case(z, name)
    x = z["x"].reshape(len(z["x"]), -1)
    spare = jnp.asarray(z["empty_draws"], jnp.int32) if len(z["empty_draws"]) else None
    got = weighted_kmeans(x, z["w"], jnp.asarray(z["init_perm"], jnp.int32), spare)
    np.testing.assert_array_equal(got.labels, z["labels"])
    np.testing.assert_allclose(got.centroids, z["centroids"].reshape(len(got[0]), -1), atol=2e-6)
    np.testing.assert_allclose(got.weights, z["weights"], rtol=1e-5)
    assert float(got.weights.sum()) == pytest.approx(float(z["w"].sum()), rel=1e-5)


def test_a_cluster_without_rows_takes_the_farthest():
    x = jnp.asarray([[0.0], [0.1], [9.0]])
    got = weighted_kmeans(x, jnp.ones(3), jnp.asarray([0, 0]))
    assert sorted(np.asarray(got.centroids)[:, 0].tolist()) == pytest.approx([0.05, 9.0])


@needs_goldens
@pytest.mark.parametrize("merge, key", [(merge_neighbours, "merge"), (merge_pairs, "kmerge")])
def test_merged_frames_are_the_authors(merge, key):
    z, _ = golden("flash_vstream_kmeans")
    x = z[f"{key}/x"].reshape(14, -1)
    np.testing.assert_allclose(merge(x, 6), z[f"{key}/out"].reshape(6, -1), atol=1e-6)


def authors(z):
    module = StarMemory(12, long=6, abstract=5, bank=16, width=8, counts=False, bank_first=True)
    params = {"query": dense(z, "p/q_proj"), "key": dense(z, "p/k_proj")}
    return module, {"params": params}


@needs_goldens
@pytest.mark.slow
def test_a_stream_of_chunks_is_the_authors():
    z, _ = golden("flash_vstream_star_stream")
    module, variables = authors(z)
    carry = module.init_carry(1)
    push = jax.jit(lambda c, x, s: module.apply(variables, c, x, s, method=StarMemory.chunk))
    for i in range(14):
        own = case(z, f"s{i}")
        start = own["init_perm"] if len(own["init_perm"]) else np.arange(6)
        carry = push(carry, own["x"][None], jnp.asarray(start, jnp.int32)[None])
        count = len(own["long"])
        np.testing.assert_allclose(carry.centroids[0, :count], own["long"], atol=5e-6)
        assert not np.asarray(carry.weights)[0, count:].any()
        rows = len(own["abstract"])
        np.testing.assert_allclose(carry.abstract[0, :rows], own["abstract"][:, 0], atol=5e-6)
        frames = np.concatenate([carry.keys[0], carry.current])[-len(own["current_and_key"]) :]
        np.testing.assert_array_equal(frames, own["current_and_key"])


@needs_goldens
def test_a_film_at_once_is_the_authors():
    z, _ = golden("flash_vstream_star_offline")
    module, variables = authors(golden("flash_vstream_star_stream")[0])
    x = jnp.asarray(z["x"])
    past = x[None, :-1]  # all frames but the current one; the abstract takes five at a time
    carry = module.init_carry(1)
    small = pool_square(past, 4)[0]
    start = jnp.asarray(z["init_perm"], jnp.int32)
    found = weighted_kmeans(small.reshape(10, -1), jnp.ones(10), start)
    push = jax.jit(lambda c, x: module.apply(variables, c, x, method=StarMemory.chunk))
    for at in (0, 5):
        carry = push(carry, past[:, at : at + 5])
    heavy = jnp.argsort(-found.weights, stable=True)[:3]
    got = np.concatenate([
        carry.abstract[0], found.centroids.reshape(-1, 12), x[heavy].reshape(-1, 12), x[-1],
    ])  # fmt: skip
    np.testing.assert_allclose(got, z["out"], atol=5e-6)


@needs_goldens
def test_synopsis_details_and_positions_are_the_authors():
    z, _ = golden("flash_vstream_qwen")
    whole = z["x"][: 15 * 64].reshape(15, 64, 5)
    small = z["x"][15 * 64 :].reshape(15, -1)
    # their permutation is of the rows in sorted order
    order = np.lexsort(small.T[::-1])
    start = jnp.asarray(order[z["init_perm"][:6]], jnp.int32)
    told = synopsis(jnp.asarray(small), start, weighted_time=False)
    np.testing.assert_allclose(told.times, z["csm_time"])
    np.testing.assert_array_equal(told.weights, z["csm_weight"])
    frames = details(told, jnp.asarray(small), 3)
    rows = np.concatenate([whole[frames].reshape(-1, 5), told.centroids.reshape(-1, 5)])
    np.testing.assert_allclose(rows, z["out"].reshape(-1, 5), atol=1e-6)
    places = flash_places(5, frames, (4, 4), told.times, (2, 2), shift=True)
    np.testing.assert_array_equal(places.T, z["position_out"][:, 0, 5:77])
    close = flash_places(5, frames, (4, 4), told.times, (2, 2))
    assert int(close.max()) == 5 + 13  # the time of the last cluster


def test_a_new_scene_is_a_new_cluster():
    """Begun with the old clusters, k-means would add it to one of them."""
    rows = jnp.asarray([[[0.0], [0.1], [5.0], [9.0]], [[0.0], [4.0], [8.0], [0.0]]])
    there = jnp.asarray([[True] * 4, [True, True, True, False]])
    assert apart(rows, there, 3).tolist() == [[0, 2, 3], [0, 1, 2]]


@pytest.mark.slow
def test_weights_are_carried_and_key_frames_are_recent():
    """The authors' streaming code restarts the weights, and finds key frames among the first."""
    rng = np.random.default_rng(0)
    scenes = rng.standard_normal((3, 16, 4)).astype(np.float32) * 5
    film = np.concatenate(
        [np.repeat(s[None], n, 0) for s, n in zip(scenes, (20, 6, 4), strict=True)]
    )
    film += 0.01 * rng.standard_normal(film.shape).astype(np.float32)
    got = {}
    for counts in (True, False):
        module = StarMemory(
            4, long=3, side=2, abstract=2, bank=8, width=4, counts=counts, bank_first=not counts
        )
        variables = module.init(jax.random.key(0), module.init_carry(1, 16), film[None, :1])
        step = jax.jit(module.apply)
        carry = module.init_carry(1, 16)
        for frame in film:
            carry, _ = step(variables, carry, frame[None, None])
        got[counts] = carry
    assert float(got[True].weights.sum()) == 30  # every frame counts once
    assert float(got[False].weights.sum()) <= 4
    latest = np.abs(np.asarray(got[True].keys)[0] - scenes[2]).max(axis=(1, 2)).min()
    first = np.abs(np.asarray(got[False].keys)[0] - scenes[0]).max(axis=(1, 2)).max()
    assert latest < 0.1 and first < 0.1


def frames(seed, batch, steps):
    x = np.random.default_rng(seed).standard_normal((batch, steps, 16, 4))
    return x.astype(np.float32)


@functools.cache
def subject():
    module = StarMemory(4, long=3, side=2, abstract=2, bank=4, width=4)
    variables = module.init(jax.random.key(0), module.init_carry(1, 16), frames(0, 1, 1))
    call = lambda carry, x, valid: module.apply(variables, carry, x, valid)
    return Subject(lambda batch: module.init_carry(batch, 16), call, frames)


@pytest.mark.slow
@pytest.mark.parametrize("law", contract.LAWS, ids=lambda law: law.__name__)
def test_carry_law(law):
    law(subject())
