"""The drawn world is exact: depth, cameras and surfaces agree with each other."""

import numpy as np

from streamzoo.train.data.world import World


def test_points_of_one_frame_are_where_another_sees_them():
    """Pixels of frame 0 that reach frame 9 have the depth there that geometry says."""
    height, width = 96, 128
    shot = World(seed=2, size=(height, width), moving=0).shoot(10)
    u, v = np.meshgrid(np.arange(width) - width / 2, np.arange(height) - height / 2)
    local = np.stack([u / shot.focal[0], v / shot.focal[1], np.ones_like(u)], -1)
    world = (local * shot.depth[0][..., None]) @ shot.poses[0][:3, :3].T + shot.poses[0][:3, 3]
    there = (world - shot.poses[9][:3, 3]) @ shot.poses[9][:3, :3]
    x = np.rint(there[..., 0] / there[..., 2] * shot.focal[0] + width / 2).astype(int)
    y = np.rint(there[..., 1] / there[..., 2] * shot.focal[1] + height / 2).astype(int)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    found = shot.depth[9][y[inside], x[inside]]
    same = shot.surface[9][y[inside], x[inside]] == shot.surface[0][inside]
    off = np.abs(found / there[..., 2][inside] - 1)[same]
    assert inside.mean() > 0.8 and same.mean() > 0.9
    assert np.median(off) < 0.01 and np.quantile(off, 0.95) < 0.08


def test_a_still_camera_sees_only_what_moves_change():
    shot = World(seed=4, still=True, boxes=4, moving=2).shoot(8)
    assert (shot.poses == shot.poses[0]).all()
    seen = np.any(shot.moving, axis=0)
    assert 0.002 < shot.moving.mean() < 0.4
    assert (shot.depth[:, ~seen] == shot.depth[0, ~seen]).all()
    assert (shot.frames[:, ~seen] == shot.frames[0, ~seen]).all()
    assert (shot.depth[:, seen] != shot.depth[0, seen]).any()


def test_a_world_is_its_seed():
    a, b, c = (World(seed=seed, size=(12, 16)).shoot(2) for seed in (1, 1, 2))
    assert (a.frames == b.frames).all() and (a.frames != c.frames).any()
    assert a.depth.min() > 0.05 and np.isfinite(a.depth).all() and a.frames.std() > 20
