"""Positions: closed forms, relative rotation, and moving to other grids."""

import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.positions import (
    axial_rope,
    resize_matrix,
    resize_table,
    sincos_1d,
    sincos_2d,
)
from streamzoo.layers.transformer import rotate


def test_sincos_1d_is_the_interleaved_table():
    table = sincos_1d(7, 6)
    for p in range(7):
        for i in range(3):
            angle = p / 10_000 ** (2 * i / 6)
            assert table[p, 2 * i] == pytest.approx(np.sin(angle), abs=1e-6)
            assert table[p, 2 * i + 1] == pytest.approx(np.cos(angle), abs=1e-6)


def test_sincos_2d_has_a_half_for_each_axis():
    table = sincos_2d(3, 5, 16).reshape(3, 5, 16)
    assert np.ptp(table[..., :8], axis=1).max() == 0  # the first half depends on the row alone
    assert np.ptp(table[..., 8:], axis=0).max() == 0
    assert table[2, 0, 0] == pytest.approx(np.sin(2), abs=1e-6)
    with pytest.raises(ValueError, match="divisible by 4, not 6"):
        sincos_2d(3, 5, 6)


def test_axial_rope_depends_on_the_distance_alone_and_leaves_the_prefix():
    rng = np.random.default_rng(0)
    cos, sin = axial_rope(4, 6, 16, prefix=2)
    assert cos.shape == (26, 8)
    np.testing.assert_array_equal(cos[:2], 1)
    np.testing.assert_array_equal(sin[:2], 0)
    q, k = (jnp.asarray(rng.normal(size=16), jnp.float32) for _ in range(2))
    turn = lambda x: rotate(jnp.broadcast_to(x, (26, 1, 16)), cos, sin)[2:, 0]
    scores = np.asarray(turn(q) @ turn(k).T).reshape(4, 6, 4, 6)
    np.testing.assert_allclose(scores[0, 0, 2, 3], scores[1, 2, 3, 5], atol=1e-4)
    np.testing.assert_allclose(scores[3, 1, 0, 4], scores[3, 2, 0, 5], atol=1e-4)
    assert abs(scores[0, 0, 0, 1] - scores[0, 0, 0, 0]) > 1e-3


def test_resize_table():
    rng = np.random.default_rng(1)
    table = jnp.asarray(rng.normal(size=(12, 8)), jnp.float32)
    np.testing.assert_array_equal(resize_table(table, (3, 4), (3, 4)), table)
    flat = jnp.ones((12, 8))
    np.testing.assert_allclose(resize_table(flat, (3, 4), (6, 5)), 1, atol=1e-5)
    ramp = jnp.repeat(jnp.arange(4.0), 8).reshape(1, 4, 8).repeat(3, 0).reshape(12, 8)
    wide = np.asarray(resize_table(ramp, (3, 4), (3, 8))).reshape(3, 8, 8)
    assert (np.diff(wide, axis=1) > 0).all()  # still a ramp, twice as fine
    with pytest.raises(ValueError, match="12 positions is not a 5x5 grid"):
        resize_table(table, (5, 5), (6, 6))


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_resampling_is_that_of_torch(method, antialias):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(1, 2, 7, 9)).astype(np.float32)
    for size in ((7, 9), (4, 3), (13, 20), (1, 9)):
        want = torch.nn.functional.interpolate(
            torch.from_numpy(x), size=size, mode=method, align_corners=False, antialias=antialias
        )
        down, across = (
            resize_matrix(a, b, method, antialias) for a, b in zip(x.shape[2:], size, strict=False)
        )
        got = np.einsum("rh,bchw,sw->bcrs", down, x, across)
        np.testing.assert_allclose(got, want.numpy(), atol=1e-5)
    with pytest.raises(ValueError, match="nearest"):
        resize_matrix(2, 3, "nearest")
