"""Windows of a reconstruction become one: scales and cameras that were made come back."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.geometry.window_align import Window, init_state, join, surest_half
from streamzoo.streaming.windowed import WindowAlign, to_world
from streamzoo.train.data.world import World
from streamzoo.train.metrics import trajectory_error

GOLDEN = Path(__file__).parents[3] / "shared/goldens/geometry/laser.npz"
SIZE, OVERLAP = 6, 2


@pytest.mark.skipif(not GOLDEN.is_file(), reason="shared goldens are not there")
def test_two_windows_are_joined_as_lasers():
    z = dict(np.load(GOLDEN))
    focal = jnp.asarray([z["win_K"][0, 0], z["win_K"][1, 1]])
    sure = np.ones(z["win_depthA"].shape, np.float32)
    state = init_state(2, 96, 128)
    state, first = join(state, Window(z["win_depthA"], sure, z["win_camA"]), focal, layers=1)
    np.testing.assert_array_equal(first.poses, z["win_camA"])
    _, second = join(state, Window(z["win_depthB"], sure, z["win_camB"]), focal, layers=1)
    np.testing.assert_allclose(second.scale, z["win_s"], rtol=1e-5)
    np.testing.assert_allclose(second.poses, z["win_aligned"], atol=1e-4)
    np.testing.assert_allclose(second.depth[:2], z["win_depthA"][-2:], rtol=1e-4)


def turned(poses, scale, seed):
    """Poses of the same cameras in a world of another scale, origin and direction."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    out = poses.copy()
    out[:, :3, :3] = turn @ poses[:, :3, :3]
    out[:, :3, 3] = scale * poses[:, :3, 3] @ turn.T + rng.normal(size=3)
    return out


class Made:
    """A model that knows the truth, in a world of its own for every window."""

    def __init__(self, shot, layers=(1.0, 1.0)):
        self.shot, self.layers, self.calls = shot, layers, 0

    def __call__(self, frames):
        first = int(frames[0, 0, 0, 0])  # the frame's number is painted into its corner
        cut = slice(first, first + len(frames))
        depth, poses = self.shot.depth[cut].copy(), self.shot.poses[cut]
        scale = 1.0 if self.calls == 0 else 0.6 + 0.2 * self.calls
        if self.calls:  # near things and far ones are wrong by different factors
            depth *= np.where(depth < 5.5, *self.layers)
        self.calls += 1
        sure = np.ones_like(depth)
        return Window(scale * depth, sure, turned(poses, scale, self.calls)), self.shot.focal


@pytest.fixture(scope="module")
def shot():
    return World(seed=3, size=(24, 32), moving=0).shoot(16)


def numbered(count):
    return [np.full((24, 32, 3), n, np.uint8) for n in range(count)]


def run(model, frames, **options):
    align = WindowAlign(model, SIZE, OVERLAP, **options)
    out, seen = [], []
    for n, frame in enumerate(frames):
        found = align.push(frame)
        seen += [n - placed.index for placed in found]
        out += found
    return align, out + align.flush(), seen


def test_a_stream_of_windows_is_one_world(shot):
    model = Made(shot)
    align, out, late = run(model, numbered(15), layers=1)
    assert [placed.index for placed in out] == list(range(15))
    assert max(late) == align.latency == SIZE - 1
    depth = np.stack([placed.depth for placed in out])
    np.testing.assert_allclose(depth, shot.depth[:15], rtol=1e-3)
    base = np.stack([placed.pose for placed in out])
    centres = base[:, :3, 3]
    assert trajectory_error(centres, shot.poses[:15, :3, 3]) < 2e-3
    # points of the first and of the last frame lie in one world
    clouds = [to_world(out[n], 1)[:, 1].max() - to_world(out[n], 1)[:, 1].min() for n in (0, 14)]
    assert clouds[0] == pytest.approx(clouds[1], rel=0.2)
    assert [placed.agrees for placed in out][-1] > 0.9 and model.calls == 4
    assert align.log_scale == pytest.approx(np.log(1 / 0.8 / 1.0 / 1.2), abs=0.01)


def test_layers_of_depth_get_scales_of_their_own():
    """Two walls, one of which every later window sees too near."""
    depth = np.where(np.arange(32) < 16, 2.0, 8.0).astype(np.float32)
    depth = np.broadcast_to(depth, (14, 24, 32))
    poses = np.broadcast_to(np.eye(4, dtype=np.float32), (14, 4, 4)).copy()
    poses[:, 0, 3] = 0.01 * np.arange(14)
    flat = World(seed=0, size=(24, 32)).shoot(1)._replace(depth=depth, poses=poses)
    off = {}
    for layers in (1, 4):
        _, out, _ = run(Made(flat, (0.8, 1.0)), numbered(14), layers=layers)
        got = np.stack([placed.depth for placed in out])
        off[layers] = np.abs(got / depth - 1)[SIZE:].mean()
    assert off[4] < 0.01 < 0.08 < off[1]


def test_the_state_is_of_constant_size_and_holds_what_cannot_be_joined(shot):
    focal = jnp.asarray(shot.focal)
    state = init_state(OVERLAP, 24, 32)
    shapes = jax.tree.map(lambda a: (a.shape, a.dtype), state)
    cut = lambda a, n: a[4 * n : 4 * n + SIZE]
    sure = np.ones((SIZE, 24, 32), np.float32)
    agrees = []
    for n in range(2):
        state, out = join(state, Window(cut(shot.depth, n), sure, cut(shot.poses, n)), focal)
        assert jax.tree.map(lambda a: (a.shape, a.dtype), state) == shapes
        agrees.append(float(out.agrees))
    assert agrees[1] > 0.9
    sky = np.full((SIZE, 24, 32), np.inf, np.float32)
    state, out = join(state, Window(sky, sure, cut(shot.poses, 2)), focal)
    assert (
        out.agrees == 0 and bool(jnp.isfinite(out.poses).all()) and bool(jnp.isinf(out.depth).all())
    )
    _, out = join(state, Window(cut(shot.depth, 2), sure, cut(shot.poses, 2)), focal)
    assert out.agrees == 0 and bool(jnp.isfinite(out.depth).all()), "nothing to hold on to"


def test_the_surer_half_is_taken_by_the_whole_window():
    certainty = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert np.asarray(surest_half(certainty)).sum(axis=(1, 2)).tolist() == [0, 12]


def test_wrong_windows_are_refused(shot):
    with pytest.raises(ValueError, match="overlap 6 of windows of 6"):
        WindowAlign(Made(shot), 6, 6)
    align = WindowAlign(Made(shot), SIZE, OVERLAP)
    align.push(np.zeros((24, 32, 3), np.uint8))
    with pytest.raises(ValueError, match=r"a frame of \(8, 8\) after"):
        align.push(np.zeros((8, 8, 3), np.uint8))
    assert WindowAlign(Made(shot), SIZE, OVERLAP).flush() == []
    short = WindowAlign(Made(shot), SIZE, OVERLAP)
    short.push(numbered(1)[0])
    assert [placed.index for placed in short.flush()] == [0], "one frame is a window, too"
