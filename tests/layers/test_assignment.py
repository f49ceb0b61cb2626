"""Assignment: the pairs of scipy's Hungarian method, at any shape, in one compiled program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from streamzoo.layers.assignment import assign

solve = jax.jit(assign)


def pairs(found):
    return {(row, int(column)) for row, column in enumerate(found) if column >= 0}


def optimum(similarity):
    rows, columns = linear_sum_assignment(np.maximum(similarity, 0), maximize=True)
    return {(r, int(c)) for r, c in zip(rows, columns, strict=False) if similarity[r, c] > 0}


@pytest.mark.parametrize("shape", [(1, 1), (7, 7), (9, 5), (5, 12), (33, 40)])
@pytest.mark.parametrize("share", [1.0, 0.4, 0.1])
def test_the_pairs_are_those_of_scipy(shape, share):
    for seed in range(30):
        rng = np.random.default_rng(seed)
        similarity = rng.random(shape) * (rng.random(shape) < share)
        assert pairs(solve(similarity.astype(np.float32))) == optimum(similarity)


def test_a_greedy_choice_is_not_enough():
    """The greatest entry is in no optimal assignment."""
    similarity = np.array([[0.9, 0.8], [0.85, 0.1]], np.float32)
    assert pairs(solve(similarity)) == {(0, 1), (1, 0)}


def test_a_chain_of_displacements():
    """Every row wants column 0 most, and giving way costs less and less: one long path."""
    n = 20
    similarity = np.full((n, n), 0.001, np.float64)
    for k in range(n):
        similarity[k, : k + 1] = 0.5 + 0.01 * np.arange(k, -1, -1) + 0.0001 * k
    total = lambda found: sum(similarity[r, c] for r, c in found)
    got = pairs(solve(similarity.astype(np.float32)))
    assert total(got) == pytest.approx(total(optimum(similarity)), abs=1e-5)


def test_ties_have_the_optimal_total():
    for seed in range(50):
        rng = np.random.default_rng(seed)
        similarity = rng.integers(0, 4, (8, 8)).astype(np.float32)
        total = lambda found: sum(similarity[r, c] for r, c in found)
        assert total(pairs(solve(similarity))) == total(optimum(similarity))


def test_what_is_not_alike_stays_alone():
    assert np.all(np.asarray(solve(np.zeros((3, 4), np.float32))) == -1)
    assert np.all(np.asarray(solve(-np.ones((3, 4), np.float32))) == -1)
    assert assign(jnp.zeros((3, 0))).tolist() == [-1] * 3 and assign(jnp.zeros((0, 3))).shape == (
        0,
    )


def test_many_at_once_are_each_alone():
    rng = np.random.default_rng(0)
    batch = (rng.random((6, 8, 10)) * (rng.random((6, 8, 10)) < 0.5)).astype(np.float32)
    together = jax.jit(jax.vmap(assign))(batch)
    for found, similarity in zip(together, batch, strict=False):
        assert pairs(found) == optimum(similarity)
