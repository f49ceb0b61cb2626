"""Cameras, depth and points are learned from drawn films: truth fits together, and losses to it."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.geometry import pose_code
from streamzoo.train.data.base import DataError
from streamzoo.train.depth import GeometryConfig, GeometryRecipe, LearnGeometry
from streamzoo.train.depth.films import Films, room
from streamzoo.train.depth.geometry_measure import in_metres, jumps, poses_of
from streamzoo.train.depth.geometry_task import DOUBT, in_first_frame, unsure_loss
from streamzoo.train.loop import LoopConfig
from streamzoo.zoo.depth.outputs import Geometry
from streamzoo.zoo.registry import model_card

SIZE = (24, 32)


def films(cache="", seed=0):
    return Films(SIZE, 3, 8, 3, str(cache), range(2), seed)


@pytest.fixture(scope="module")
def batch():
    return films()[4]


def test_films_are_drawn_once_and_batches_are_their_number(tmp_path, batch):
    first = films(tmp_path)[4]
    assert first["frames"].shape == (2, 3, *SIZE, 3) and first["poses"].shape == (2, 3, 4, 4)
    marked = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*.npz")}
    again, other = films(tmp_path)[4], films(tmp_path, seed=1)[4]
    assert marked and all(f.stat().st_mtime_ns == at for f, at in marked.items()), "not again"
    for name in first:
        np.testing.assert_array_equal(again[name], first[name])
        np.testing.assert_array_equal(batch[name], first[name])
    assert (other["frames"] != first["frames"]).any()


def test_rooms_have_walls_and_some_things_that_move():
    rooms = [room(seed, SIZE) for seed in range(12)]
    assert not any(r.sky for r in rooms) and {r.moving for r in rooms} == {0, 1, 2}


def test_truth_is_in_the_first_frames_world_and_unit(batch):
    """What the first frame sees is a unit away on the mean, its camera is the world, and a point
    put through any frame's camera lands on its pixel at its depth."""
    want = in_first_frame(batch["depth"], batch["poses"], batch["focal"])
    away = jnp.linalg.norm(want.points[:, 0], axis=-1).mean(axis=(1, 2))
    np.testing.assert_allclose(away, 1, rtol=1e-5)
    extrinsic, focal = pose_code.decode(want.camera, SIZE)
    np.testing.assert_allclose(extrinsic[:, 0], np.tile(np.eye(4)[None, :3], (2, 1, 1)), atol=1e-5)
    np.testing.assert_allclose(focal[:, 1], batch["focal"], rtol=1e-4)
    own = jnp.einsum("btij,bthwj->bthwi", extrinsic[..., :3], want.points)
    own = own + extrinsic[:, :, None, None, :, 3]
    np.testing.assert_allclose(own[..., 2], want.depth, atol=2e-4)
    u = own[..., 0] / own[..., 2] * focal[..., :1, None] + SIZE[1] / 2
    columns = np.broadcast_to(np.arange(SIZE[1]), u.shape)
    np.testing.assert_allclose(u, columns, atol=0.02)
    # the walk in metres, from the first frame on
    here = np.linalg.inv(batch["poses"][:, :1]) @ batch["poses"]
    for b in range(2):
        found = poses_of(np.asarray(want.camera[b]), SIZE)[:, :3, 3]
        truth = here[b, :, :3, 3]
        np.testing.assert_allclose(found * (truth[2, 2] / found[2, 2]), truth, atol=1e-3)


def test_being_unsure_costs_what_errors_save():
    """The best certainty of an error e is DOUBT / e."""
    error = jnp.full((4, 4), 0.02)
    cost = [float(unsure_loss(error, jnp.full((4, 4), c))) for c in (9.0, DOUBT / 0.02, 11.0)]
    assert min(cost) == cost[1] and cost[0] != cost[2]


def test_the_truth_costs_nothing_and_each_term_sees_its_own_part(batch):
    want = in_first_frame(batch["depth"], batch["poses"], batch["focal"])
    one = jnp.ones(want.depth.shape)
    flags = jnp.ones(one.shape[:2], bool)

    def costs(**changed):
        said = dict(
            depth=want.depth,
            certainty=one,
            points=want.points,
            points_certainty=one,
            camera=want.camera,
            metric=~flags,
            valid=flags,
            confidence=one[..., 0, 0],
        )
        out = Geometry(**{**said, **changed})  # fmt: skip
        model = types.SimpleNamespace(
            init_carry=lambda *_: (), apply=lambda v, c, x: (c, out)
        )  # fmt: skip
        task = LearnGeometry(model, model_card("vggtstream-nano"), {"params": {}}, GeometryConfig())
        total, (_, told) = task.loss({}, {}, (), jax.random.key(0), batch)
        return {name: round(float(v), 3) for name, v in {**told, "total": total}.items()}

    none = dict.fromkeys(("camera", "depth", "points", "edges", "total"), 0.0)
    assert costs() == none
    farther = costs(depth=2 * want.depth)
    assert (
        farther["depth"] > 0.5 and farther["edges"] == farther["camera"] == farther["points"] == 0
    )
    bent = costs(depth=want.depth * jnp.linspace(1, 1.5, SIZE[1]))
    assert bent["edges"] > 0.01
    assert costs(points=want.points + 1)["points"] == pytest.approx(3**0.5, abs=1e-2)
    turned = costs(camera=want.camera.at[..., 0].add(1.0))
    assert turned["camera"] == pytest.approx(0.95, abs=1e-2)
    assert turned["total"] == pytest.approx(GeometryConfig().camera * 0.95, abs=0.05)


def test_one_scale_is_free_and_no_more():
    truth = np.random.default_rng(0).uniform(1, 5, (4, 6, 8))
    np.testing.assert_allclose(in_metres(truth / 3, truth), truth)
    assert jumps(truth / 3, truth) < 1e-9
    shaken = truth * np.array([1, 1.1, 1, 1.1])[:, None, None]
    assert jumps(shaken, truth) == pytest.approx(np.log(1.1))


def test_clips_longer_than_a_film_are_refused():
    with pytest.raises(DataError, match="give fewer frames"):
        GeometryRecipe(each=8, loop=LoopConfig(frames=9)).check()
