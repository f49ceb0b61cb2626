"""Packed frames of several shapes; parity with the reference is tests/parity/rows_encode.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.positions import resample_table, resize_matrix
from streamzoo.zoo.encode.siglip.naflex import encode_packed, fit, pack, positions
from streamzoo.zoo.encode.vit import ImageViT, ImageViTConfig

CONFIG = ImageViTConfig(
    image_size=(16, 16), patch=4, dim=16, depth=1, heads=2, class_tokens=0, class_position=False,
    pool="map", resize="bilinear-aa",
)  # fmt: skip
RNG = np.random.default_rng(0)


def test_sizes_keep_the_proportions():
    assert fit(480, 640, 16, 256) == (224, 288)
    assert fit(64, 64, 16, 16) == (64, 64) and fit(1, 1000, 16, 5) == (16, 80)
    for h, w in RNG.integers(8, 900, (40, 2)).tolist():
        rows, cols = (side // 16 for side in fit(h, w, 16, 256))
        assert rows * cols <= 256
        # no larger scale would do: one more step of either side is too many
        more = [(rows + 1, -(-(rows + 1) * w // h)), (-(-(cols + 1) * h // w), cols + 1)]
        assert all(r * c > 256 for r, c in more)
    with pytest.raises(ValueError, match="at least 1"):
        fit(0, 5, 16, 256)


@pytest.mark.slow  # long to import
def test_sizes_are_those_of_transformers():
    sizes = pytest.importorskip("transformers.models.siglip2.image_processing_siglip2")
    for h, w in RNG.integers(8, 900, (40, 2)).tolist():
        want = sizes.get_image_size_for_max_num_patches(h, w, 16, 256)
        assert fit(h, w, 16, 256) == want


def test_traced_positions_are_the_resized_table():
    table = RNG.normal(size=(4, 4, 3)).astype(np.float32)
    shapes = np.asarray([[4, 4], [2, 7], [9, 1]], np.int32)
    got = jax.jit(positions, static_argnums=2)(table, shapes, 16)
    for found, (rows, cols) in zip(got, shapes, strict=False):
        down, across = (resize_matrix(4, n, "bilinear", True) for n in (rows, cols))
        want = resample_table(jnp.asarray(table), down, across).reshape(rows * cols, 3)
        np.testing.assert_allclose(found[: rows * cols], want, atol=1e-6)


def test_a_frame_of_a_batch_is_as_alone():
    model = ImageViT(CONFIG)
    frames = [RNG.normal(size=(*s, 3)).astype(np.float32) for s in ((16, 16), (8, 20), (24, 8))]
    patches, shapes = pack(frames, 4, 18)
    made = jax.eval_shape(model.init, jax.random.key(1), frames[1][None])
    variables = jax.tree.map(lambda a: RNG.normal(size=a.shape).astype(np.float32) / 4, made)
    packed = jax.jit(lambda p, s: model.apply(variables, p, s, method=encode_packed))
    counts = shapes.prod(axis=1)
    patches[np.arange(18) >= counts[:, None]] = np.nan  # padding
    out = packed(patches, shapes)
    alone = jax.jit(model.apply)(variables, frames[1][None])
    np.testing.assert_allclose(out.pooled[1], alone.pooled[0], atol=1e-5)
    want = np.asarray(alone.features[0]).reshape(10, -1)
    np.testing.assert_allclose(out.features[1, :10], want, atol=1e-5)
    assert not np.asarray(out.features[1, 10:]).any()
    turned = packed(patches[::-1], shapes[::-1])
    np.testing.assert_allclose(turned.pooled[::-1], out.pooled, atol=1e-5)
    assert packed._cache_size() == 1


def test_wrong_packing_is_named():
    for frame in (np.zeros((18, 16, 3)), np.zeros((16, 16)), np.zeros((40, 40, 3))):
        with pytest.raises(ValueError, match="frame 0 is .*resize it to fit"):
            pack([frame], 4, 16)
    patches, shapes = np.zeros((2, 5, 48), np.float32), np.ones((2, 2), np.int32)
    for config, given, words in (
        (CONFIG, (patches[..., 1:], shapes), r"\[B, N, 48\]"),
        (CONFIG, (patches, shapes[:1]), r"\[B, 2\]"),
        (CONFIG, (patches.astype(int), shapes), "normalised floats"),
        (ImageViTConfig(), (patches, shapes), "siglip2"),
    ):
        with pytest.raises(ValueError, match=words):
            ImageViT(config).apply({"params": {}}, *given, method=encode_packed)
