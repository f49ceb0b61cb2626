"""Pi3: no view is the first, and its world is that of VGGT's answers."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.geometry import pose_code
from streamzoo.layers.geometry.pinhole import focal_by_weiszfeld, unproject
from streamzoo.zoo import create_model
from streamzoo.zoo.convert import ConvertError, detect_converter
from streamzoo.zoo.depth.pi3.model import Pi3Config, nearest_rotation

from ..parity.golden import draw, read
from ..parity.golden_pi3 import SPECIAL
from ..parity.harness import check, images, measure
from ..parity.rows_depth import ROWS
from .drawn import drawn

SMALL: dict[str, Any] = dict(
    encoder=dict(dim=16, depth=1, heads=2, table_grid=[2, 2]), dim=16, heads=2, depth=1,
    head_dim=16, head_heads=2, head_depth=1, camera_dim=8,
)  # fmt: skip


@functools.cache
def small():
    model: Any = create_model("pi3-l14", **SMALL)
    params = drawn("pi3-l14", 0.2, **SMALL)
    both = jax.jit(lambda v, x: (model.apply(v, x, method="raw"), model.apply(v, x)))
    return model, params, both


def test_pi3_is_its_projects(tmp_path):
    (row,) = (row for row in ROWS if row.name == "pi3-l14")
    check(row, measure(row, tmp_path))


@pytest.mark.slow
def test_another_order_of_the_views_is_another_order_of_the_answers():
    _, params, both = small()
    frames, order = images(28, 42, batch=1, frames=3), [2, 0, 1]
    (raw, out), (turned, _) = both(params, frames), both(params, frames[:, order])
    for ours, other in zip(raw, turned, strict=True):
        np.testing.assert_allclose(ours[:, order], other, atol=1e-4)
    assert np.abs(np.asarray(raw.local[:, 0] - raw.local[:, 1])).max() > 1e-2
    # the world of the answer is the first view's camera
    np.testing.assert_allclose(out.points[:, 0], raw.local[:, 0], atol=1e-4)
    np.testing.assert_allclose(out.camera[:, 0, :7], [[0, 0, 0, 0, 0, 0, 1]], atol=1e-5)
    extrinsic, focal = pose_code.decode(out.camera, (28, 42))
    for view in (1, 2):  # and each camera sees the points of the world where it has them itself
        turn, place = extrinsic[0, view, :, :3], extrinsic[0, view, :, 3]
        seen = np.asarray(out.points[0, view]) @ np.asarray(turn).T + np.asarray(place)
        np.testing.assert_allclose(seen, raw.local[0, view], atol=1e-4)
    np.testing.assert_allclose(focal[..., 0], focal[..., 1], rtol=1e-5)
    assert (np.asarray(out.certainty) > 1).all() and not np.asarray(out.metric).any()


def test_rotations_are_the_nearest_and_never_mirror():
    x = np.random.default_rng(0).normal(size=(20, 3, 3)).astype(np.float32)
    turn = np.asarray(nearest_rotation(jnp.asarray(x)))
    np.testing.assert_allclose(
        turn @ turn.swapaxes(-1, -2), np.eye(3)[None].repeat(20, 0), atol=1e-5
    )
    np.testing.assert_allclose(np.linalg.det(turn), 1.0, atol=1e-5)
    np.testing.assert_allclose(nearest_rotation(turn), turn, atol=1e-5)


@pytest.mark.parametrize("what", ["nothing in front", "one point", "all at one depth", "beside"])
def test_a_lens_that_cannot_be_told_is_an_ordinary_one(what):
    """Missing intrinsics: where the points tell nothing, a view of 60 degrees, and never NaN."""
    ordinary = 42 / 2 / np.tan(np.deg2rad(30))
    points = np.zeros((28, 42, 3), np.float32)
    if what == "one point":
        points[14, 21] = (0.0, 0.0, 2.0)
    elif what == "all at one depth":
        points = np.asarray(unproject(np.full((28, 42), 3.0, np.float32), np.asarray([40.0, 40.0])))
    elif what == "beside":
        points[..., 0] = 1.0  # depth 0: the plane of the camera itself
    focal = float(focal_by_weiszfeld(jnp.asarray(points)))
    assert focal == pytest.approx(40.0 if what == "all at one depth" else ordinary, rel=1e-3)
    again = unproject(np.asarray(points[..., 2]), jnp.asarray([focal, focal]))
    assert np.isfinite(again).all()


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="all as wide, a multiple of 4"):
        Pi3Config(head_heads=8)
    with pytest.raises(ValueError, match="the blocks 512"):
        Pi3Config(dim=512, heads=8)
    model, params, _ = small()
    with pytest.raises(ValueError, match="multiples of 14"):
        model.apply(params, np.zeros((1, 1, 28, 41, 3), np.float32))
    tensors = draw(read("pi3")[0], SPECIAL)
    odd = {k: v for k, v in tensors.items() if not k.startswith("decoder.3.")}
    with pytest.raises(ConvertError, match="3 blocks, which is no even number"):
        detect_converter(odd).plan(odd, None)
