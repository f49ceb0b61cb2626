"""Losses and metrics of depth equal a reference in double precision; what is missing is no NaN."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.scale_shift import fit_scale_shift
from streamzoo.train import depth_losses
from streamzoo.train.metrics import depth_error, flicker, trajectory_error

GOLDEN = Path(__file__).parents[3] / "shared/goldens/geometry/depth_losses_metrics.npz"
needs_goldens = pytest.mark.skipif(not GOLDEN.is_file(), reason="shared goldens are not there")


@needs_goldens
def test_losses_are_the_references():
    z = np.load(GOLDEN)
    p, t, mask = (jnp.asarray(z[f"ls_{name}"]) for name in ("pred", "gt", "mask"))
    flat = lambda a: a.reshape(3, -1)
    scale, shift, fits = fit_scale_shift(flat(p), flat(t), flat(mask))
    np.testing.assert_allclose(scale, z["ls_scale"], rtol=1e-5)
    np.testing.assert_allclose(shift, z["ls_shift"], rtol=1e-5)
    assert fits.tolist() == [True, True, False]
    np.testing.assert_allclose(depth_losses.aligned_loss(p, t, mask), z["ls_mse"], rtol=1e-4)
    got = depth_losses.median_loss(p, t, mask)
    np.testing.assert_allclose(got[:2], z["mad_l1"], rtol=1e-5)
    normal = np.asarray(depth_losses.normalised(t, mask))[:2]
    want = (z["ls_gt"][:2] - z["mad_t"][:, None, None]) / z["mad_s"][:, None, None]
    np.testing.assert_allclose(normal, want, rtol=1e-4, atol=1e-5)


LOSSES = (depth_losses.aligned_loss, depth_losses.median_loss, depth_losses.gradient_loss,
          depth_losses.silog_loss)  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES, ids=lambda one: one.__name__)
def test_losses_of_nothing_and_of_holes_are_finite(loss):
    key = jax.random.key(0)
    p = 1 + jax.random.uniform(key, (2, 8, 8))
    mask = jnp.zeros((2, 8, 8), bool).at[1, :4].set(True)
    t = jnp.where(mask, 2 * p + 1, jnp.nan)  # unknown depth is often written so
    total = lambda p: loss(p, t, mask).sum()
    value, gradient = jax.jit(jax.value_and_grad(total))(p)
    assert bool(jnp.isfinite(value)) and bool(jnp.isfinite(gradient).all())
    assert not gradient[0].any(), "a map without a known pixel teaches nothing"
    if loss in LOSSES[:2]:
        np.testing.assert_allclose(loss(p, t, mask), 0, atol=1e-5)
    else:
        assert loss(p, t, mask)[1] > 0.05


@needs_goldens
def test_metrics_are_the_references():
    z = np.load(GOLDEN)
    p, t, mask = (z[f"met_{name}"] for name in ("pred", "gt", "mask"))
    for k in range(4):  # each map, then all of them pooled
        at = slice(None) if k == 3 else k
        for name, value in depth_error(p[at], t[at], mask[at])._asdict().items():
            np.testing.assert_allclose(value, z[f"met_{name}"][k], rtol=1e-6, err_msg=name)
    with pytest.raises(ValueError, match="no pixel"):
        depth_error(p, t, np.zeros_like(mask))
    with pytest.raises(ValueError, match="above 0"):
        depth_error(-p, t, mask)


def test_flicker_sees_what_a_static_pixel_does():
    depth = np.full((4, 5, 5), 2.0)
    static = np.ones((3, 5, 5), bool)
    assert flicker(depth, static) == 0
    jump = depth * np.array([1, 1.1, 1, 1.1])[:, None, None]
    assert flicker(jump, static) == pytest.approx(0.2 / 2.1)
    ramp = jump * (1 + np.arange(5) / 10)
    assert flicker(ramp, static, affine=True) < 1e-9 < flicker(ramp, static)
    jump[:, 0] = np.arange(4)[:, None]  # a moving pixel is not asked
    static[:, 0] = False
    assert flicker(jump, static) < 0.12


def test_trajectory_error_forgives_a_similarity():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(30, 3)).cumsum(0)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    found = (truth @ turn.T) * 0.4 + [1, 2, 3]
    assert trajectory_error(found, truth) < 1e-9
    assert trajectory_error(found, truth, scale=False) > 0.5
    moved = truth.copy()
    moved[10] += [3.0, 0, 0]
    assert 0.3 < trajectory_error(moved, truth) < 3 / np.sqrt(30) + 1e-9
    mirrored = truth * [1, 1, -1]
    assert trajectory_error(mirrored, truth) > 0.1, "a reflection is no rotation"
