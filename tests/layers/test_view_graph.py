"""Pairs of views become one scene: DUSt3R's spanning tree, and drawn worlds that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.geometry.pinhole import unproject
from streamzoo.layers.geometry.sim3 import move, register_points
from streamzoo.layers.geometry.view_graph import Pairs, align_views
from streamzoo.layers.geometry.window_align import Window
from streamzoo.streaming.windowed import WindowAlign
from streamzoo.train.data.world import World
from streamzoo.train.metrics import trajectory_error

from ..parity.golden import DATA
from ..parity.golden_dust3r import pairs as stored_pairs

align = jax.jit(align_views)


def test_the_tree_is_dust3rs():
    with np.load(DATA / "dust3r_tree.npz") as file:
        points, edges = file["points"], file["edges"]
    views = align(Pairs(**stored_pairs()))
    ours, theirs = (jnp.asarray(a).reshape(-1, 3) for a in (views.points, points))
    same = register_points(ours, theirs)  # their world is another camera's, of the same scale
    assert float(same.scale) == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(move(same, ours), theirs, atol=2e-4)
    joined = {frozenset(pair) for pair in enumerate(np.asarray(views.partner).tolist())}
    assert joined == {frozenset(pair) for pair in edges.tolist()}


def seen(shot, which, rng):
    """What a network that knows the truth says of each ordered pair, each at a scale of its own."""
    poses = shot.poses[which].astype(float)
    local = np.asarray(unproject(shot.depth[which], shot.focal[None]), float)
    n, size = len(which), local.shape[1:3]
    own, other = np.zeros((2, n, n, *size, 3))
    scale = rng.uniform(0.5, 2.0, (n, n))
    for i in range(n):
        for j in range(n):
            into = np.linalg.inv(poses[i]) @ poses[j]
            own[i, j] = scale[i, j] * local[i]
            other[i, j] = scale[i, j] * (local[j] @ into[:3, :3].T + into[:3, 3])
    sure = 1 + rng.uniform(0.1, 2, (2, n, n, *size)) * rng.uniform(0.5, 1, (2, n, n, 1, 1))
    return Pairs(*(jnp.asarray(a, jnp.float32) for a in (own, other, *sure)))


@pytest.fixture(scope="module")
def shot():
    return World(seed=5, size=(24, 32), moving=0).shoot(40)


def error(views, shot, which):
    """(largest relative error of depths at the best scale, error of cameras, in metres)."""
    true = np.linalg.inv(shot.poses[which[0]]) @ shot.poses[which]
    scale = float(np.median(shot.depth[which] / np.asarray(views.depth)))
    off = np.abs(scale * np.asarray(views.depth) / shot.depth[which] - 1).max()
    place = np.abs(scale * np.asarray(views.poses)[:, :3, 3] - true[:, :3, 3]).max()
    turn = np.abs(np.asarray(views.poses)[:, :3, :3] - true[:, :3, :3]).max()
    return off, place, turn


def test_cameras_of_a_drawn_world_come_back(shot):
    which = [0, 12, 25, 39]
    pairs = seen(shot, which, np.random.default_rng(0))
    views = align(pairs)
    np.testing.assert_allclose(views.poses[0], np.eye(4), atol=1e-5)
    assert max(error(views, shot, which)) < 2e-4
    # a pair that is not sure is not asked: three of four views are joined through other ones
    noise = jax.random.normal(jax.random.key(0), pairs.own.shape)
    bad = jnp.zeros((4, 4), bool).at[0, 1].set(True).at[1, 0].set(True).at[2, 3].set(True)
    worse = lambda x: jnp.where(bad[..., None, None], 1.001, x)
    wrong = Pairs(
        jnp.where(bad[..., None, None, None], noise, pairs.own),
        jnp.where(bad[..., None, None, None], noise[::-1], pairs.other),
        worse(pairs.own_sure), worse(pairs.other_sure),
    )  # fmt: skip
    assert max(error(align(wrong), shot, which)) < 2e-4


@pytest.mark.parametrize("count", [1, 2])
def test_one_view_and_one_pair_are_scenes(shot, count):
    which = [0, 20][:count]
    views = align(seen(shot, which, np.random.default_rng(1)))
    assert max(error(views, shot, which)) < 2e-4


def test_pairs_of_a_stream_become_a_path(shot):
    """The frame before and the one that came, as windows of two."""
    rng = np.random.default_rng(2)

    def model(frames):
        which = frames[:, 0, 0, 0].tolist()
        views = align(seen(shot, which, rng))
        sure = np.ones(views.depth.shape, np.float32)
        return Window(views.depth, sure, views.poses), shot.focal

    stream = WindowAlign(model, size=2, overlap=1, layers=1)
    frames = [np.full((24, 32, 3), n, np.uint8) for n in range(0, 40, 3)]
    placed = [one for frame in frames for one in stream.push(frame)] + stream.flush()
    assert [one.index for one in placed] == list(range(len(frames)))
    path = np.stack([one.pose[:3, 3] for one in placed])
    assert trajectory_error(path, shot.poses[::3, :3, 3]) < 1e-3
    assert min(one.agrees for one in placed) > 0.4  # of the surer half of the pixels, all
