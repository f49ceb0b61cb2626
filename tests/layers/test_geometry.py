"""Similarities, scales, cameras and depth layers equal LASER's and DUSt3R's numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.geometry import depth_layers, matches, pinhole, pose_code, scales, sim3
from streamzoo.layers.geometry.sim3 import Sim3

GOLDENS = Path(__file__).parents[3] / "shared/goldens/geometry"
needs_goldens = pytest.mark.skipif(not GOLDENS.is_dir(), reason="shared goldens are not there")


def golden(name):
    return dict(np.load(GOLDENS / f"{name}.npz"))


def near(got, want, rtol=1e-5):
    np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * np.abs(want).max())


@needs_goldens
def test_scales_are_lasers():
    z = golden("laser")
    p, q, mask = z["irls_p"], z["irls_q"], z["irls_mask"]
    flat = lambda a: a.reshape(-1, 3)
    for rounds, stop in ((0, 0.05), (1, 0.0), (2, 0.0), (10, 0.05), (10, 0.0)):
        key = f"it{rounds}_tol{stop}"
        scale = scales.point_scale(flat(p), flat(q), mask.ravel(), rounds, stop)
        near(scale, z[f"irls_s_{key}"])
        near(scales.point_scale(flat(p), flat(q), None, rounds, stop), z[f"irls_nomask_s_{key}"])
    assert scales.point_scale(flat(p), flat(-p)) == z["irls_clamp"]
    one = np.zeros(z["dirls_src"].shape, np.int32)
    for rounds, stop in ((0, 0.05), (10, 0.05), (10, 0.0)):
        got = scales.depth_scales(z["dirls_src"], z["dirls_tgt"], one, 2, rounds, stop)
        # without a stop single pixels without a residual weigh 1e8: the last digits are theirs
        near(got[0], z[f"dirls_s_it{rounds}_tol{stop}"], 1e-5 if stop or not rounds else 3e-4)
    sky = np.where(mask[..., None], p, np.inf)  # what is masked may be infinitely far
    assert np.isfinite(scales.point_scale(flat(sky), flat(q), mask.ravel()))


@needs_goldens
def test_poses_are_registered_as_lasers():
    z = golden("laser")
    for name in ("exact", "noisy"):
        got = sim3.register_poses(z["kab_src"], z[f"kab_{name}_tgt"], jnp.asarray(z["kab_scale"]))
        near(got.rotation, z[f"kab_{name}_R"])
        near(got.shift, z[f"kab_{name}_t"])
    one = sim3.register_poses(z["kab_src"][:1], z["kab_exact_tgt"][:1], jnp.asarray(z["kab_scale"]))
    near(one.rotation, z["kab_one_R"])
    mirrored = sim3.register_points(z["kab_pc"], z["kab_mirror"], scale=jnp.ones(()))
    near(mirrored.rotation, z["kab_mirror_R"], 1e-4)
    near(mirrored.shift, z["kab_mirror_t"], 1e-4)
    assert np.linalg.det(mirrored.rotation) == pytest.approx(1, abs=1e-5)


@needs_goldens
def test_similarities_compose_and_invert():
    z = golden("laser")
    second = Sim3(jnp.asarray(0.7), jnp.asarray(z["sim_R2"]), jnp.asarray(z["sim_t2"]))
    first = Sim3(jnp.asarray(1.2), jnp.asarray(z["kab_R0"]), jnp.asarray(z["kab_t0"]))
    both = sim3.compose(first, second)
    for name, value in zip("sRt", both, strict=True):
        near(value, z[f"sim_acc_{name}"])
    back = sim3.invert(first)
    for name, value in zip("sRt", back, strict=True):
        near(value, z[f"sim_inv_{name}"])
    points = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    near(sim3.move(back, sim3.move(first, points)), points)
    near(sim3.move(both, points), sim3.move(first, sim3.move(second, points)))


@needs_goldens
def test_a_window_is_registered_as_lasers():
    z = golden("laser")
    focal = jnp.asarray([z["win_K"][0, 0], z["win_K"][1, 1]])
    shared = 2
    a, b = (pinhole.unproject(jnp.asarray(z[f"win_depth{n}"]), focal) for n in "AB")
    flat = lambda x: x.reshape(-1, 3)
    scale = scales.point_scale(flat(b[:shared]), flat(a[-shared:]))
    found = sim3.register_poses(z["win_camB"][:shared], z["win_camA"][-shared:], scale)
    near(found.scale, z["win_s"])
    near(found.rotation, z["win_R"], 1e-4)
    near(found.shift, z["win_t"], 1e-4)
    near(sim3.move_poses(found, z["win_camB"]), z["win_aligned"], 1e-4)


@needs_goldens
def test_cameras_are_lasers_and_dust3rs():
    z = golden("laser")
    focal = jnp.broadcast_to(jnp.asarray([z["intr_K"][0, 0], z["intr_K"][1, 1]]), (4, 2))
    near(pinhole.unproject(jnp.asarray(z["intr_depth"]), focal), z["intr_points"])
    got = pinhole.focal_by_median(jnp.asarray(z["intr_points"]))
    near(got, z["intr_Khat"][:, [0, 1], [0, 1]])
    z = golden("dust3r")
    near(pinhole.focal_by_weiszfeld(jnp.asarray(z["foc_pts"])), z["foc_weiszfeld"], 1e-4)


@needs_goldens
def test_points_are_matched_and_registered_as_dust3rs():
    z = golden("dust3r")
    index, mutual = matches.reciprocal(jnp.asarray(z["rec_P1"]), jnp.asarray(z["rec_P2"]))
    np.testing.assert_array_equal(index, z["rec_idx"])
    np.testing.assert_array_equal(mutual, z["rec_mask"])
    assert mutual.sum() == z["rec_n"]
    found = sim3.register_points(z["reg_A"], z["reg_B"], z["reg_w"])
    near(found.rotation, z["reg_R"], 1e-4)
    near(found.shift, z["reg_T"], 1e-4)
    near(found.scale, z["reg_s"])
    points = np.concatenate([z["norm_p1"].reshape(2, -1, 3), z["norm_p2"].reshape(2, -1, 3)], 1)
    valid = z["norm_valid"].reshape(2, -1)
    valid = np.concatenate([valid, valid], 1)
    kinds = {"mean": "avg_dis", "log1p": "avg_log1p", "median": "median_dis", "sqrt": "sqrt_dis"}
    for kind, name in kinds.items():
        got = matches.size_of(jnp.asarray(points), jnp.asarray(valid), kind)
        near(got, z[f"norm_{name}_two_factor"].ravel())


@needs_goldens
def test_layers_have_lasers_scales():
    """By LASER's own segments: its map of scales; by depth gaps: the scales it was made of."""
    z = golden("laser")
    source, target = z["lay_src"], z["lay_tgt"]
    before, labels = (z[f"lay_{k}"].astype(np.int32) - 1 for k in ("labels", "tgt_index"))
    near(depth_layers.overlap(before[0].ravel(), before[1].ravel(), 3), z["lay_iou01"])
    run = jax.jit(depth_layers.layer_scales, static_argnums=4)
    got = run(source[-2:], target, before[-2:], labels, 3)
    near(depth_layers.scale_map(got, labels), z["lay_scale_map"])

    layers = 6
    every = np.ones(source.shape, bool)
    own = [
        depth_layers.label_layers(d, depth_layers.layer_edges(d, every, layers))
        for d in (source, target)
    ]
    assert [len(np.unique(one)) for one in own] == [3, 3]
    got = np.asarray(
        depth_layers.scale_map(run(source[-2:], target, own[0][-2:], own[1], layers), own[1])
    )
    for k, want in enumerate(z["lay_truth"]):
        for frame in (0, 4):
            here = got[frame][z["lay_layer"][3 + frame] == k]
            assert np.median(here) == pytest.approx(want, abs=2e-3)


def test_a_slope_is_one_layer_and_nothing_is_none():
    slope = np.linspace(1, 9, 400).reshape(1, 20, 20).astype(np.float32)
    edges = depth_layers.layer_edges(slope, np.ones(slope.shape, bool), 4)
    assert np.isinf(edges).all()
    nothing = depth_layers.layer_edges(slope, np.zeros(slope.shape, bool), 4)
    assert not np.isnan(nothing).any()
    sky = np.where(slope > 5, np.inf, slope)
    assert np.isfinite(depth_layers.layer_edges(sky, np.ones(sky.shape, bool), 4)).sum() == 0


def test_layers_without_a_link_keep_their_scale():
    near_far = np.repeat(np.asarray([2.0, 8.0], np.float32), 200).reshape(1, 20, 20)
    labels = (near_far > 5).astype(np.int32)
    across = near_far.swapaxes(1, 2)  # left and right, where it was above and below: IoU 1 / 3
    got = depth_layers.layer_scales(near_far, across, labels, labels.swapaxes(1, 2), 2)
    assert got.tolist() == [[1.0, 1.0]]
    got = depth_layers.layer_scales(near_far, near_far[:, ::-1], labels, labels[:, ::-1], 2)
    np.testing.assert_allclose(got, [[4.0, 0.25]])  # a layer is where it is, not what it is called


def test_codes_of_cameras_go_round():
    rng = np.random.default_rng(0)
    quaternion = rng.normal(size=(64, 4))
    quaternion[:4] = np.eye(4)  # half turns about each axis, and none
    turn = pose_code.rotation_of(jnp.asarray(quaternion, jnp.float32))
    near(turn @ jnp.swapaxes(turn, -1, -2), np.broadcast_to(np.eye(3), (64, 3, 3)))
    near(pose_code.rotation_of(pose_code.quaternion_of(turn)), np.asarray(turn), 1e-5)
    assert (pose_code.quaternion_of(turn)[:, 3] >= 0).all()
    shift = jnp.asarray(rng.normal(size=(64, 3)), jnp.float32)
    extrinsic = jnp.concatenate([turn, shift[..., None]], -1)
    focal = jnp.asarray(rng.uniform(30, 90, (64, 2)), jnp.float32)
    back, found = pose_code.decode(pose_code.encode(extrinsic, focal, (42, 56)), (42, 56))
    near(back, np.asarray(extrinsic))
    near(found, np.asarray(focal))


def test_canonical_depth_goes_round_and_forgets_the_lens():
    depth = jnp.asarray(np.random.default_rng(0).uniform(1, 9, (2, 4, 5)), jnp.float32)
    focal = jnp.asarray([500.0, 1500.0])
    away = pinhole.to_canonical(depth, focal, 0.5)
    near(pinhole.from_canonical(away, focal, 0.5), np.asarray(depth))
    near(away[0], np.asarray(depth[0] * 4))
    # a thing of one size and distance has as many pixels whatever the lens and the size were
    for focal_length, size in ((500.0, (480, 640)), (1000.0, (960, 1280))):
        assert pinhole.unified_size(size, focal_length, 750.0) == (720, 960)
    with pytest.raises(ValueError, match="not above 0"):
        pinhole.unified_size((4, 4), 0.0, 750.0)
