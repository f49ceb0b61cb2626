"""The mean of all frames so far, against numpy's of the whole stream."""

import jax.numpy as jnp
import numpy as np

from streamzoo.layers.running_mean import LONGEST, counted, running_mean


def test_chunks_with_gaps_have_the_mean_of_everything_before():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 1, (2, 9, 4)).astype(np.float32)
    lengths, fresh = (4, 5), np.asarray([[4, 5], [2, 0]])  # frames of each chunk that are real
    mean, before = jnp.zeros((2, 4)), jnp.zeros((2,), jnp.int32)
    at = 0
    for chunk, n in enumerate(lengths):
        real = jnp.asarray(fresh[:, chunk])
        count = counted(before, n, real)
        mean, y = running_mean(mean, jnp.asarray(x[:, at : at + n]), count, real)
        for b in range(2):
            seen = [x[b, s : s + fresh[b, c]] for c, s in enumerate((0, 4)) if c < chunk]
            for t in range(int(real[b])):
                want = np.concatenate([*seen, x[b, at : at + t + 1]]).mean(axis=0)
                np.testing.assert_allclose(y[b, t], want, rtol=1e-5)
        before, at = count.after, at + n
    np.testing.assert_allclose(mean[0], x[0].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(mean[1], x[1, :2].mean(axis=0), rtol=1e-5)
    assert before.tolist() == [9, 2]


def test_a_stream_that_never_ends_neither_overflows_nor_stops_following():
    before = jnp.full((1,), LONGEST - 1, jnp.int32)
    count = counted(before, 4)
    assert count.after.tolist() == [LONGEST]
    mean, y = running_mean(jnp.full((1, 1), 5.0), jnp.full((1, 4, 1), 5.0), count)
    assert np.isfinite(y).all() and float(mean[0, 0]) == 5.0
