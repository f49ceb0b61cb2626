"""DUSt3R and MASt3R: pairs are the project's, and of several views cameras come back."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.geometry import pose_code
from streamzoo.layers.geometry.matches import reciprocal
from streamzoo.layers.geometry.pinhole import unproject
from streamzoo.streaming.windowed import Placed, WindowAlign, to_world, window_of
from streamzoo.zoo import create_model
from streamzoo.zoo.convert import ConvertError, convert, detect_converter
from streamzoo.zoo.depth.dust3r.config import DUSt3RConfig

from ..parity.golden import draw, read
from ..parity.golden_dust3r import SPECIAL, config
from ..parity.harness import check, images, measure
from ..parity.rows_depth import ROWS
from .drawn import drawn

SMALL: dict[str, Any] = dict(
    dim=16, heads=2, depth=1, decoder_dim=16, decoder_heads=2, decoder_depth=1, head="linear"
)


@functools.cache
def small(name="dust3r-l", **more):
    model: Any = create_model(name, **SMALL, **more)
    return model, drawn(name, 0.1, **SMALL, **more)


@pytest.mark.parametrize("number", range(3), ids=["dpt", "linear", "mast3r"])
def test_pairs_are_the_projects(number, tmp_path):
    row = [row for row in ROWS if "st3r-l" in row.name][number]
    check(row, measure(row, tmp_path))


@pytest.mark.parametrize("views", [1, 3])
def test_all_views_are_in_the_world_of_the_first(views):
    model, params = small()
    out = jax.jit(model.apply)(params, images(32, 48, batch=1, frames=views))
    assert out.depth.shape == (1, views, 32, 48)
    np.testing.assert_allclose(out.camera[:, 0, :7], [[0, 0, 0, 0, 0, 0, 1]], atol=1e-4)
    extrinsic, focal = pose_code.decode(out.camera, (32, 48))
    np.testing.assert_allclose(focal[..., 0], focal[..., 1], rtol=1e-5)
    for view in range(views):  # a camera sees the points of the world as far away as the depth says
        turn, place = (np.asarray(extrinsic[0, view, :, k]) for k in (slice(3), 3))
        seen = np.asarray(out.points[0, view]) @ turn.T + place
        np.testing.assert_allclose(seen[..., 2], out.depth[0, view], atol=1e-4)
    assert (np.asarray(out.certainty) > 1).all() and not np.asarray(out.metric).any()


def test_every_pair_is_looked_at_both_ways():
    model, params = small()
    frames = images(32, 32, batch=1, frames=3)
    pairs = jax.jit(lambda x: model.apply(params, x, method="couples"))(frames)
    look = jax.jit(lambda x: model.apply(params, x, method="pair"))
    first, second = look(frames[:, [2, 0]])
    np.testing.assert_allclose(pairs.own[:, 2, 0], first.points, atol=1e-5)
    np.testing.assert_allclose(pairs.other[:, 2, 0], second.points, atol=1e-5)
    np.testing.assert_allclose(pairs.other_sure[:, 2, 0], second.sure, atol=1e-5)
    other = look(frames[:, [0, 2]])[1].points
    assert np.abs(np.asarray(first.points - other)).max() > 1e-3  # the decoders are two


def test_descriptors_find_their_pixels_again():
    model, params = small("mast3r-l", descriptors=6)
    picture = images(32, 32, batch=1, frames=1)
    look = jax.jit(lambda x: model.apply(params, x, method="pair"))
    found, _ = look(np.concatenate([picture, picture], 1))
    said = np.asarray(found.descriptors).reshape(-1, 6)
    np.testing.assert_allclose(np.linalg.norm(said, axis=-1), 1, atol=1e-5)
    mixed = np.random.default_rng(0).permutation(len(said))
    where, mutual = reciprocal(jnp.asarray(said), jnp.asarray(said[mixed]))
    np.testing.assert_array_equal(where, mixed)
    assert mutual.all() and (np.asarray(found.descriptors_sure) > 0).all()


def test_a_stream_is_pairs_of_a_frame_and_the_one_before():
    model, params = small()
    apply, shapes = jax.jit(model.apply), []

    def look(frames):
        shapes.append(frames.shape)
        return window_of(apply(params, frames[None]))

    stream = WindowAlign(look, size=2, overlap=1, layers=1)
    frames = images(32, 32, batch=3)
    placed = [one for frame in frames for one in stream.push(frame)] + stream.flush()
    assert [one.index for one in placed] == [0, 1, 2]
    assert shapes == [(2, 32, 32, 3)] * 2
    window, focal = look(frames[:2])
    out = apply(params, frames[None, :2])
    world = to_world(Placed(1, np.asarray(window.depth[1]), window.poses[1], focal, 1, 1))
    local = np.asarray(unproject(out.depth[0, 1], focal)).reshape(-1, 3)
    extrinsic = np.asarray(pose_code.decode(out.camera, (32, 32))[0][0, 1])
    np.testing.assert_allclose(world @ extrinsic[:, :3].T + extrinsic[:, 3], local, atol=1e-4)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="each needs a multiple of 4"):
        DUSt3RConfig(heads=512)
    with pytest.raises(ValueError, match="head 'round'"):
        DUSt3RConfig(head="round")
    with pytest.raises(ValueError, match="give four"):
        DUSt3RConfig(widths=(8, 8))
    with pytest.raises(ValueError, match="reads 4"):
        DUSt3RConfig(decoder_depth=2)
    model, params = small()
    with pytest.raises(ValueError, match="multiples of 16"):
        model.apply(params, np.zeros((1, 2, 28, 32, 3), np.float32))


def test_checkpoints_that_do_not_fit_are_told():
    tensors = draw(read("mast3r")[0], SPECIAL)
    told = config("mast3r")
    plan = detect_converter(tensors).plan
    assert plan(tensors, told).overrides["heads"] == 2
    assert plan(tensors, {**told, "desc_conf_mode": ("exp", 1, np.inf)}).overrides["floor"] == 1
    with pytest.raises(ConvertError, match="no certainty of their own"):
        plan(tensors, {**told, "two_confs": False})
    with pytest.raises(ConvertError, match="enc_num_heads 5 .* does not divide 32"):
        plan(tensors, {**told, "enc_num_heads": 5})
    with pytest.raises(ConvertError, match="only 'exp'"):
        plan(tensors, {**told, "desc_conf_mode": ("sigmoid", 0, 1)})
    # a file may hold a head's convolutions under their second name, or under both
    second = {k.replace("layer1_rn", "layer_rn.0"): v for k, v in tensors.items()}
    for n in (2, 3, 4):
        second = {k.replace(f"layer{n}_rn", f"layer_rn.{n - 1}"): v for k, v in second.items()}
    want = convert(tensors, plan(tensors, told).rules, ignore=plan(tensors, told).ignore)
    for other in (second, {**tensors, **second}):
        how = plan(other, told)
        got = convert(other, how.rules, ignore=how.ignore)
        jax.tree.map(np.testing.assert_array_equal, got, want)
