"""Depth Pro: pieces, and all of it against transformers' class at a tiny size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.zoo.depth.decoder import resize_linear
from streamzoo.zoo.depth.pro.model import DepthPro, DepthProConfig
from streamzoo.zoo.depth.pro.pieces import cut, joined
from streamzoo.zoo.encode.vit import ImageViTConfig

ENCODER = ImageViTConfig((32, 32), 8, 16, 3, 2, table_grid=(4, 4), pool="none")
TINY = DepthProConfig(
    ENCODER, 128, scaled=(8, 8, 8), hooks=(1, 0), between=(8, 8), fused=8, padding=1, fov_layers=1
)


def test_pieces_that_overlap_make_the_picture_again():
    """Half of a piece is in the next one, too; a quarter of it is cut off each edge."""
    picture = jnp.arange(2 * 16 * 16 * 3, dtype=jnp.float32).reshape(2, 16, 16, 3)
    pieces = cut(picture, 8, 0.5)
    assert pieces.shape == (9, 2, 8, 8, 3)
    np.testing.assert_array_equal(joined(pieces, 2), picture)
    np.testing.assert_array_equal(joined(pieces, 99), picture)  # never more than a quarter
    assert joined(pieces, 0).shape == (2, 24, 24, 3)
    plain = cut(picture, 8, 0.0)
    np.testing.assert_array_equal(joined(plain, 0), picture)
    whole = cut(picture, 16, 0.25)
    np.testing.assert_array_equal(joined(whole, 3), picture)


@pytest.mark.slow
def test_the_view_makes_metres_and_frames_of_any_size_are_taken():
    model = DepthPro(TINY)
    frames = jax.random.normal(jax.random.key(0), (1, 1, 128, 128, 3))
    variables = jax.jit(model.init)(jax.random.key(1), (), frames)
    variables["params"]["conv3"]["bias"] += 1.0
    variables["params"]["view"]["last"]["bias"] += 60.0
    _, out = jax.jit(model.apply)(variables, (), frames)
    inverse, view = model.apply(variables, frames[0], method="canonical")
    assert bool(out.metric.all()) and bool(jnp.isfinite(out.depth).all())
    share = 2 * np.tan(np.deg2rad(np.asarray(view)) / 2)
    there = resize_linear(inverse[..., None], (128, 128))[..., 0] * share[:, None, None]
    np.testing.assert_allclose(out.depth[0], 1 / np.clip(there, 1e-4, 1e4), rtol=1e-3)
    _, other = jax.jit(model.apply)(variables, (), frames[:, :, :100, :60])
    assert other.depth.shape == (1, 1, 100, 60)
    blind = DepthPro(DepthProConfig(**{**vars(TINY), "fov": False}))
    params = {k: v for k, v in variables["params"].items() if k != "view"}
    assert not blind.apply({"params": params}, (), frames)[1].metric.any()


def test_shapes_that_cannot_be_are_refused():
    for changes, told in (
        ({"size": 64}, "smaller than a piece"),
        ({"hooks": (1,)}, "one width for each"),
        ({"overlaps": (0.0,)}, "one overlap"),
    ):
        with pytest.raises(ValueError, match=told):
            DepthProConfig(**{**vars(TINY), **changes})


@pytest.mark.slow
def test_depth_pro_is_transformers(tmp_path):
    pytest.importorskip("torch")
    from tests.parity.harness import check, measure
    from tests.parity.rows_depth import ROWS

    for n, row in enumerate(row for row in ROWS if row.name.startswith("depthpro")):
        check(row, measure(row, tmp_path / str(n)))
